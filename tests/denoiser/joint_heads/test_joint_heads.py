"""Joint heads: equal to the teacher at the start, able to leave it, and honest under masking."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "laws"))
from registry_laws import p_value

from fewjump.denoiser.heads import Head, ProductHead, head_from_config
from fewjump.denoiser.joint_heads import (
    AnyOrderHead,
    AutoregressiveHead,
    ChainHead,
    MixtureHead,
    MixtureOfChainsHead,
    SharedChainHead,
    TensorTrainHead,
    moved,
)
from fewjump.denoiser.joint_heads.states import StateFeatures, TokenFactor
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.denoiser.transformer import Transformer, TransformerConfig
from fewjump.law.base import Law, enumerate_states, ravel
from fewjump.law.product import ProductLaw
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.registry import HEADS
from fewjump.schedule import LogLinear

HIDDEN, V, L = 16, 4, 4


def away_from_orthogonal(**options: Any) -> TensorTrainHead:
    """A tensor train as after training: with orthogonal matrices its last token tells nothing."""
    head = TensorTrainHead(HIDDEN, V, bond=6, **options)
    torch.nn.init.normal_(head.cores, std=0.5)
    return head


CASES: list[Any] = [
    pytest.param(lambda **k: MixtureHead(HIDDEN, V, components=16, rank=16, **k), id="mixture"),
    pytest.param(
        lambda **k: MixtureHead(HIDDEN, V, components=16, rank=16, length=L, **k), id="templates"
    ),
    *(
        pytest.param(
            lambda emission=emission, **k: ChainHead(HIDDEN, V, 32, emission, rank=32, **k),
            id=f"chain-{emission}",
        )
        for emission in ("dense", "shared", "low-rank")
    ),
    pytest.param(
        lambda **k: ChainHead(HIDDEN, V, 16, rank=16, length=L, method="scan", **k), id="chain-scan"
    ),
    pytest.param(
        lambda **k: MixtureOfChainsHead(HIDDEN, V, components=3, states=4, **k),
        id="mixture-of-chains",
    ),
    pytest.param(lambda **k: SharedChainHead(HIDDEN, V, states=16, **k), id="shared-chain"),
    pytest.param(
        lambda **k: SharedChainHead(HIDDEN, V, states=16, length=L, **k), id="shared-chain-length"
    ),
    pytest.param(
        lambda **k: SharedChainHead(HIDDEN, V, states=24, blocks=6, **k), id="shared-chain-blocks"
    ),
    pytest.param(away_from_orthogonal, id="tensor-train"),
    pytest.param(lambda **k: away_from_orthogonal(length=L, **k), id="tensor-train-length"),
    pytest.param(lambda **k: AutoregressiveHead(HIDDEN, V, width=16, **k), id="gru"),
    pytest.param(
        lambda **k: AutoregressiveHead(HIDDEN, V, width=16, neighbours=(1, 2), **k), id="gru-2d"
    ),
    pytest.param(
        lambda **k: AutoregressiveHead(HIDDEN, V, width=16, causal="attention", heads=2, **k),
        id="attention",
    ),
    pytest.param(
        lambda **k: AutoregressiveHead(HIDDEN, V, width=16, lookahead=True, **k), id="lookahead"
    ),
    pytest.param(lambda **k: AnyOrderHead(HIDDEN, V, width=16, heads=2, **k), id="any-order"),
    pytest.param(
        lambda **k: AnyOrderHead(
            HIDDEN, V, 16, heads=2, blocks=2, neighbours=(1, 2), columns=2, **k
        ),
        id="any-order-2d",
    ),
    pytest.param(
        lambda **k: AnyOrderHead(HIDDEN, V, 16, heads=2, order="coarse-to-fine", **k),
        id="any-order-coarse",
    ),
    pytest.param(
        lambda **k: AnyOrderHead(HIDDEN, V, 16, heads=2, order=(2, 0, 3, 1), **k),
        id="any-order-given",
    ),
]
every_head = pytest.mark.parametrize("make", CASES)
every_process = pytest.mark.parametrize(
    "process", [Uniform(V, LogLinear()), Absorbing(V, LogLinear())], ids=["uniform", "absorbing"]
)


def product_head() -> ProductHead:
    head = ProductHead(HIDDEN, V)
    torch.nn.init.normal_(head.linear.weight, std=0.5)
    torch.nn.init.normal_(head.linear.bias, std=0.5)
    return head


def disturbed(head: Head) -> Head:
    """The head with its zero matrices made random: as after training."""
    for parameter in head.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.7)
    return head


def assert_drawn_from(law: Law, probability: Tensor, seed: int) -> None:
    """20,000 draws of a law of one row, against the probability of every sequence (χ²)."""
    x0 = law.expand(20_000).sample(generator_for(seed))
    counts = torch.bincount(ravel(x0, V), minlength=V**L)
    assert p_value(counts, probability.detach()) > 1e-4


def inputs(process: Process, batch: int = 3) -> tuple[Tensor, Tensor]:
    x_t = torch.randint(V, (batch, L))
    if isinstance(process, Absorbing):
        x_t[:, 1:3] = process.mask
    return torch.randn(batch, L, HIDDEN), x_t


@every_head
@every_process
def test_warm_start_is_the_product_law(make: Any, process: Process) -> None:
    torch.manual_seed(0)
    product, head = product_head(), disturbed(make())
    features, x_t = inputs(process)
    head.warm_start(product)
    expected = product(features, x_t, process)
    law = head(features, x_t, process)
    states = enumerate_states(V, L)
    tokens = states[torch.arange(0, len(states), 7)]
    for x0 in tokens:
        x0 = x0.expand(len(x_t), -1)
        torch.testing.assert_close(law.log_prob(x0), expected.log_prob(x0), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(law.marginals(), expected.marginals(), atol=1e-5, rtol=0)
    assert float(moved(law, expected, 3).abs().max()) < 1e-5


@every_head
def test_the_first_steps_pull_the_states_apart(make: Any) -> None:
    """From an exact warm start, a joint no product can represent is learned: x¹ = x² = x³ = x⁴."""
    torch.manual_seed(1)
    process = Uniform(V, LogLinear())
    head = make()
    head.warm_start(ProductHead(HIDDEN, V))
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    features = torch.randn(1, L, HIDDEN).expand(64, -1, -1)
    x_t = torch.zeros(64, L, dtype=torch.int64)
    floor = (L - 1) * math.log(V)
    excess = floor
    for step in range(400):
        token = torch.randint(V, (64, 1), generator=generator_for(3, step))
        loss = -head(features, x_t, process).log_prob(token.expand(-1, L)).mean()
        excess = float(loss.detach()) - math.log(V)
        if abs(excess) < 0.005 * floor:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert excess < 0.03 * floor
    law = head(features, x_t, process)
    assert float(moved(law, ProductLaw(torch.zeros(64, L, V)), 4).mean()) > 0.9 * floor


@every_head
@every_process
def test_law_is_a_distribution_that_knows_what_is_visible(make: Any, process: Process) -> None:
    torch.manual_seed(2)
    head = disturbed(make()).double()
    features, x_t = inputs(process)
    law = head(features.double(), x_t, process)
    probability = law.enumerate().exp()
    torch.testing.assert_close(
        probability.sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-10, rtol=0
    )
    if isinstance(process, Absorbing):
        visible = x_t != process.mask
        states = enumerate_states(V, L)
        wrong = ((states[None] != x_t[:, None]) & visible[:, None]).any(-1)
        wrong |= (states == process.mask).any(-1)
        assert float(probability.detach()[wrong].max()) == 0
        x0 = law.sample(generator_for(0))
        assert torch.equal(x0[visible], x_t[visible])
        assert not bool((x0 == process.mask).any())
        # Conditioning on what is visible already changes nothing.
        torch.testing.assert_close(
            law.given(x_t, visible).enumerate(), law.enumerate(), atol=1e-10, rtol=1e-10
        )


@every_head
@every_process
def test_samples_match_log_prob(make: Any, process: Process) -> None:
    torch.manual_seed(3)
    head = disturbed(make()).double()
    features, x_t = inputs(process, batch=1)
    law = head(features.double(), x_t, process)
    probability = law.enumerate().exp()[0]
    assert_drawn_from(law, probability, 5)


@every_head
@every_process
def test_gradients_are_finite_and_reach_every_parameter(make: Any, process: Process) -> None:
    torch.manual_seed(4)
    head = disturbed(make())
    features, x_t = inputs(process)
    x0 = torch.where(x_t == V - 1, 0, x_t) if isinstance(process, Absorbing) else x_t
    head(features, x_t, process).log_prob(x0).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


@every_head
def test_config_rebuilds_the_head(make: Any) -> None:
    head = make()
    again = head_from_config(head.config())
    assert type(again) is type(head)
    assert again.config() == head.config()
    again.load_state_dict(head.state_dict())


@every_head
@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_in_a_network_denoiser(make: Any, autocast: str | None) -> None:
    torch.manual_seed(5)
    process = Absorbing(V, LogLinear())
    config = TransformerConfig(vocab_size=V, hidden=HIDDEN, blocks=1, heads=2)
    teacher = NetworkDenoiser(Transformer(config), product_head(), process, L, autocast)
    student = NetworkDenoiser(Transformer(config), disturbed(make()), process, L, autocast)
    student.warm_start(teacher)
    x_t = torch.full((2, L), process.mask)
    x_t[:, 0] = 1
    x0 = torch.tensor([[1, 0, 2, 1], [1, 2, 2, 0]])
    tolerance = 1e-5 if autocast is None else 2e-2
    torch.testing.assert_close(
        student(x_t, 0.5).log_prob(x0),
        teacher(x_t, 0.5).log_prob(x0),
        atol=tolerance,
        rtol=0,
        check_dtype=False,
    )
    law = disturbed_student(student)(x_t, 0.5)
    assert law.sample(generator_for(1)).shape == (2, L)
    law.log_prob(x0).sum().backward()


def disturbed_student(student: NetworkDenoiser) -> NetworkDenoiser:
    disturbed(student.head)
    return student


def test_low_rank_chain_is_the_dense_chain() -> None:
    torch.manual_seed(6)
    process = Absorbing(V, LogLinear())
    dense = disturbed(ChainHead(HIDDEN, V, 6, "dense", rank=5)).double()
    low_rank = ChainHead(HIDDEN, V, 6, "low-rank", rank=5).double()
    low_rank.load_state_dict(dense.state_dict())
    features, x_t = inputs(process)
    torch.testing.assert_close(
        dense(features.double(), x_t, process).enumerate(),
        low_rank(features.double(), x_t, process).enumerate(),
        atol=1e-10,
        rtol=1e-10,
    )


ANY_LENGTH = ("any-order", "any-order-2d", "any-order-coarse", "tensor-train")
WALKS = ("gru", "gru-2d", "attention", "lookahead", "any-order-given", *ANY_LENGTH)
ANY_SET = [c for c in CASES if c.id in ("lookahead", "any-order-given", *ANY_LENGTH)]


@pytest.mark.parametrize("make", [c for c in CASES if c.id in WALKS])
@pytest.mark.parametrize("rows", [None, 6], ids=["read at once", "read in parts"])
@every_process
def test_step_by_step_equals_all_at_once(
    make: Any, process: Process, rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows is not None:
        monkeypatch.setattr("fewjump.inversion._ROWS_PER_CHUNK_ELEMENTS", rows * V)
        monkeypatch.setattr("fewjump.denoiser.joint_heads.any_order._COPIED", 0)
    torch.manual_seed(7)
    head = disturbed(make()).double()
    features, x_t = inputs(process)
    law = head(features.double(), x_t, process)
    # One row takes the way of large vocabularies; rows that are alike share what they can.
    for part in (law, law.select(torch.tensor([1])), law.select(torch.tensor([2])).expand(3)):
        given = part.conditionals
        x0 = torch.randint(V, (part.batch_size, L))
        order = torch.arange(L).expand(part.batch_size, L) if given.order is None else given.order
        expected = given.source(x0).dense().gather(1, order[..., None].expand(-1, -1, V))
        for skipped in (0, 1, 2):
            walk = given.begin()
            walk.skip(skipped, x0)
            # Tokens that come later in the order may be anything.
            seen = torch.randint(V, (part.batch_size, L))
            for k in range(L):
                if k >= skipped:
                    stepped = walk.next_logits(k, seen)
                    torch.testing.assert_close(stepped, expected[:, k], atol=1e-10, rtol=1e-10)
                at = order[:, k, None]
                seen = seen.scatter(1, at, x0.gather(1, at))


@pytest.mark.parametrize("make", [c for c in CASES if c.id in WALKS and c.id != "any-order-given"])
def test_the_fixed_point_is_the_walk(make: Any) -> None:
    """The same uniform numbers give the same samples, in fewer passes than positions."""
    torch.manual_seed(12)
    process, length, rows = Uniform(V, LogLinear()), 12, 50
    head = disturbed(make()).double()
    features = torch.randn(rows, length, HIDDEN, dtype=torch.float64)
    x0 = torch.randint(V, (rows, length))
    law = head(features, x0, process)
    known = torch.zeros(rows, length, dtype=torch.bool)
    known[:, :3] = True
    for part in (law, law.tempered(0.8, 0.95), law.given(x0, known)):
        found = part.sample_fixed_point(generator_for(4))
        assert torch.equal(found.samples, part.sample(generator_for(4)))
        assert bool((found.passes <= length + 1).all())
        assert float(found.passes.double().mean()) < length
    assert torch.equal(found.samples[:, :3], x0[:, :3])


@pytest.mark.parametrize("make", ANY_SET)
@every_process
def test_given_any_known_positions_a_law_is_left(make: Any, process: Process) -> None:
    """Normalised, holding what is known, changed by tokens on either side; in steps as at once."""
    torch.manual_seed(11)
    head = disturbed(make()).double()
    features, x_t = inputs(process)
    law = head(features.double(), x_t, process)
    x0 = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 2], [1, 2, 0, 0]])
    if isinstance(process, Absorbing):
        x0 = torch.where(x_t != process.mask, x_t, x0)
    known = torch.tensor([[False, False, True, True], [True, False, True, False], [False] * 4])
    left = law.given(x0, known)
    probability = left.enumerate().exp()
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(probability.sum(-1), ones, atol=1e-10, rtol=0)
    states = enumerate_states(V, L)
    wrong = ((states[None] != x0[:, None]) & known[:, None]).any(-1)
    assert float(probability.detach()[wrong].max()) == 0
    again = law.given(x0, known & (torch.arange(L) < 3)).given(x0, known)
    torch.testing.assert_close(again.enumerate(), left.enumerate(), atol=1e-10, rtol=0)
    # Row 0 knows its last token only through it: another token there gives another law before.
    other = x0.clone()
    other[0, 3] = (x0[0, 3] + 1) % (V - 1)
    if isinstance(process, Uniform):
        changed = law.given(other, known).marginals()[0, 1] - left.marginals()[0, 1]
        assert float(changed.detach().abs().max()) > 1e-3
    assert_drawn_from(left.select(torch.tensor([1])), probability[1], 6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MixtureHead(HIDDEN, V, components=0), "components"),
        (lambda: ChainHead(HIDDEN, V, emission="sparse"), "emission"),  # type: ignore[arg-type]
        (lambda: ChainHead(HIDDEN, V, emission="shared", length=L), "shared"),
        (lambda: AutoregressiveHead(HIDDEN, V, causal="lstm"), "lstm"),  # type: ignore[arg-type]
        (lambda: AutoregressiveHead(HIDDEN, V, neighbours=(8,)), "include 1"),
        (lambda: AutoregressiveHead(HIDDEN, V, width=18, causal="attention"), "multiple"),
        (lambda: AnyOrderHead(HIDDEN, V, neighbours=(0,)), "neighbours are distances"),
        (lambda: AnyOrderHead(HIDDEN, V, order="random"), "known: ascending"),  # type: ignore[arg-type]
        (lambda: AnyOrderHead(HIDDEN, V, order=(0, 2)), "each of the positions"),
    ],
)
def test_bad_options_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_known_positions_come_first_and_all_in_the_order() -> None:
    known = torch.tensor([[False] * 4, [True, True, False, False], [False, True, False, True]])
    for order, expected in (
        ("ascending", [[0, 1, 2, 3], [0, 1, 2, 3], [1, 3, 0, 2]]),
        ("coarse-to-fine", [[0, 2, 1, 3], [0, 1, 2, 3], [1, 3, 0, 2]]),
        ((3, 1, 0, 2), [[3, 1, 0, 2], [1, 0, 3, 2], [3, 1, 0, 2]]),
    ):
        head = AnyOrderHead(HIDDEN, V, 16, heads=2, order=order)  # type: ignore[arg-type]
        assert head.order_of(known).tolist() == expected


def test_neighbours_are_as_far_as_embeddings_are_small() -> None:
    def default(size: int, columns: int | None = None, **more: Any) -> tuple[int, ...] | None:
        return AnyOrderHead(HIDDEN, size, width=32, heads=4, columns=columns, **more).neighbours

    assert default(V, order="coarse-to-fine") == (1, 2, 4, 8)
    assert default(V, 8, order="coarse-to-fine") == (1, 2, 4, 8, 16, 32)
    assert default(4097, 8, order="coarse-to-fine") == (1, 8)
    assert default(V) == (1, 2, 3, 4)
    assert default(V, 8) == (1, 2, 8, 16)
    assert default(4097) == (1,)
    assert default(4097, 8) == (1, 8)


def test_templates_refuse_another_length() -> None:
    head = MixtureHead(HIDDEN, V, length=L + 1)
    features, x_t = inputs(Uniform(V, LogLinear()))
    with pytest.raises(ValueError, match="length=5"):
        head(features, x_t, Uniform(V, LogLinear()))


@pytest.mark.parametrize("length", [None, L])
@pytest.mark.parametrize("vocab_size", [3, 200])
def test_logits_do_not_depend_on_the_order_of_products(length: int | None, vocab_size: int) -> None:
    torch.manual_seed(8)
    states = StateFeatures(HIDDEN, 5, 8, 12, length).double()
    tokens = TokenFactor(vocab_size, 8).double()
    torch.nn.init.normal_(tokens.weight)
    features = torch.randn(2, L, HIDDEN, dtype=torch.float64)
    torch.testing.assert_close(
        states.logits(features, tokens), tokens(states(features)), atol=1e-12, rtol=0
    )


def with_evidence(**options: Any) -> MixtureHead:
    return MixtureHead(HIDDEN, V, components=5, rank=6, length=L, evidence=True, **options)


def test_evidence_starts_at_the_product_law_and_trains_every_parameter() -> None:
    process = Absorbing(V, LogLinear())
    test_warm_start_is_the_product_law(with_evidence, process)
    test_law_is_a_distribution_that_knows_what_is_visible(with_evidence, process)
    test_gradients_are_finite_and_reach_every_parameter(with_evidence, process)
    test_config_rebuilds_the_head(with_evidence)


def test_evidence_conditions_a_mixture_as_bayes_does() -> None:
    """Without the trunk's say, the law at any x_t is the law of pure noise given what is visible.

    So a mixture that is right in one step is right in any number of steps.
    """
    torch.manual_seed(3)
    process = Absorbing(V, LogLinear())
    head = disturbed(with_evidence())
    head.double()
    for silent in (head.base.linear, head.states.project, head.weights.out):
        silent.weight.data.zero_()
    head.base.linear.bias.data.zero_()
    # The templates then stand on nothing: what the evidence reads is what the law draws from.
    head.prior.data.zero_()
    x_t = torch.tensor([[3, 1, 3, 0], [2, 3, 3, 3], [0, 1, 2, 2]])
    features = torch.randn(3, L, HIDDEN, dtype=torch.float64)
    noise = torch.full_like(x_t, process.mask)
    expected = head(features, noise, process).given(x_t, x_t != process.mask)
    got = head(features, x_t, process)
    torch.testing.assert_close(got.enumerate(), expected.enumerate(), atol=1e-10, rtol=0)
    assert float((got.weight_logits.detach().softmax(-1) - 0.2).abs().max()) > 0.05


def test_evidence_needs_templates_and_a_mask() -> None:
    with pytest.raises(ValueError, match="give length"):
        MixtureHead(HIDDEN, V, evidence=True)
    head = MixtureHead(HIDDEN, V, length=L, evidence=True)
    with pytest.raises(ValueError, match="absorbing process, not Uniform"):
        head.check_process(Uniform(V, LogLinear()))


@pytest.mark.parametrize("evidence", [False, True])
@pytest.mark.parametrize("rank", [2, 16])
def test_a_mixture_without_gradients_computes_the_component_it_draws(
    evidence: bool, rank: int
) -> None:
    """The law is the one with gradients; a draw makes no (B, K, L, V) logits."""
    torch.manual_seed(9)
    process = Absorbing(V, LogLinear())
    head = disturbed(MixtureHead(HIDDEN, V, 5, rank, length=L, evidence=evidence)).double()
    features, x_t = inputs(process, 6)
    eager = head(features.double(), x_t, process)
    with torch.no_grad():
        law = head(features.double(), x_t, process)
    index = torch.tensor([0, 4, 2, 2, 1, 3])
    for mine, theirs in (
        (law, eager),
        (law.tempered(0.7, 0.9), eager.tempered(0.7, 0.9)),
        (
            law.select(torch.tensor([1, 1, 5, 0, 2, 3])),
            eager.select(torch.tensor([1, 1, 5, 0, 2, 3])),
        ),
        (law.select(torch.tensor([2])).expand(6), eager.select(torch.tensor([2])).expand(6)),
    ):
        torch.testing.assert_close(
            mine.component(index).marginals(), theirs.component(index).marginals()
        )
        assert torch.equal(mine.sample(generator_for(1)), theirs.sample(generator_for(1)))
        assert "dense" not in vars(mine.emission)
        torch.testing.assert_close(mine.emission.dense.logits, theirs.emission.logits)
        assert not mine.emission.dense.logits.requires_grad


def described(kind: str, **options: Any) -> dict[str, Any]:
    """A network of three positions over three tokens and a mask."""
    return {
        "process": Absorbing(4, LogLinear()).config(),
        "trunk": {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8},
        "head": {"kind": kind},
        "length": 3,
        **options,
    }


@pytest.mark.parametrize("narrow", ["autocast", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", HEADS)
def test_probabilities_sum_to_one_whatever_precision_the_network_has(
    kind: str, narrow: str
) -> None:
    """Autocast is for networks: a normaliser in bfloat16 is none."""
    torch.manual_seed(0)
    autocast = {"autocast": "bfloat16"} if narrow == "autocast" else {}
    model = NetworkDenoiser.from_config(described(kind, **autocast)).eval()
    if narrow != "autocast":
        model = model.to(getattr(torch, narrow))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
        law = model(torch.tensor([[3, 3, 3], [3, 1, 3]]), 0.5)
        # A network in float16 is none to run in bfloat16.
        surrounded = torch.autocast("cpu", torch.bfloat16, enabled=narrow != "float16")
        for around in (nullcontext(), surrounded):
            with around:
                total = law.enumerate().double().exp().sum(-1)
                marginals = law.marginals().double()
            torch.testing.assert_close(total, torch.ones(2).double(), atol=2e-5, rtol=0)
            sums = marginals.sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums), atol=2e-5, rtol=0)
        assert torch.equal(law.sample(generator_for(0))[1, 1], torch.tensor(1))


NO_TOKEN = torch.tensor([[0, 9, 0], [0, 0, 0]])
FIRST = torch.tensor([[True, False, False]] * 2)


@pytest.mark.parametrize("kind", HEADS)
def test_sequences_that_a_law_cannot_be_asked_about_are_refused(kind: str) -> None:
    law = NetworkDenoiser.from_config(described(kind)).eval()(torch.full((2, 3), 3), 1.0)
    zero = torch.zeros(2, 3, dtype=torch.int64)
    for x0, message in [
        (zero[:1], r"x0 must be \(B, L\) = \(2, 3\) for this law, got \(1, 3\)"),
        (zero[:, :2], r"got \(2, 2\)"),
        (zero.float(), "x0 must hold token numbers"),
        (zero.bool(), "x0 must hold token numbers"),
        (NO_TOKEN, r"x0 holds 9, outside the tokens of this law, \{0\.\.3\}"),
        (zero - 1, "x0 holds -1, outside"),
    ]:
        with pytest.raises(ValueError, match=message):
            law.log_prob(x0)
    for x0, known, message in [
        (zero[:1], FIRST, r"x0 must be \(B, L\) = \(2, 3\)"),
        (zero, FIRST[0], r"known must be \(B, L\) = \(2, 3\) for this law, got \(3,\)"),
        (zero, FIRST.long(), r"known must be boolean, got torch\.int64"),
        (zero.float(), FIRST, "x0 must hold token numbers"),
        (NO_TOKEN.flip(1), ~FIRST, "x0 holds 9, outside"),
        (zero - 1, FIRST, "x0 holds -1, outside"),
    ]:
        with pytest.raises(ValueError, match=message):
            law.given(x0, known)
    # What is not known is not read.
    assert law.given(NO_TOKEN, FIRST).sample(generator_for(0))[:, 0].tolist() == [0, 0]
    assert law.given(zero.int(), FIRST).log_prob(zero.int()).shape == (2,)


def test_an_order_of_another_length_is_refused_before_anything_is_asked() -> None:
    def network(length: int) -> NetworkDenoiser:
        return NetworkDenoiser.from_config(
            {
                "process": Absorbing(V, LogLinear()).config(),
                "trunk": {"hidden": HIDDEN, "blocks": 1, "heads": 2},
                "head": {"kind": "any-order", "width": 16, "heads": 2, "order": [2, 0, 3, 1]},
                "length": length,
            }
        )

    with pytest.raises(ValueError, match="names 4 positions, and sequences have 5 here"):
        network(5)
    with pytest.raises(ValueError, match="names 4 positions, and sequences have 6 here"):
        network(4).check_length(6)
