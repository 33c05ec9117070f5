"""``--times`` and ``--grid fitted`` reach what they name."""

from __future__ import annotations

from typing import get_args

import pytest
import tyro

from fewjump.commands.choices import TimesName
from fewjump.commands.distill import Options, objective_of
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear

MASKED = Absorbing(5, LogLinear())


def options(*words: str) -> Options:
    return tyro.cli(Options, args=words)


@pytest.mark.parametrize("name", get_args(TimesName))
def test_times_of_a_product_student(name: str) -> None:
    objective = objective_of(options("--times", name, "--steps", "40"), "forward", MASKED)
    described = vars(objective).get("times")
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
    chain = options("--times", "importance", "--student", "chain")
    assert "importance=True" in vars(objective_of(chain, "forward", MASKED))["times"]
    for student, times in (
        ("chain", "gap-halving"),
        ("chain", "importance-pairs"),
        ("latent", "importance"),
    ):
        with pytest.raises(ValueError, match=r"near=|latent"):
            objective_of(options("--times", times, "--student", student), "forward", MASKED)
