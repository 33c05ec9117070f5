"""``--times`` and ``--grid fitted`` reach what they name."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from fewjump.commands.arguments import parse
from fewjump.commands.distill import Options, TimesName, objective_of


def objective(*words: str) -> Any:
    return objective_of(parse(Options, ["--data", "x.txt", *words], "fewjump distill"))


@pytest.mark.parametrize("name", get_args(TimesName))
def test_times_of_a_product_student(name: str) -> None:
    found = objective("--times", name)
    # Steps that are left open are those of the run, and of its first length if it goes on.
    found.settle(None, 40, {})
    described = found.times and found.times.describe()
    again = objective("--times", name)
    again.settle(None, 80, {"times": described})
    assert (again.times and again.times.describe()) == described
    expected = {
        "uniform": None,
        "importance": "importance=True",
        "importance-pairs": "gap_bins=4, importance=True",
        "learned-weight": "learned_weight=True",
        "gap-doubling": "curriculum=doubling, curriculum_steps=40",
        "gap-halving": "curriculum=halving, curriculum_steps=40",
    }[name]
    assert described is None if expected is None else expected in str(described)


def test_times_of_joint_students() -> None:
    chain = objective("--times", "importance", "--student", "chain")
    assert "importance=True" in chain.times.describe()
    for student, times, said in (
        ("chain", "gap-halving", r"use it with student='product', or leave it out \(--times\)"),
        ("chain", "importance-pairs", r"use gap_bins=1 \(--times importance\)"),
        ("latent", "importance", "times is not for latent students"),
    ):
        with pytest.raises(ValueError, match=said):
            objective("--times", times, "--student", student)
