"""Latent matching: the bound against enumeration, and the floor left behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import fewjump
from fewjump.commands.arguments import parse
from fewjump.commands.distill import Options, objective_of
from fewjump.denoiser import LatentHead, NetworkDenoiser
from fewjump.law import DiscreteLatent, LatentLaw, Law, ProductLaw
from fewjump.law.base import enumerate_states, ravel
from fewjump.objective import JointConditionalMatching, LatentMatching, freeze
from fewjump.objective.latent import summed
from fewjump.problem import EnumeratedJoint, copy
from fewjump.process import Absorbing, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train

V, L = 4, 3
PROBLEM = copy(V, L)
MASKED = Absorbing(V + 1, LogLinear())
FLAT = Uniform(V, LogLinear())
TRUNK = {
    "hidden": 16,
    "blocks": 1,
    "heads": 2,
    "condition_dim": 8,
    "conv_kernel": 3,
    "time_conditioned": False,
}


def student(process: Any = MASKED, **head: Any) -> NetworkDenoiser:
    torch.manual_seed(0)
    small = {"kind": "latent", "width": 32, "encoder_width": 32}
    config = {"process": process.config(), "trunk": TRUNK, "length": L}
    return NetworkDenoiser.from_config({**config, "head": {**small, **head}})


def disturbed(model: NetworkDenoiser, size: float = 0.3) -> NetworkDenoiser:
    generator = generator_for(4)
    for parameter in model.parameters():
        parameter.data += size * torch.randn(parameter.shape, generator=generator)
    return model


def test_one_step_leaves_the_floor_behind() -> None:
    teacher = freeze(PROBLEM.denoiser(MASKED))
    # Four values would do. With twice as many, rounding decides whether two of them stay mixed.
    model = student(categories=16)
    config = TrainConfig(steps=250, batch_size=32, lr=5e-3, warmup=20, ema=0.98, progress=False)
    objective = LatentMatching(near=0.1, steps=1, kl_warmup=60)
    data = PROBLEM.sample(20_000, generator_for(1))
    result = train(model, objective, data, config, teacher=teacher)
    with torch.no_grad():
        law = result.averaged()(torch.full((1, L), MASKED.mask), 1.0)
        tokens = torch.arange(V)[:, None].expand(V, L)
        log_prob = torch.cat([law.log_prob(x[None]) for x in tokens])
    excess = float((-math.log(V) - log_prob).mean())
    assert excess < 0.05 * PROBLEM.one_step_floor()
    assert result.metrics["kl"] == pytest.approx(math.log(V), abs=0.15)
    assert result.metrics["active_units"] == 1
    assert result.metrics["codes_used"] >= V - 0.1
    assert result.metrics["kl_weight"] == 1
    assert result.metrics["gain_over_product"] > 0.8 * PROBLEM.one_step_floor()


# -- the bound ------------------------------------------------------------------------------------


def exact_cross_entropy(law: LatentLaw, target: ProductLaw) -> Tensor:
    """−Σ_{x₀} target(x₀)·log p(x₀) by enumeration: (B,)."""
    weight = target.enumerate().exp()
    log_prob = law.enumerate().masked_fill(weight == 0, 0.0)
    return -(weight * log_prob).sum(-1)


@pytest.mark.parametrize("process", [FLAT, MASKED], ids=["uniform", "absorbing"])
def test_the_bound_of_a_category_is_above_the_joint_cross_entropy(process: Any) -> None:
    model = disturbed(student(process, categories=4)).double()
    teacher = freeze(PROBLEM.denoiser(process))
    x0 = PROBLEM.sample(6, generator_for(0))
    x_s = process.corrupt(x0, 0.0, 0.3, generator_for(1))
    x_t = process.corrupt(x_s, 0.3, 0.8, generator_for(2))
    with torch.no_grad():
        law, target = model(x_t, 0.8), teacher(x_s, 0.3)
        assert isinstance(law, LatentLaw)
        assert isinstance(law.prior, DiscreteLatent)
        best, fit = summed(
            law, lambda given, rows: given.cross_entropy(target.select(rows))[:, None]
        )
        bound = fit[:, 0] + best.kl(law.prior)
        exact = exact_cross_entropy(law, target)
        assert float((bound - exact).min()) > -1e-9
        assert float((bound - exact).max()) > 1e-4
        # The best q is the best: the encoder's, or any other, gives no lower bound.
        assert isinstance(model.head, LatentHead)
        level = process.schedule.sigma_bar(torch.full((6,), 0.8, dtype=torch.float64))
        encoded = model.head.encode(x_s, x_t, level)
        assert isinstance(encoded, DiscreteLatent)
        each = torch.stack(
            [law.decode(torch.full((6,), k), law.rows).cross_entropy(target) for k in range(4)],
            -1,
        )
        for q in (encoded, DiscreteLatent(torch.zeros(6, 4).double()), best):
            value = (q.logits.softmax(-1) * each).sum(-1) + q.kl(law.prior)
            assert float((value - bound).min()) > -1e-9
        # With x₀ certain given x_s it is no bound but the thing itself.
        certain = ProductLaw(torch.nn.functional.one_hot(x0, target.vocab_size).double().log())

        def both(given: Law, rows: Tensor | None) -> Tensor:
            fit = given.cross_entropy(certain.select(rows))
            return torch.stack([fit, -given.log_prob(x0[rows])], -1)

        best, fits = summed(law, both)
        torch.testing.assert_close(fits[:, 0] + best.kl(law.prior), -law.log_prob(x0))
        torch.testing.assert_close(fits[:, 1], fits[:, 0])


@pytest.mark.parametrize("estimator", ["sum", "sample"])
def test_the_metrics_are_those_of_the_bound(estimator: Any) -> None:
    """On average the bound lies above the joint objective on the same path."""
    model = disturbed(student(categories=4))
    teacher = freeze(PROBLEM.denoiser(MASKED))
    batch = PROBLEM.sample(2_000, generator_for(0))
    both = []
    for objective in (
        LatentMatching(near=0.3, estimator=estimator, free_bits=3.0),
        JointConditionalMatching(near=0.3, draws=4),
    ):
        with torch.no_grad():
            both.append(objective(model, teacher, batch, generator_for(1))[1])
    bound, joint = both
    assert float(bound["cross_entropy"]) > float(joint["cross_entropy"]) - 0.02
    total = float(bound["reconstruction"]) + float(bound["kl"]) / L
    assert total == pytest.approx(float(bound["cross_entropy"]), abs=1e-5)
    assert float(bound["kl_bits"]) == pytest.approx(float(bound["kl"]) / math.log(2))


def test_a_latent_that_is_summed_out_is_not_drawn() -> None:
    teacher = freeze(PROBLEM.denoiser(MASKED))
    one, several = student(categories=4), student(position_categories=4)
    for estimator in ("auto", "sum"):
        objective = LatentMatching(draws=2, estimator=estimator)
        with pytest.raises(ValueError, match=r"summed out over its 4 values.*leave draws at 1"):
            objective.check(one, teacher)
    LatentMatching(draws=2, estimator="sample").check(one, teacher)
    LatentMatching(draws=2).check(several, teacher)


# -- free bits, warm-up ---------------------------------------------------------------------------


def encoder_gradient(model: NetworkDenoiser, objective: LatentMatching) -> tuple[float, float]:
    """Loss, and size of the gradient of a decoder that ignores z with respect to the encoder."""
    teacher = freeze(PROBLEM.denoiser(MASKED))
    assert isinstance(model.head, LatentHead)
    assert model.head.encoder is not None
    model.head.entry.out.weight.data.zero_()
    model.zero_grad()
    batch = PROBLEM.sample(32, generator_for(0))
    loss, _ = objective(model, teacher, batch, generator_for(1))
    loss.backward()
    grads = [p.grad for p in model.head.encoder.parameters() if p.grad is not None]
    return float(loss.detach()), max(float(g.abs().max()) for g in grads)


def test_free_bits_are_free_and_the_warm_up_begins_at_nothing() -> None:
    model = disturbed(student(categories=0, size=2))
    plain, pull = encoder_gradient(model, LatentMatching(near=0.3))
    assert pull > 1e-3
    free, none = encoder_gradient(model, LatentMatching(near=0.3, free_bits=100.0))
    assert none < 1e-9
    objective = LatentMatching(near=0.3, kl_warmup=10)
    losses = []
    for step in (0, 5, 10, 400):
        objective.begin_step(step)
        losses.append(encoder_gradient(model, objective))
    assert losses[0][1] < 1e-9
    assert losses[1][1] == pytest.approx(pull / 2, rel=1e-3)
    assert losses[2] == losses[3] == (plain, pull)
    half = (losses[0][0] + plain) / 2
    assert losses[1][0] == pytest.approx(half, rel=1e-5)
    assert free == pytest.approx(losses[0][0] + 100.0 / L, rel=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        {"categories": 4},
        {"categories": 0, "size": 2},
        {"categories": 2, "size": 1, "position_categories": 3, "position_size": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("intermediate", ["forward", "student", "teacher-rollout"])
def test_every_latent_trains_and_the_batch_may_be_split(head: Any, intermediate: Any) -> None:
    model = disturbed(student(**head)).double()
    # Full support: an untrained student may draw what the copy problem's teacher never saw.
    problem = EnumeratedJoint.random(V, L, generator=generator_for(2))
    teacher = freeze(problem.denoiser(MASKED))
    weight = 0.0 if intermediate == "teacher-rollout" else 0.5
    objective = LatentMatching(
        intermediate, near="adaptive", data_weight=weight, free_bits=0.1, rollout_steps=2
    )
    objective.check(model, teacher)
    batch = problem.sample(8, generator_for(0))
    loss, metrics = objective(model, teacher, batch, SampleStreams(3, torch.arange(8)))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    assert all(bool(m.isfinite()) and not m.requires_grad for m in metrics.values())
    parts = [
        objective(model, teacher, batch[i : i + 4], SampleStreams(3, torch.arange(i, i + 4)))[0]
        for i in (0, 4)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), loss)


# -- in the library -------------------------------------------------------------------------------


def test_distil_saves_a_student_without_its_encoder(tmp_path: Path) -> None:
    teacher = NetworkDenoiser.from_config({"process": MASKED.config(), "trunk": TRUNK, "length": L})
    model = fewjump.distill(
        teacher,
        PROBLEM.sample(64, generator_for(0)),
        student="latent",
        head={"size": 2, "width": 8, "encoder_width": 8},
        steps=2,
        batch_size=8,
        out=tmp_path,
        progress=False,
        device="cpu",
    )
    assert isinstance(model, NetworkDenoiser)
    assert isinstance(model.head, LatentHead)
    assert model.head.encoder is not None
    names = load_file(tmp_path / "model" / "model.safetensors")
    assert not [name for name in names if "encoder" in name]
    state = torch.load(tmp_path / "training_state.pt", weights_only=True)["student"]
    assert [name for name in state if name.startswith("head.encoder.")]
    loaded = fewjump.load(tmp_path / "model")
    x_t = torch.full((2, L), MASKED.mask)
    with torch.no_grad():
        a, b = (m(x_t, 1.0).sample(generator_for(0)) for m in (model, loaded))
    assert torch.equal(a, b)
    samples = fewjump.sample(loaded, num_samples=4, steps=2)
    assert samples.shape == (4, L)


def test_the_command_line_knows_the_latent_student() -> None:
    words = ["--student", "latent", "--free-bits", "0.5", "--data", "x", "--jumps", "2"]
    objective = objective_of(parse(Options, words, "fewjump distill"))
    assert isinstance(objective, LatentMatching)
    objective.settle(student(), 80, {})
    assert (objective.free_bits, objective.kl_warmup, objective.near) == (0.5, 40, 0.1)


def test_mistakes_are_named() -> None:
    teacher = freeze(PROBLEM.denoiser(MASKED))
    for options, words in (
        ({"free_bits": -1.0}, "free_bits"),
        ({"kl_warmup": -1}, "kl_warmup"),
        ({"estimator": "gumbel"}, "sample"),
        ({"near": 2.0}, "share"),
    ):
        with pytest.raises(ValueError, match=words):
            LatentMatching(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one category"):
        LatentMatching(estimator="sum").check(student(size=2), teacher)
    with pytest.raises(ValueError, match="no encoder"):
        LatentMatching().check(student(encoder=False), teacher)
    other = NetworkDenoiser.from_config(
        {"process": MASKED.config(), "trunk": TRUNK, "head": {"kind": "mixture"}, "length": L}
    )
    with pytest.raises(ValueError, match="mixture"):
        LatentMatching().check(other, teacher)


def test_a_law_of_a_category_sums_to_one() -> None:
    model = disturbed(student(categories=4)).double()
    with torch.no_grad():
        law = model(torch.tensor([[V, V, 1]]), 0.5)
        x = enumerate_states(V + 1, L)
        table = law.enumerate().exp()[0]
        total = table[ravel(x[x[:, 2] == 1], V + 1)].sum()
    assert float(total) == pytest.approx(1.0, abs=1e-12)
