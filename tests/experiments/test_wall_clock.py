"""Speed at equal quality, on made-up rows."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.wall_clock import (
    Point,
    points_of,
    points_of_results,
    speed_at_quality,
)
from fewjump.results import Row


def made_up() -> list[Point]:
    """A teacher of 10 ms a step, a chain that is level at 4 steps, a mixture that never is."""
    teacher = [Point("teacher", k, 2.0 + 4 / k, 0.01 * k) for k in (1, 4, 16, 64)]
    chain = [Point("chain", k, 2.0 + 0.2 / k, 0.02 * k) for k in (1, 2, 4, 8)]
    mixture = [Point("mixture", k, 3.0 + k / 100, 0.011 * k) for k in (1, 4)]
    return teacher + chain + mixture


def test_cheapest_steps_of_equal_quality() -> None:
    teacher, chain, mixture = speed_at_quality(made_up())
    assert (teacher.steps, teacher.reached) == (64, True)
    # teacher at 64: 2.0625; chain: 2.2, 2.1, 2.05
    assert (chain.steps, chain.reached) == (4, True)
    assert (mixture.steps, mixture.reached) == (1, False)


def test_the_fastest_wins_though_it_has_more_steps() -> None:
    points = [Point("teacher", 8, 1.0, 1.0), Point("s", 1, 0.5, 0.4), Point("s", 2, 0.9, 0.1)]
    assert speed_at_quality(points, steps=8)[1].steps == 2


def test_seeds_are_averaged_before_anything_is_compared() -> None:
    points = [Point("teacher", 8, quality, 1.0) for quality in (1.0, 3.0)]
    points += [Point("s", 1, quality, 0.1) for quality in (0.5, 3.5)]
    student = speed_at_quality(points, steps=8)[1]
    assert student.reached
    assert student.quality == pytest.approx(2.0)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found steps \[1, 4, 16, 64\]"):
        speed_at_quality(made_up(), steps=32)
    with pytest.raises(ValueError, match="positive time"):
        speed_at_quality([Point("teacher", 64, 1.0, 0.0)])


def test_rows_of_an_experiment_and_of_results() -> None:
    row: dict[str, Any] = {"student": "chain", "steps": 2, "samples": 50, "seconds": 5.0}
    points = points_of([{**row, "nll": 1.5}, {**row, "nll": None}, {**row}], "nll")
    assert points == [Point("chain", 2, 1.5, 0.1)]
    rows = [
        Row("student", "ancestral", 4, 4, "frechet", 20.0, seconds=2.0),
        Row("student", "ancestral", 4, 4, "recall", 0.5, seconds=2.0),
        Row("test data", "", None, None, "frechet", 11.0),
    ]
    assert points_of_results(rows, "frechet", 100) == [Point("student", 4, 20.0, 0.02)]
