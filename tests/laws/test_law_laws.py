"""What holds for every law: it is a distribution, and all its methods describe the same one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from registry_laws import LAWS, B, JointConditionals, L, V, p_value, product

from fewjump.law.autoregressive import AutoregressiveLaw
from fewjump.law.base import Law, enumerate_states, ravel
from fewjump.law.latent import LatentLaw
from fewjump.law.posterior import PosteriorLaw
from fewjump.law.product import ProductLaw
from fewjump.random import SampleStreams

Make = Callable[..., Law]
every_law = pytest.mark.parametrize("make", LAWS.params())
STATES = enumerate_states(V, L)


def wide(law: Law, copies: int) -> Law:
    """The law with every row repeated, so that one call makes many draws."""
    return law.select(torch.arange(B).repeat(copies))


def histogram(law: Law, copies: int, generator: torch.Generator) -> Tensor:
    x = wide(law, copies).sample(generator)
    index = ravel(x, V).reshape(copies, B)
    return torch.stack([torch.bincount(index[:, b], minlength=V**L) for b in range(B)])


def test_every_law_is_registered() -> None:
    assert LAWS.missing() == set()


@every_law
def test_laws_here_are_not_certain(make: Make) -> None:
    """What holds one sequence for certain would pass most of the tests below, right or wrong."""
    assert float(make().enumerate().exp().amax(-1).median()) < 0.95


@every_law
def test_log_probs_sum_to_one(make: Make) -> None:
    law = make()
    total = law.enumerate().logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros(B, dtype=total.dtype), atol=1e-10, rtol=0)


@every_law
def test_enumerate_agrees_with_log_prob(make: Make) -> None:
    law = make()
    x = STATES[torch.tensor([5, 11, 20])]
    got = law.enumerate()[torch.arange(B), ravel(x, V)]
    torch.testing.assert_close(got, law.log_prob(x), atol=1e-12, rtol=1e-12)


@every_law
def test_marginals_agree_with_log_probs(make: Make) -> None:
    law = make()
    probability = law.enumerate().exp()
    expected = torch.zeros(B, L, V, dtype=torch.float64)
    for i in range(L):
        for a in range(V):
            expected[:, i, a] = probability[:, STATES[:, i] == a].sum(-1)
    torch.testing.assert_close(law.marginals().double(), expected, atol=1e-10, rtol=0)


@every_law
def test_samples_follow_log_prob(make: Make, generator: torch.Generator) -> None:
    law = make()
    counts = histogram(law, 20_000, generator)
    probability = law.enumerate().exp()
    for b in range(B):
        assert p_value(counts[b], probability[b]) > 1e-4


@every_law
def test_given_is_the_enumerated_conditional(make: Make) -> None:
    law = make()
    x0 = torch.tensor([[0, 1, 2], [1, 1, 0], [2, 0, 1]])
    known = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    if isinstance(law, AutoregressiveLaw) and not isinstance(law.conditionals, JointConditionals):
        # Other orders of a network are other laws, but for what comes first in this one.
        order = law.conditionals.order
        rank = torch.arange(3).expand(3, 3) if order is None else order.argsort(1)
        known = rank < torch.tensor([[1], [2], [0]])
    probability = law.enumerate().exp()
    agrees = ((STATES[None] == x0[:, None]) | ~known[:, None]).all(-1)
    expected = probability * agrees
    if bool((expected.sum(-1) == 0).any()):
        x0 = torch.where(known, 1, x0)  # what the pinned case allows
        agrees = ((STATES[None] == x0[:, None]) | ~known[:, None]).all(-1)
        expected = probability * agrees
    expected = expected / expected.sum(-1, keepdim=True)
    conditioned = law.given(x0, known)
    torch.testing.assert_close(conditioned.enumerate().exp(), expected, atol=1e-10, rtol=0)
    again = conditioned.given(x0, known)
    torch.testing.assert_close(again.enumerate().exp(), expected, atol=1e-10, rtol=0)


@every_law
def test_samples_of_the_conditional_hold_the_known_tokens(
    make: Make, generator: torch.Generator
) -> None:
    x0 = torch.ones(B, L, dtype=torch.int64)
    known = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    law = make().given(x0, known)
    counts = histogram(law, 5_000, generator)
    probability = law.enumerate().exp()
    for b in range(B):
        assert p_value(counts[b], probability[b]) > 1e-4


def backwards(law: Law) -> bool:
    """Whether a position that is not known is drawn after one to its right."""
    if not isinstance(law, AutoregressiveLaw) or law.conditionals.order is None:
        return False
    known = law.pinned()[1]
    open_positions = [
        [i for i in row if not known[b, i]] for b, row in enumerate(law.conditionals.order.tolist())
    ]
    return any(row != sorted(row) for row in open_positions)


@every_law
def test_conditionals_from_left_to_right_are_those_of_the_enumerated_law(make: Make) -> None:
    law = make()
    table = law.enumerate().exp().reshape(B, *(V,) * L)
    x0 = law.sample(torch.Generator().manual_seed(3))
    if backwards(law) or isinstance(law, PosteriorLaw | LatentLaw):
        with pytest.raises(ValueError, match="from left to right"):
            law.conditional_logits(x0)
        return
    found = law.conditional_logits(x0).double().softmax(-1)
    for b in range(B):
        here = table[b]
        for i in range(L):
            weights = here.reshape(V, -1).sum(1)
            expected = weights / weights.sum()
            torch.testing.assert_close(found[b, i], expected, atol=1e-10, rtol=0)
            here = here[x0[b, i]]


@every_law
def test_cross_entropy_is_unbiased(make: Make, generator: torch.Generator) -> None:
    law = make()
    possible = law.marginals() > 0
    target = ProductLaw(product(7).logits.masked_fill(~possible, -torch.inf))
    allowed = target.enumerate().exp()
    log_prob = law.enumerate()
    reachable = ~((log_prob == -torch.inf) & (allowed > 0)).any(-1)
    exact = -(allowed * log_prob.masked_fill(allowed == 0, 0.0)).sum(-1)
    copies = 20_000
    draws = wide(law, copies).cross_entropy(wide(target, copies), generator).reshape(copies, B)
    mean, error = draws.mean(0), draws.std(0) / copies**0.5
    assert bool(reachable.any())
    off = ((mean - exact).abs() / error.clamp(min=1e-12))[reachable]
    close = torch.isclose(mean, exact, atol=1e-10)[reachable]
    assert bool((close | (off < 4.5)).all())


@every_law
def test_select_takes_rows(make: Make) -> None:
    law = make()
    joint = law.enumerate()
    for rows in (torch.tensor([2, 0]), torch.tensor([1]), torch.tensor([True, False, True])):
        part = law.select(rows)
        assert part.batch_size == len(joint[rows])
        torch.testing.assert_close(part.enumerate(), joint[rows], atol=1e-12, rtol=1e-12)


@every_law
def test_no_rows_have_a_law_too(make: Make, generator: torch.Generator) -> None:
    """What a mask picks may be nothing."""
    law, x0 = make().select(torch.zeros(B, dtype=torch.bool)), torch.zeros(0, L, dtype=torch.int64)
    assert law.batch_size == 0
    assert law.sample(generator).shape == (0, L)
    assert law.log_prob(x0).shape == law.cross_entropy(law, generator).shape == (0,)
    assert law.marginals().shape == (0, L, V)
    assert law.given(x0, x0.bool()).sample(generator).shape == (0, L)


@every_law
@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (1.0, 0.7), (1.6, 0.9)])
def test_tempered_law_is_a_law_and_is_what_it_samples(
    make: Make, temperature: float, top_p: float, generator: torch.Generator
) -> None:
    law = make().tempered(temperature, top_p)
    probability = law.enumerate().exp()
    torch.testing.assert_close(
        probability.sum(-1), torch.ones(B, dtype=torch.float64), atol=1e-10, rtol=0
    )
    counts = histogram(law, 5_000, generator)
    for b in range(B):
        assert p_value(counts[b], probability[b]) > 1e-4


@every_law
def test_temperature_refuses_nonsense(make: Make) -> None:
    with pytest.raises(ValueError, match="temperature"):
        make().tempered(-1.0)
    with pytest.raises(ValueError, match="top_p"):
        make().tempered(1.0, 0.0)


@every_law
def test_samples_do_not_depend_on_the_batch_split(make: Make) -> None:
    law = make()
    together = law.sample(SampleStreams(3, torch.arange(B)))
    apart = [
        law.select(torch.tensor([b])).sample(SampleStreams(3, torch.tensor([b]))) for b in range(B)
    ]
    assert torch.equal(together, torch.cat(apart))


@every_law
def test_some_positions_are_drawn_as_with_all(make: Make) -> None:
    law = make()
    for places in ([0], [1], [0, 2], []):
        where = torch.zeros(B, L, dtype=torch.bool)
        where[:, places] = True
        where[0] = where[0].flip(0)
        some = law.sample_at(where, SampleStreams(3, torch.arange(B)))
        whole = law.sample(SampleStreams(3, torch.arange(B)))
        assert torch.equal(some[where], whole[where])


@every_law
def test_expanded_law_draws_what_its_copies_draw(make: Make) -> None:
    copies = 50
    for b in range(B):
        one = make().select(torch.tensor([b]))
        same = one.select(torch.zeros(copies, dtype=torch.int64))
        expanded = one.expand(copies)
        assert expanded.batch_size == copies
        streams = [SampleStreams(3, torch.arange(copies)) for _ in range(2)]
        x = same.sample(streams[0])
        assert torch.equal(expanded.sample(streams[1]), x)
        torch.testing.assert_close(expanded.log_prob(x), same.log_prob(x), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(expanded.marginals(), same.marginals(), atol=1e-12, rtol=1e-12)


@every_law
@pytest.mark.parametrize("change", ["", "given", "tempered"])
def test_rows_of_an_expanded_law_follow_its_log_prob(
    make: Make, change: str, generator: torch.Generator
) -> None:
    copies = 5_000
    one = make().select(torch.tensor([1]))
    x0, known = torch.ones(1, L, dtype=torch.int64), torch.tensor([[True, False, False]])
    if change == "given":
        one = one.given(x0, known)
    if change == "tempered":
        one = one.tempered(0.7, 0.9)
    x = one.expand(copies).sample(generator)
    counts = torch.bincount(ravel(x, V), minlength=V**L)
    assert p_value(counts, one.enumerate()[0].exp()) > 1e-4


@every_law
def test_expanded_law_can_be_conditioned_tempered_and_selected(make: Make) -> None:
    one = make().select(torch.tensor([1]))
    law = one.expand(3)
    x0 = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    known = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    same = one.select(torch.zeros(3, dtype=torch.int64))
    for changed, expected in (
        (law.given(x0, known), same.given(x0, known)),
        (law.tempered(0.7, 0.9), same.tempered(0.7, 0.9)),
        (law.select(torch.tensor([2, 0])), same.select(torch.tensor([2, 0]))),
    ):
        torch.testing.assert_close(changed.enumerate(), expected.enumerate(), atol=1e-12, rtol=0)


def test_only_a_law_of_one_row_expands() -> None:
    with pytest.raises(ValueError, match="one row"):
        product().expand(4)
