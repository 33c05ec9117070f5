"""The latent student: the teacher at the start, one law for drawing and scoring, saved whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from registry_laws import p_value

from fewjump.checkpoint import load, save
from fewjump.denoiser import LatentHead, NetworkDenoiser
from fewjump.law import LatentLaw
from fewjump.law.latent import (
    DiscreteLatent,
    GaussianLatent,
    LatentProduct,
    PositionLatent,
    straight_through,
    unit_kl,
)
from fewjump.law.product import ProductLaw
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.sampler import run
from fewjump.schedule import LogLinear

V, L = 4, 3
TRUNK = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}
SMALL = {"width": 8, "encoder_width": 8, "particles": 8}
KINDS: dict[str, dict[str, Any]] = {
    "category": {"categories": 5},
    "templates": {"categories": 5, "length": L},
    "normal": {"categories": 0, "size": 2},
    "position-category": {"categories": 0, "position_categories": 3},
    "position-normal": {"categories": 0, "position_size": 2, "length": L},
    "all": {"categories": 2, "size": 1, "position_categories": 2, "position_size": 1},
}
every_kind = pytest.mark.parametrize("kind", sorted(KINDS))
every_process = pytest.mark.parametrize(
    "process", [Uniform(V, LogLinear()), Absorbing(V, LogLinear())], ids=["uniform", "absorbing"]
)


def network(process: Process, head: dict[str, Any], **options: Any) -> NetworkDenoiser:
    config = {"process": process.config(), "trunk": TRUNK, "length": L, **options}
    return NetworkDenoiser.from_config({**config, "head": head})


def student(process: Process, kind: str, **options: Any) -> NetworkDenoiser:
    return network(process, {"kind": "latent", **SMALL, **KINDS[kind], **options})


def scramble(denoiser: NetworkDenoiser, seed: int = 0) -> NetworkDenoiser:
    """As after training: no parameter is zero."""
    generator = generator_for(seed)
    for parameter in denoiser.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    return denoiser


def states(process: Process, batch: int = 4) -> Tensor:
    x_t = torch.randint(V - 1, (batch, L), generator=generator_for(1))
    if isinstance(process, Absorbing):
        x_t[:, 1:] = process.mask
        x_t[0] = process.mask
    return x_t


# -- the start ------------------------------------------------------------------------------------


@every_kind
@every_process
def test_the_student_starts_as_the_teacher(kind: str, process: Process) -> None:
    torch.manual_seed(0)
    teacher = scramble(network(process, {"kind": "product"}))
    model = student(process, kind)
    model.warm_start(teacher)
    x_t = states(process)
    with torch.no_grad():
        expected, law = teacher(x_t, 0.6), model(x_t, 0.6)
        x0 = expected.sample(generator_for(2))
        torch.testing.assert_close(law.log_prob(x0), expected.log_prob(x0), atol=1e-5, rtol=0)
        torch.testing.assert_close(law.marginals(), expected.marginals(), atol=1e-5, rtol=0)
        # For every single z, not only on average.
        assert isinstance(law, LatentLaw)
        given_z = law.decode(law.prior.sample(generator_for(3)), law.rows)
        torch.testing.assert_close(given_z.log_prob(x0), expected.log_prob(x0), atol=1e-5, rtol=0)
    # And it can leave: the first gradient tells values of z apart.
    model(x_t, 0.6).log_prob(x0).sum().backward()
    assert isinstance(model.head, LatentHead)
    assert bool(model.head.entry.out.weight.grad.any())  # type: ignore[union-attr]


def test_without_an_encoder_the_values_of_z_may_start_apart() -> None:
    """By a share of a fresh head's; the trunk and what reads it are the teacher's."""
    torch.manual_seed(0)
    process = Absorbing(V, LogLinear())
    teacher = scramble(network(process, {"kind": "product"}))
    x_t = states(process)

    def away(share: float) -> float:
        torch.manual_seed(0)
        head = {"kind": "latent", "categories": 0, "size": 4, "encoder": False}
        model = network(process, {**head, "warm_spread": share})
        model.warm_start(teacher)
        with torch.no_grad():
            law = model(x_t, 0.6)
            assert isinstance(law, LatentLaw)
            told = law.decode(law.prior.sample(generator_for(3)), law.rows).marginals()
            return float((told - teacher(x_t, 0.6).marginals()).abs().max())

    assert away(0.0) < 1e-6
    assert 0.01 < away(0.3) < 0.7 * away(1.0)


def test_a_low_precision_trunk_runs_in_its_precision_when_the_law_is_asked() -> None:
    process = Absorbing(V, LogLinear())
    for autocast, dtype in ((None, torch.float32), ("bfloat16", torch.bfloat16)):
        model = scramble(student(process, "category"))
        model.autocast = autocast  # type: ignore[assignment]
        law = model(states(process), 0.5)
        assert isinstance(law, LatentLaw)
        decoded = law.decode(torch.zeros(4, dtype=torch.int64), law.rows)
        assert decoded.logits.dtype == dtype  # type: ignore[attr-defined]
        assert decoded.logits.requires_grad  # type: ignore[attr-defined]
    plain = scramble(student(process, "category"))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        law = plain(states(process), 0.5)
    decoded = law.decode(torch.zeros(4, dtype=torch.int64), law.rows)  # type: ignore[attr-defined]
    assert decoded.logits.dtype == torch.bfloat16
    assert not decoded.logits.requires_grad


# -- one law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["category", "templates"])
@every_process
def test_draws_of_a_category_follow_the_log_probability(kind: str, process: Process) -> None:
    torch.manual_seed(0)
    model = scramble(student(process, kind)).double()
    assert isinstance(model.head, LatentHead)
    model.head.entry.out.weight.data *= 10
    model.head.prior.weights.out.weight.data *= 0.1
    x_t = states(process, 2)
    with torch.no_grad():
        law = model(x_t, 0.7)
        probability = law.enumerate().exp()
        ones = torch.ones(2, dtype=torch.float64)
        torch.testing.assert_close(probability.sum(-1), ones, atol=1e-10, rtol=0)
        # No product law: there is something to get wrong.
        product = ProductLaw(law.marginals().log()).enumerate().exp()
        assert float((product - probability).abs().sum(-1).amax()) > 0.05
        for row in range(2):
            copies = law.select(torch.full((20_000,), row))
            x0 = copies.sample(generator_for(7, row))
            index = (x0 * V ** torch.arange(L - 1, -1, -1)).sum(-1)
            counts = torch.bincount(index, minlength=V**L)
            assert p_value(counts, probability[row]) > 1e-4
    if isinstance(process, Absorbing):
        visible = x_t != process.mask
        assert torch.equal(law.sample(generator_for(0))[visible], x_t[visible])


def test_draws_of_a_normal_latent_follow_the_integral() -> None:
    torch.manual_seed(0)
    process = Uniform(V, LogLinear())
    model = scramble(student(process, "normal", size=1)).double()
    x_t = states(process, 1)
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2) / (2 * torch.pi) ** 0.5 * (z[1] - z[0])
    with torch.no_grad():
        law = model(x_t, 0.7)
        assert isinstance(law, LatentLaw)
        each = law.decode(z[:, None], torch.zeros(len(z), dtype=torch.int64)).enumerate().exp()
        probability = (weight[:, None] * each).sum(0)
        x0 = law.select(torch.zeros(20_000, dtype=torch.int64)).sample(generator_for(7))
    counts = torch.bincount((x0 * V ** torch.arange(L - 1, -1, -1)).sum(-1), minlength=V**L)
    assert p_value(counts, probability / probability.sum()) > 1e-4


@every_kind
def test_an_answer_does_not_depend_on_the_rows_beside_it(kind: str) -> None:
    process = Absorbing(V, LogLinear())
    model = scramble(student(process, kind)).double()
    x_t = states(process)
    x0 = torch.where(x_t == process.mask, 1, x_t)
    with torch.no_grad():
        whole = model(x_t, 0.5)
        parts = [model(x_t[i : i + 2], 0.5) for i in (0, 2)]
        halves = torch.cat([law.log_prob(x0[i : i + 2]) for law, i in zip(parts, (0, 2))])
        torch.testing.assert_close(halves, whole.log_prob(x0))
        torch.testing.assert_close(torch.cat([law.marginals() for law in parts]), whole.marginals())
        streams = [SampleStreams(3, torch.arange(i, i + 2)) for i in (0, 2)]
        drawn = torch.cat([law.sample(s) for law, s in zip(parts, streams)])
        assert torch.equal(drawn, whole.sample(SampleStreams(3, torch.arange(4))))


@every_kind
def test_tokens_that_a_mask_leaves_visible_may_be_given(kind: str) -> None:
    process = Absorbing(V, LogLinear())
    model = scramble(student(process, kind)).eval()
    x_t = states(process)
    visible = x_t != V - 1
    with torch.no_grad():
        law = model(x_t, 0.6)
        assert isinstance(law, LatentLaw)
        given = law.given(x_t, visible)
        x0 = law.sample(generator_for(2))
        torch.testing.assert_close(given.log_prob(x0), law.log_prob(x0))
        if kind in ("category", "templates"):
            # By Bayes' rule over the values of z.
            bayes = law.exact().given(x_t, visible)
            torch.testing.assert_close(given.log_prob(x0), bayes.log_prob(x0))
            hidden = torch.ones_like(visible)
            assert bool((law.given(x0, hidden).sample(generator_for(3)) == x0).all())
        else:
            with pytest.raises(ValueError, match="continuous latent cannot be summed out"):
                law.given(x0, torch.ones_like(visible))
    options: dict[str, Any] = {"prompt": torch.tensor([1, 0, 2])}
    options["fixed"] = torch.tensor([True, False, True])
    for sampler in ("ancestral", "held-latent"):
        drawn = run(model, 9, 2, sampler, generator=0, batch_size=9, **options).samples
        assert set(drawn[:, 0].tolist()) == {1}
        assert set(drawn[:, 2].tolist()) == {2}
        split = run(model, 9, 2, sampler, generator=0, batch_size=4, **options).samples
        assert torch.equal(split, drawn)


def test_a_draw_costs_one_run_of_the_trunk() -> None:
    model = student(Uniform(V, LogLinear()), "category")
    runs = []
    model.trunk.register_forward_hook(lambda *_: runs.append(0))
    original = model.trunk.features
    model.trunk.features = lambda *a: (runs.append(a[0].shape[0]), original(*a))[1]  # type: ignore
    model(states(model.process), 0.5).sample(generator_for(0))
    assert runs == [4]


def test_the_prior_is_sharpened_with_the_rest() -> None:
    model = scramble(student(Uniform(V, LogLinear()), "all"))
    law = model(states(model.process), 0.5).tempered(0.0)
    a, b = law.sample(generator_for(0)), law.sample(generator_for(1))
    assert a.shape == b.shape == (4, L)
    assert isinstance(law, LatentLaw)
    assert isinstance(law.prior, LatentProduct)
    category = law.prior.parts[0]
    assert isinstance(category, DiscreteLatent)
    assert bool((category.logits.softmax(-1).amax(-1) == 1).all())


# -- latents --------------------------------------------------------------------------------------


def test_categories_of_positions_against_brute_force() -> None:
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator_for(0))
    q, p = PositionLatent(logits), PositionLatent(logits.flip(0))
    weight, other = logits.softmax(-1), logits.flip(0).softmax(-1)
    torch.testing.assert_close(q.kl(p), (weight * (weight / other).log()).sum(-1))
    z = torch.tensor([[0, 3, 1], [2, 2, 0]])
    expected = weight.gather(-1, z[..., None])[..., 0].log().sum(-1)
    torch.testing.assert_close(q.log_prob(z), expected)
    draws = q.select(torch.zeros(20_000, dtype=torch.int64)).sample(generator_for(1))
    for i in range(3):
        assert p_value(torch.bincount(draws[:, i], minlength=4), weight[0, i]) > 1e-4


def test_several_latents_are_one() -> None:
    generator = generator_for(0)
    normal = GaussianLatent(torch.randn(5, 2, generator=generator), torch.zeros(5, 2))
    category = DiscreteLatent(torch.randn(5, 3, generator=generator))
    positions = PositionLatent(torch.randn(5, L, 2, generator=generator))
    whole = LatentProduct([category, normal, positions])
    z = whole.sample(generator_for(1))
    k, x, each = whole.unpack(z)
    assert (k.shape, x.shape, each.shape) == ((5,), (5, 2), (5, L))
    assert k.dtype == each.dtype == torch.int64
    total = category.log_prob(k) + normal.log_prob(x) + positions.log_prob(each)
    torch.testing.assert_close(whole.log_prob(z), total)
    soft = whole.unpack(whole.relaxed(generator_for(1)))
    assert [tuple(s.shape) for s in soft] == [(5, 3), (5, 2), (5, L, 2)]
    torch.testing.assert_close(soft[2].sum(-1), torch.ones(5, L))
    rows = torch.tensor([3, 1])
    torch.testing.assert_close(whole.select(rows).log_prob(z[rows]), total[rows])
    standard = LatentProduct(
        [
            DiscreteLatent(torch.zeros(5, 3)),
            GaussianLatent.standard((5, 2)),
            PositionLatent(torch.zeros(5, L, 2)),
        ]
    )
    kl = unit_kl(whole, standard)
    assert kl.shape == (5, 1 + 2 + L)
    assert float(kl.min()) >= 0
    assert float(unit_kl(whole, whole).abs().max()) < 1e-6
    with pytest.raises(TypeError, match="no KL"):
        unit_kl(category, normal)


def test_straight_through_draws_are_exact_and_pass_gradients() -> None:
    logits = torch.tensor([1.0, -0.5, 0.3], requires_grad=True)
    hard = straight_through(logits.expand(30_000, 3), generator_for(0))
    counts = hard.detach().round().sum(0).long()
    assert p_value(counts, logits.detach().double().softmax(-1)) > 1e-4
    assert float((hard.detach() - hard.detach().round()).abs().max()) < 1e-6
    (hard @ torch.tensor([1.0, 2.0, 4.0])).mean().backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().min()) > 0
    torch.testing.assert_close(logits.grad.sum(), torch.tensor(0.0), atol=1e-5, rtol=0)


# -- kept -----------------------------------------------------------------------------------------


@every_kind
def test_a_saved_student_needs_no_encoder_and_answers_the_same(kind: str, tmp_path: Path) -> None:
    process = Absorbing(V, LogLinear())
    model = scramble(student(process, kind)).eval()
    save(model.for_sampling(), tmp_path / "model")
    assert not [n for n in load_file(tmp_path / "model/model.safetensors") if "encoder" in n]
    loaded = load(tmp_path / "model")
    x_t, x0 = torch.full((2, L), process.mask), torch.zeros(2, L, dtype=torch.int64)
    with torch.no_grad():
        assert torch.equal(loaded(x_t, 0.5).log_prob(x0), model(x_t, 0.5).log_prob(x0))
    assert isinstance(loaded.head, LatentHead)
    with pytest.raises(ValueError, match="no encoder"):
        loaded.head.encode(x0, x_t, torch.ones(2))
    # It can be trained on: a student with a fresh encoder takes over the rest.
    again = student(process, kind)
    assert isinstance(loaded, NetworkDenoiser)
    again.warm_start(loaded)
    with torch.no_grad():
        assert torch.equal(again(x_t, 0.5).log_prob(x0), model(x_t, 0.5).log_prob(x0))
    # With its encoder, everything comes back.
    save(model, tmp_path / "whole")
    whole = load(tmp_path / "whole")
    assert whole.state_dict().keys() == model.state_dict().keys()
    twin = student(process, kind)
    assert isinstance(whole, NetworkDenoiser)
    twin.warm_start(whole)
    assert all(torch.equal(twin.state_dict()[n], v) for n, v in model.state_dict().items())


def test_a_saved_student_still_leaves_one_out(tmp_path: Path) -> None:
    process = Uniform(V, LogLinear())
    head = {"kind": "latent", **SMALL, **KINDS["category"]}
    model = scramble(network(process, head, leave_one_out=True)).eval()
    save(model.for_sampling(), tmp_path / "model")
    loaded, x_t = load(tmp_path / "model"), states(process)
    with torch.no_grad():
        found, expected = loaded(x_t, 0.5).marginals(), model(x_t, 0.5).marginals()
        assert torch.equal(found, expected)
        plain = NetworkDenoiser(model.trunk, model.head, process, L)
        assert float((plain(x_t, 0.5).marginals() - expected).abs().max()) > 0.1


def test_sequences_of_another_length_than_the_templates_are_refused() -> None:
    model = student(Absorbing(V, LogLinear()), "all", length=L)
    assert isinstance(model.head, LatentHead)
    longer = torch.zeros(2, L + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"built for length={L}, got sequences of {L + 1}"):
        model.head.encode(longer, longer, torch.ones(2))


def test_a_fresh_process_computes_the_same_bits(tmp_path: Path) -> None:
    process = Absorbing(V, LogLinear())
    model = scramble(student(process, "all")).eval()
    save(model.for_sampling(), tmp_path / "model")
    x_t = torch.full((3, L), process.mask)
    with torch.no_grad():
        law = model(x_t, 0.5)
        expected = {"marginals": law.marginals(), "x0": law.sample(generator_for(0))}
    save_file(expected, tmp_path / "expected.safetensors")
    script = """
import sys, torch
from safetensors.torch import load_file
import fewjump
from fewjump.random import generator_for
torch.set_num_threads(1)
model = fewjump.load(sys.argv[1] + "/model")
expected = load_file(sys.argv[1] + "/expected.safetensors")
with torch.no_grad():
    law = model(torch.full((3, 3), 3), 0.5)
    assert torch.equal(law.marginals(), expected["marginals"])
    assert torch.equal(law.sample(generator_for(0)), expected["x0"])
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_other_sizes_are_not_taken_over() -> None:
    process = Uniform(V, LogLinear())
    with pytest.raises(ValueError, match="own kind and sizes"):
        student(process, "category").warm_start(student(process, "normal"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"categories": 0}, "needs a latent"),
        ({"warm_spread": -1.0}, "warm_spread"),
        ({"categories": 1}, "at least 2"),
        ({"size": -1}, "size"),
        ({"width": 0}, "width"),
        ({"particles": 0}, "particles"),
    ],
    ids=str,
)
def test_mistakes_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LatentHead(8, V, **options)


def test_templates_are_of_one_length() -> None:
    model = student(Uniform(V, LogLinear()), "templates")
    with pytest.raises(ValueError, match="built for length=3"):
        model(torch.zeros(1, L + 1, dtype=torch.int64), 0.5).sample()
    assert isinstance(model.head, nn.Module)
