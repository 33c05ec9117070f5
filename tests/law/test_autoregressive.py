"""The autoregressive law: what is exact, what is refused, what is estimated."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from registry_laws import TabularConditionals, autoregressive, normal, p_value

from fewjump.law.autoregressive import AutoregressiveLaw
from fewjump.law.base import enumerate_states, ravel
from fewjump.law.product import ProductLaw
from fewjump.random import generator_for

B, L, V = 3, 3, 3


def test_conditioning_to_the_right_is_refused_and_names_the_remedy() -> None:
    law = autoregressive()
    known = torch.zeros(B, L, dtype=torch.bool)
    known[1, 2] = True
    with pytest.raises(ValueError, match="sample_given"):
        law.given(torch.zeros(B, L, dtype=torch.int64), known)


def test_pinning_while_sampling_would_be_wrong() -> None:
    """The reason for the refusal: left-to-right pinning is not the conditional."""
    law = autoregressive()
    x0 = torch.ones(B, L, dtype=torch.int64)
    known = torch.tensor([[False, False, True]]).expand(B, -1)
    pinned = AutoregressiveLaw(law.conditionals, x0=x0, known=known)
    states = enumerate_states(V, L)
    exact = law.enumerate().exp() * (states[:, 2] == 1)
    exact = exact / exact.sum(-1, keepdim=True)
    assert float((pinned.enumerate().exp() - exact).abs().sum(-1).max()) > 0.1


def test_a_position_that_is_certain_may_be_known_anywhere() -> None:
    table = normal(0, B, L, V ** (L - 1), V)
    table[:, 2, :, 1:] = -torch.inf
    law = AutoregressiveLaw(TabularConditionals(table))
    known = torch.tensor([[False, False, True]]).expand(B, -1)
    same = law.given(torch.zeros(B, L, dtype=torch.int64), known)
    torch.testing.assert_close(same.enumerate(), law.enumerate())


def test_importance_samples_approach_the_conditional() -> None:
    law = AutoregressiveLaw(TabularConditionals(normal(0, 1, L, V ** (L - 1), V, scale=1.0)))
    states = enumerate_states(V, L)
    exact = law.enumerate().exp()[0] * (states[:, 2] == 1)
    exact = exact / exact.sum()
    copies = law.select(torch.zeros(2_000, dtype=torch.int64))
    x0 = torch.ones(2_000, L, dtype=torch.int64)
    known = torch.tensor([[False, False, True]]).expand(2_000, -1)
    drawn, size = copies.sample_given(x0, known, particles=200, generator=generator_for(0))
    assert bool((drawn[:, 2] == 1).all())
    assert bool(((size >= 1) & (size <= 200)).all())
    counts = torch.bincount(ravel(drawn, V), minlength=V**L)
    assert p_value(counts, exact) > 1e-4


def test_effective_sample_size_is_full_when_nothing_is_known() -> None:
    law = autoregressive()
    known = torch.zeros(B, L, dtype=torch.bool)
    _, size = law.sample_given(torch.zeros(B, L, dtype=torch.int64), known, particles=7)
    torch.testing.assert_close(size, torch.full_like(size, 7.0))


def test_summing_out_the_token_lowers_the_variance() -> None:
    law = autoregressive()
    target = ProductLaw(normal(3, B, L, V, scale=1.0))
    target.logits[0, 0, 2] = -torch.inf
    rows = torch.arange(B).repeat(4_000)
    many, goal = law.select(rows), target.select(rows)
    better = many.cross_entropy(goal, generator_for(1)).reshape(-1, B)
    plain = -many.log_prob(goal.sample(generator_for(1))).reshape(-1, B)
    torch.testing.assert_close(better.mean(0), plain.mean(0), atol=0.2, rtol=0)
    assert bool((better.var(0) < 0.9 * plain.var(0)).all())


def test_sampled_marginals_approach_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    law = AutoregressiveLaw(autoregressive().conditionals, marginal_samples=800)
    exact = law.marginals()
    monkeypatch.setattr("fewjump.law.autoregressive._EXACT_MARGINAL_STATES", 1)
    estimate = law.marginals()
    torch.testing.assert_close(estimate, law.marginals(), atol=0, rtol=0)
    torch.testing.assert_close(estimate.sum(-1), torch.ones(B, L, dtype=torch.float64))
    assert 0 < float((estimate - exact).abs().max()) < 0.06


def test_tempering_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="already tempered"):
        autoregressive().tempered(0.5).tempered(0.5)


def test_sampled_marginals_of_a_row_do_not_depend_on_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fewjump.law.autoregressive._EXACT_MARGINAL_STATES", 1)
    law = autoregressive().select(torch.tensor([0, 1, 0, 1]))
    together = law.marginals()
    for row in range(4):
        alone = law.select(torch.tensor([row])).marginals()
        torch.testing.assert_close(alone[0], together[row], atol=1e-12, rtol=0)
