"""Differences between samplers over seeds: against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.verdicts import best_at, compare
from fewjump.evaluate.bootstrap import half_width


def row(
    student: str, steps: int, seed: int, nll: float | None, half: float = 0.0
) -> dict[str, Any]:
    ends = {} if nll is None else {"nll_low": nll - half, "nll_high": nll + half}
    return {"student": student, "steps": steps, "seed": seed, "nll": nll, **ends}


def test_student_interval_of_three_values() -> None:
    # mean 2, standard deviation 1, t(2) = 4.303
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
    assert half_width([5.0]) == 0
    assert half_width([0.0, 1.0] * 10) == pytest.approx(2.262 * (5 / 19 / 20) ** 0.5)


def test_seeds_are_paired_and_their_spread_counts() -> None:
    rows = [row("teacher", 16, seed, 2.0 + seed) for seed in range(3)]
    rows += [row("chain", 1, seed, 1.5 + seed + 0.1 * (seed - 1)) for seed in (2, 0, 1)]
    verdict = compare(rows, ("chain", 1), ("teacher", 16), "nll")
    assert verdict.by_seed == pytest.approx((-0.6, -0.5, -0.4))
    assert verdict.difference == pytest.approx(-0.5)
    assert verdict.high == pytest.approx(-0.5 + 4.303 * 0.1 / 3**0.5)
    assert verdict.better
    assert verdict.no_worse


@pytest.mark.parametrize(
    ("value", "better", "no_worse"),
    [(1.4, True, True), (1.8, False, True), (2.2, False, True), (2.6, False, False)],
)
def test_one_seed_has_the_interval_of_its_samples(value, better, no_worse) -> None:
    rows = [row("teacher", 16, 0, 2.0, 0.3), row("gru", 1, 0, value, 0.4)]
    verdict = compare(rows, ("gru", 1), ("teacher", 16), "nll")
    assert (verdict.better, verdict.no_worse) == (better, no_worse)
    assert verdict.high - verdict.difference == pytest.approx(0.5)
    assert verdict.challenger == ("gru", 1)


def test_values_that_are_missing() -> None:
    rows = [row("teacher", 16, 0, 2.0), row("chain", 1, 1, 1.0), row("mixture", 1, 0, None)]
    with pytest.raises(ValueError, match=r"found seeds \[1\] and \[0\]"):
        compare(rows, ("chain", 1), ("teacher", 16), "nll")
    assert best_at(rows, ("mixture",), 1, "nll") is None


def test_best_by_the_mean_over_seeds() -> None:
    rows = [row("chain", 1, 0, 1.0), row("chain", 1, 1, 3.0)]
    rows += [row("mixture", 1, 0, 1.5), row("mixture", 1, 1, 1.9), row("gru", 1, 0, 0.1)]
    assert best_at(rows, ("chain", "mixture"), 1, "nll") == "mixture"
