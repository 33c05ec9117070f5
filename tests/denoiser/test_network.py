"""Heads and the network denoiser: what is certain stays certain; warm starts are exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewjump.denoiser import (
    HEADS,
    Head,
    LogitDenoiser,
    NetworkDenoiser,
    ProductHead,
    Transformer,
    TransformerConfig,
    head_from_config,
    parameter_counts,
)
from fewjump.denoiser.constrain import constrain_logits
from fewjump.law import ProductLaw
from fewjump.process import Absorbing, Process, Uniform
from fewjump.sampler import run
from fewjump.schedule import Cosine, LogLinear

V, L = 7, 6


def network(process: Process, seed: int = 0, **options: object) -> NetworkDenoiser:
    """A denoiser with random parameters, none of them zero."""
    sizes = {"hidden": 16, "blocks": 2, "heads": 2, "condition_dim": 8, **options}
    generator = torch.Generator().manual_seed(seed)
    denoiser = NetworkDenoiser.from_config(
        {"process": process.config(), "trunk": sizes, "length": L}
    )
    for parameter in denoiser.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return denoiser.eval()


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def product_law(denoiser: NetworkDenoiser, x: Tensor, t: float | Tensor) -> ProductLaw:
    law = denoiser(x, t)
    assert isinstance(law, ProductLaw)
    return law


# -- constraints ----------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, 2])
@pytest.mark.parametrize("grad", [False, True])
def test_a_masked_network_never_says_mask_and_copies_what_it_sees(
    mask: int | None, grad: bool
) -> None:
    process = Absorbing(V, LogLinear(), mask=mask)
    x = tokens(4, L)
    x[:, 0], x[:, 1] = process.mask, (process.mask + 1) % V
    with torch.set_grad_enabled(grad):
        marginals = network(process)(x, 0.5).marginals()
    assert (marginals[..., process.mask] == 0).all()
    visible = x != process.mask
    assert (marginals.gather(-1, x[..., None])[..., 0][visible] == 1).all()
    hidden = marginals[~visible]
    assert ((hidden > 0).sum(-1) == V - 1).all(), "every clean token stays possible"
    torch.testing.assert_close(hidden.sum(-1), torch.ones(len(hidden)))


def test_constraining_in_place_changes_neither_value_nor_gradient() -> None:
    process = Absorbing(V, LogLinear())
    x = tokens(3, L)
    target = torch.where(x == process.mask, 1, x)
    raw = torch.randn(3, L, V, generator=torch.Generator().manual_seed(0))
    results = []
    for in_place in (False, True):
        leaf = raw.clone().requires_grad_()
        kept = leaf * 1.0
        law = ProductLaw(constrain_logits(kept, x, process, in_place=in_place))
        (-law.log_prob(target).sum()).backward()
        assert (kept.data_ptr() == law.logits.data_ptr()) == in_place
        results.append((law.logits.detach().clone(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    rows = x == process.mask
    expected = raw.clone()
    expected[..., process.mask] = -torch.inf
    slope = expected.softmax(-1) - torch.nn.functional.one_hot(target, V)
    torch.testing.assert_close(results[0][1], torch.where(rows[..., None], slope, 0.0))


def test_uniform_noise_leaves_logits_alone() -> None:
    logits = torch.randn(2, L, V)
    assert constrain_logits(logits, tokens(2, L), Uniform(V, LogLinear())) is logits


def test_a_fresh_network_is_uniform_over_what_is_possible() -> None:
    process = Absorbing(V, LogLinear())
    config = {"process": process.config(), "trunk": {"hidden": 16, "heads": 2}}
    x = torch.full((1, L), process.mask)
    marginals = NetworkDenoiser.from_config(config)(x, 0.3).marginals()
    torch.testing.assert_close(marginals[..., :-1], torch.full((1, L, V - 1), 1 / (V - 1)))


# -- the denoiser ---------------------------------------------------------------------------


def test_calls_are_counted_and_time_may_be_a_number_or_a_batch() -> None:
    denoiser = network(Uniform(V, LogLinear()))
    x = tokens(3, L)
    a = product_law(denoiser, x, 0.25).logits
    b = product_law(denoiser, x, torch.full((3,), 0.25)).logits
    assert torch.equal(a, b)
    assert denoiser.evaluations == 2


@pytest.mark.parametrize("process", [Uniform(V, LogLinear()), Absorbing(V, LogLinear())])
@pytest.mark.parametrize(
    ("t", "message"),
    [
        (1.5, r"0 <= s <= t <= 1, got s=0\.0, t=1\.5"),
        (-0.5, "0 <= s <= t <= 1"),
        (float("nan"), "0 <= s <= t <= 1"),
        (torch.tensor([0.5, 2.0]), "0 <= s <= t <= 1"),
        (torch.full((3,), 0.5), r"one for each of the 2 rows, got \(3,\)"),
        (torch.full((2, 1), 0.5), r"one for each of the 2 rows, got \(2, 1\)"),
    ],
)
def test_times_that_are_none_are_refused(process: Process, t: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(process)(tokens(2, L), t)


def test_the_trunk_is_given_the_noise_level() -> None:
    """Two schedules at times of equal σ̄ give the same law."""
    linear, cosine = LogLinear(), Cosine()
    first, second = network(Uniform(V, linear)), network(Uniform(V, cosine))
    t = 0.4
    other = float(cosine.time_of_sigma_bar(linear.sigma_bar(t)))
    x = tokens(2, L)
    here, there = product_law(first, x, t).logits, product_law(second, x, other).logits
    torch.testing.assert_close(here, there)
    assert (here - product_law(second, x, t).logits).abs().max() > 1e-3


def test_gradients_reach_every_parameter() -> None:
    for process in (Uniform(V, LogLinear()), Absorbing(V, LogLinear())):
        denoiser = network(process).train()
        x = tokens(8, L)
        x[:, 0] = V - 1
        law = product_law(denoiser, x, torch.linspace(0.1, 1, 8))
        (-law.token_log_prob(torch.where(x == V - 1, 0, x)).sum()).backward()
        for name, parameter in denoiser.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if not name.startswith("trunk.embedding"):
                assert parameter.grad.abs().max() > 0, name


def test_bfloat16_autocast_is_finite_and_close() -> None:
    process = Absorbing(V, LogLinear())
    exact = network(process)
    config = {**exact.config(), "autocast": "bfloat16"}
    half = NetworkDenoiser.from_config(config)
    half.load_state_dict(exact.state_dict())
    x = tokens(4, L)
    x[:, :3] = process.mask
    law = product_law(half, x, 0.5)
    assert law.logits.dtype == torch.bfloat16, "autocast must be in force"
    torch.testing.assert_close(
        law.marginals(), exact(x, 0.5).marginals(), atol=0.05, rtol=0, check_dtype=False
    )
    (-law.token_log_prob(torch.where(x == process.mask, 0, x)).sum()).backward()
    for name, parameter in half.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name


def test_parameter_counts() -> None:
    counts = parameter_counts(network(Uniform(V, LogLinear())))
    assert counts["head"] == 16 * V + V
    assert counts["total"] == counts["trunk"] + counts["head"]


def test_large_vocabulary_from_config() -> None:
    process = Absorbing(50_258, LogLinear())
    trunk = {"hidden": 8, "heads": 2, "blocks": 1, "condition_dim": 4}
    denoiser = NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk})
    law = denoiser(torch.full((1, 4), process.mask), 0.5)
    assert law.sample(torch.Generator().manual_seed(0)).max() < process.mask


# -- warm start and configuration -----------------------------------------------------------


@pytest.mark.parametrize("process", [Uniform(V, LogLinear()), Absorbing(V, LogLinear())])
def test_a_warm_student_equals_its_teacher(process: Process) -> None:
    teacher = network(process, seed=1)
    student = NetworkDenoiser.from_config(teacher.config()).eval()
    x, t = tokens(3, L), torch.tensor([0.1, 0.5, 1.0])
    assert not torch.equal(product_law(student, x, t).logits, product_law(teacher, x, t).logits)
    student.warm_start(teacher)
    assert torch.equal(product_law(student, x, t).logits, product_law(teacher, x, t).logits)
    for mine, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
        assert mine.data_ptr() != theirs.data_ptr(), "weights must be copied, not shared"


def test_a_warm_start_from_another_size_is_refused() -> None:
    process = Uniform(V, LogLinear())
    student, teacher = network(process, blocks=1, hidden=8), network(process)
    with pytest.raises(ValueError, match="differ in hidden, blocks"):
        student.warm_start(teacher)


@pytest.mark.parametrize("process", [Uniform(V, Cosine()), Absorbing(V, LogLinear(), mask=3)])
def test_config_round_trip(process: Process) -> None:
    config = network(process, dropout=0.1, conv_kernel=3).config()
    assert NetworkDenoiser.from_config(config).config() == config


def test_sizes_that_disagree_are_refused() -> None:
    process = Uniform(V, LogLinear())
    trunk = Transformer(TransformerConfig(V, 16, 1, 2))
    with pytest.raises(ValueError, match="hidden=8"):
        NetworkDenoiser(trunk, ProductHead(8, V), process)
    with pytest.raises(ValueError, match="they must agree"):
        NetworkDenoiser(trunk, ProductHead(16, V), Uniform(V + 1, LogLinear()))
    with pytest.raises(ValueError, match="length must be"):
        NetworkDenoiser(trunk, ProductHead(16, V), process, length=0)
    with pytest.raises(ValueError, match="autocast must be"):
        NetworkDenoiser(trunk, ProductHead(16, V), process, autocast="int8")
    image = TransformerConfig(V, 16, 1, 2, positions="2d", grid=(2, 3), conv_kernel=3)
    with pytest.raises(ValueError, match="whole rows"):
        NetworkDenoiser(Transformer(image), ProductHead(16, V), process, length=8)
    board = TransformerConfig(V, 16, 1, 2, position_groups=((0, 0, 1, 1),))
    with pytest.raises(ValueError, match="number 4 positions, the length is 8"):
        NetworkDenoiser(Transformer(board), ProductHead(16, V), process, length=8)


def test_head_registry() -> None:
    assert HEADS["product"] is ProductHead
    head = ProductHead(4, 5)
    assert head_from_config(head.config()).config() == head.config()
    with pytest.raises(ValueError, match=r"unknown head 'dense'; known: .*product"):
        head_from_config({"kind": "dense"})
    with pytest.raises(ValueError, match="do not fit the product head"):
        head_from_config({"kind": "product", "hidden": 4, "vocab_size": 5, "depth": 1})

    class Impostor(ProductHead):
        pass

    with pytest.raises(ValueError, match="exists already: ProductHead"):
        HEADS.add(Impostor.kind, Impostor)
    assert issubclass(HEADS["product"], Head)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("process", [Absorbing(4, LogLinear()), Uniform(4, LogLinear(), kept=[1])])
def test_logit_denoiser_does_not_overwrite_its_networks_parameters(process, rows) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(3, 4))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.table.expand(len(x), -1, -1)

    network = Table()
    model = LogitDenoiser(network, process, 3).eval()
    with torch.no_grad():
        model(torch.tensor([[1, 3, 3]]).expand(rows, 3), 0.5).marginals()
    run(model, 20, 3, generator=0)
    assert torch.equal(network.table, torch.zeros(3, 4))
    # A function that returns one table again and again keeps it too.
    table = torch.zeros(3, 4)
    one = LogitDenoiser(lambda x, t: table.expand(len(x), -1, -1), process, 3)
    one(torch.tensor([[1, 3, 3]]).expand(rows, 3), 0.5).marginals()
    assert torch.equal(table, torch.zeros(3, 4))


def test_logit_denoiser_does_not_overwrite_what_its_network_saved_for_backward() -> None:
    """log-softmax keeps its output for the backward pass, so it must not be changed in place."""
    process = Absorbing(V, LogLinear())
    weight = torch.randn(V, V, requires_grad=True)
    denoiser = LogitDenoiser(lambda x, t: weight[x].log_softmax(-1), process)
    x = tokens(2, L)
    (-denoiser(x, 0.5).log_prob(torch.where(x == process.mask, 0, x)).sum()).backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "head", [{"kind": "shared-mixture"}, {"kind": "mixture", "evidence": True}]
)
def test_a_head_for_masks_is_refused_before_anything_is_asked(head: dict[str, object]) -> None:
    config = {
        "process": Uniform(V, LogLinear()).config(),
        "trunk": {"hidden": 16, "blocks": 1, "heads": 2},
        "head": {"length": L, **head},
        "length": L,
    }
    with pytest.raises(ValueError, match="needs an absorbing process, not Uniform"):
        NetworkDenoiser.from_config(config)
