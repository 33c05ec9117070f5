"""Decoding side by side: the walk's samples, or other samples of the same law."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fewjump.denoiser import NetworkDenoiser
from fewjump.law import AutoregressiveLaw, Law, MixtureLaw, ProductLaw
from fewjump.law.decoding import DraftAndVerify, FixedPoint
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.sampler import exact_output_law, run
from fewjump.schedule import Linear
from sampler.oracle import chi_square_p

V, L, DRAWS = 3, 3, 12_000
PROCESSES = {"masked": Absorbing(V + 1, Linear(6.0)), "uniform": Uniform(V, Linear(6.0))}
HEADS: dict[str, dict[str, Any]] = {
    "any-order": {"kind": "any-order", "width": 16, "heads": 2},
    "another order": {"kind": "any-order", "width": 16, "heads": 2, "order": "coarse-to-fine"},
    "gru": {"kind": "autoregressive", "width": 16},
    "lookahead": {"kind": "autoregressive", "width": 16, "lookahead": True},
    "attention": {"kind": "autoregressive", "width": 16, "causal": "attention", "heads": 2},
}
DRAFTS: dict[str, dict[str, Any] | None] = {
    "itself": None,
    "product": {"kind": "product"},
    "shared-chain": {"kind": "shared-chain", "states": 6},
    "chain": {"kind": "chain", "states": 4},
    "shared-mixture": {"kind": "shared-mixture", "components": 5, "length": L},
    "mixture-of-chains": {"kind": "mixture-of-chains", "components": 2, "states": 3},
    "any-order": {"kind": "any-order", "width": 16, "heads": 2},
}


def model(process: Process, head: dict[str, Any], seed: int, length: int = L) -> NetworkDenoiser:
    """A network far from a product law, in float64."""
    torch.manual_seed(seed)
    config = {
        "process": process.config(),
        "trunk": {"hidden": 16, "blocks": 1, "heads": 2},
        "head": head,
        "length": length,
    }
    denoiser = NetworkDenoiser.from_config(config).double()
    for parameter in denoiser.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.3)
    return denoiser.eval()


def law_of(denoiser: NetworkDenoiser, rows: int = 1) -> Law:
    x = torch.zeros(1, L, dtype=torch.int64)
    if denoiser.process.mask is not None:
        x = x + denoiser.process.mask
        x[0, 1] = 2
    return denoiser.requires_grad_(False)(x, 0.7).expand(rows)


def p_value(law: Law, samples: Tensor) -> float:
    table = law.select(torch.zeros(1, dtype=torch.int64)).enumerate().exp()[0]
    return chi_square_p(samples, table, law.vocab_size)


@pytest.mark.parametrize(
    ("head", "draft"),
    [
        *(("any-order", draft) for draft in DRAFTS),
        *((head, draft) for head in ("gru", "lookahead") for draft in ("itself", "shared-chain")),
        *(("another order", draft) for draft in ("itself", "product")),
    ],
)
@pytest.mark.parametrize("process", PROCESSES)
def test_a_draft_does_not_change_the_law(process: str, head: str, draft: str) -> None:
    """χ² of draws against the head's own law, enumerated, whatever drafts."""
    if (process, draft) == ("uniform", "shared-mixture"):
        pytest.skip("this head is for masks")
    denoiser = model(PROCESSES[process], HEADS[head], 0)
    law, options, decoding = law_of(denoiser, DRAWS), DRAFTS[draft], DraftAndVerify()
    other = None if options is None else law_of(model(PROCESSES[process], options, 1), DRAWS)
    samples = law.decoded(decoding, other).sample(SampleStreams(3, torch.arange(DRAWS)))
    assert p_value(law, samples) > 1e-4
    assert 0 < decoding.acceptance < 1
    assert decoding.sequences == DRAWS
    assert isinstance(law, AutoregressiveLaw)
    known = int(law.pinned()[1][0].sum())
    assert known == (process == "masked")
    assert decoding.tokens == (L - known) * DRAWS
    assert DRAWS < decoding.passes <= decoding.tokens


def test_the_head_itself_as_a_draft_is_always_accepted() -> None:
    law = law_of(model(PROCESSES["masked"], HEADS["any-order"], 0), 500)
    decoding = DraftAndVerify()
    law.decoded(decoding, law).sample(generator_for(1))
    assert decoding.acceptance == 1
    assert decoding.passes == 500


class WrongAboutItself(ProductLaw):
    """A law whose conditionals are not those that it draws by."""

    def conditional_logits(self, x0: Tensor) -> Tensor:
        return self.logits * 0.3

    def given(self, x0: Tensor, known: Tensor) -> WrongAboutItself:
        return WrongAboutItself(super().given(x0, known).source)


def test_a_draft_that_misstates_its_conditionals_is_found_out() -> None:
    """The test above can fail: acceptance by other probabilities than the draft's biases it."""
    law = law_of(model(PROCESSES["uniform"], HEADS["gru"], 0), DRAWS)
    wrong = WrongAboutItself(2 * torch.randn(1, L, V, dtype=torch.float64)).expand(1)
    wrong = WrongAboutItself(wrong.logits.expand(DRAWS, -1, -1))
    samples = law.decoded(DraftAndVerify(), wrong).sample(generator_for(4))
    assert p_value(law, samples) < 1e-6


def test_tempered_and_conditioned_laws_are_drawn_as_they_are() -> None:
    law = law_of(model(PROCESSES["uniform"], HEADS["any-order"], 0))
    known = torch.tensor([[False, True, False]])
    for part in (law.tempered(0.7, 0.9), law.given(torch.tensor([[0, 1, 0]]), known)):
        wide = part.expand(DRAWS).decoded(DraftAndVerify())
        assert p_value(part, wide.sample(generator_for(2))) > 1e-4


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ProductLaw(normal(1, L, V)),
        lambda: MixtureLaw(normal(1, 4, L, V), normal(1, 4)),
    ],
    ids=["product", "mixture"],
)
def test_a_draft_without_some_tokens_leaves_them_their_probability(make: Any) -> None:
    torch.manual_seed(3)
    law, draft = law_of(model(PROCESSES["uniform"], HEADS["gru"], 0)), make()
    narrow = draft.tempered(1.0, 0.4)
    assert bool((narrow.enumerate() == -torch.inf).any())
    samples = law.expand(DRAWS).decoded(DraftAndVerify(), narrow.expand(DRAWS))
    assert p_value(law, samples.sample(generator_for(2))) > 1e-4


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("process", PROCESSES)
def test_fixed_points_are_the_walks_samples_through_the_sampler(process: str, head: str) -> None:
    """Bit for bit: several steps, a prompt, sharpened draws, whatever the batch."""
    denoiser = model(PROCESSES[process], HEADS[head], 0, length=8)
    prompt = torch.tensor([1, 2])
    several: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7, "top_p": 0.9},
        {"prompt": prompt},
        {"temperature": 0.0},
    ]
    for options in several:
        walk = run(denoiser, 40, 2, generator=5, **options)
        found = run(denoiser, 40, 2, generator=5, decoding="fixed-point", batch_size=7, **options)
        assert torch.equal(walk.samples, found.samples)
        assert walk.decoding is None
        assert isinstance(found.decoding, FixedPoint)
        # Two steps, 40 samples; never more passes than positions and one to see that it ends.
        assert found.decoding.sequences == 80
        assert 80 <= found.decoding.passes <= 80 * 9
        assert "passes over all positions" in str(found.decoding)


@pytest.mark.parametrize("head", HEADS)
def test_a_walk_passes_what_is_visible_and_ends_at_what_is_read(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = model(PROCESSES["masked"], HEADS[head], 0, length=8)
    x = torch.full((3, 8), denoiser.process.mask or 0)
    x[:, [0, 1, 2, 6]] = torch.tensor([[0, 1, 2, 1], [1, 1, 0, 2], [2, 0, 1, 0]])
    x[1:, 3] = 1
    law = denoiser.requires_grad_(False)(x, 0.5)
    assert isinstance(law, AutoregressiveLaw)
    visible, begin, steps = x != denoiser.process.mask, type(law.conditionals).begin, []

    def counting(conditionals: Any) -> Any:
        walk = begin(conditionals)
        following = walk.next_logits
        steps.clear()

        def next_logits(step: int, x0: Tensor) -> Tensor:
            steps.append(step)
            return following(step, x0)

        monkeypatch.setattr(walk, "next_logits", next_logits)
        return walk

    monkeypatch.setattr(type(law.conditionals), "begin", counting)
    streams = partial(SampleStreams, 3, torch.arange(3))
    found = law.sample(streams())
    assert torch.equal(found[visible], x[visible])
    # All of the shortest prefix, in the order of the law; a token that stands later is met.
    assert steps == list(range(4 if denoiser.kind == "any-order" else 3, 8))
    some = torch.zeros_like(visible)
    some[:, 4] = True
    part = law.sample_at(some, streams())
    assert torch.equal(part[:, 4], found[:, 4])
    assert steps == ([4, 5] if denoiser.kind == "any-order" else [3, 4])
    # The same tokens come of a walk that passes nothing.
    monkeypatch.setattr(AutoregressiveLaw, "pinned", lambda law: (x * 0, visible & False))
    assert torch.equal(law.sample(streams()), found)
    assert steps == list(range(8))


def test_infilling_scattered_holes_by_fixed_point() -> None:
    denoiser = model(PROCESSES["masked"], HEADS["any-order"], 0, length=8)
    fixed = torch.tensor([True, False, False, True, False, True, False, False])
    given: dict[str, Any] = {"prompt": torch.tensor([0, 0, 0, 1, 0, 2, 0, 0]), "fixed": fixed}
    walk = run(denoiser, 30, 1, generator=2, **given)
    found = run(denoiser, 30, 1, generator=2, decoding="fixed-point", **given)
    assert torch.equal(walk.samples, found.samples)
    assert found.decoding is not None
    assert found.decoding.tokens == 30 * 5


@pytest.mark.parametrize("draft", ["itself", "shared-chain"])
def test_drafted_samples_follow_the_exact_output_law_in_any_batch(draft: str) -> None:
    process, options = PROCESSES["masked"], DRAFTS[draft]
    denoiser = model(process, HEADS["any-order"], 0)
    other = None if options is None else model(process, options, 1)
    law = exact_output_law(denoiser, 2)
    found = run(denoiser, 8000, 2, generator=1, decoding="draft", draft=other, batch_size=8000)
    assert chi_square_p(found.samples, law, V) > 1e-4
    one = run(denoiser, 23, 2, generator=1, draft=other, decoding="draft", batch_size=1)
    assert torch.equal(one.samples, found.samples[:23])
    prompt = torch.tensor([1])
    given: dict[str, Any] = {"generator": 1, "decoding": "draft", "draft": other, "prompt": prompt}
    some = [run(denoiser, 9, 2, batch_size=b, **given) for b in (2, 9)]
    assert torch.equal(some[0].samples, some[1].samples)
    assert bool((some[0].samples[:, 0] == 1).all())


def test_a_draft_alone_says_how_to_decode() -> None:
    process = PROCESSES["masked"]
    denoiser = model(process, HEADS["any-order"], 0)
    other = model(process, {"kind": "shared-chain", "states": 6}, 1).train()
    found = run(denoiser, 5, 1, generator=1, draft=other)
    assert isinstance(found.decoding, DraftAndVerify)
    assert found.nfe == 1
    assert other.evaluations == 1
    assert other.training
    assert "drafted tokens accepted" in str(found.decoding)


def test_refusals_come_before_anything_is_computed() -> None:
    process = PROCESSES["masked"]
    denoiser = model(process, HEADS["any-order"], 0)
    product = model(process, {"kind": "product"}, 0)
    other = model(Absorbing(V + 2, Linear(6.0)), {"kind": "product"}, 0)
    cases: list[tuple[NetworkDenoiser, dict[str, Any], str]] = [
        (product, {"decoding": "fixed-point"}, "autoregressive laws"),
        (product, {"draft": denoiser}, "autoregressive laws"),
        (denoiser, {"decoding": "jacobi"}, "unknown decoding 'jacobi'; known: sequential, fixed"),
        (denoiser, {"decoding": "fixed-point", "draft": product}, "takes no draft"),
        (denoiser, {"draft": other}, "a draft must have"),
    ]
    for subject, options, said in cases:
        with pytest.raises(ValueError, match=said):
            run(subject, 2, 1, **options)
    assert denoiser.evaluations == product.evaluations == 0


def test_an_order_that_does_not_ascend_is_drafted_for_by_independent_positions_alone() -> None:
    law = law_of(model(PROCESSES["uniform"], HEADS["another order"], 0))
    chain = law_of(model(PROCESSES["uniform"], HEADS["any-order"], 1))
    law.decoded(DraftAndVerify()).sample(generator_for(0))
    with pytest.raises(ValueError, match="from left to right"):
        law.decoded(DraftAndVerify(), chain).sample(generator_for(0))
