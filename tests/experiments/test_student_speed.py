"""Speeds at equal quality: ratios within a turn, and only of samplers that were chosen."""

from __future__ import annotations

import pytest
import torch

from experiments.student_speed import in_turns, speed_rows
from experiments.wall_clock import Speed
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear


def test_ratios_are_taken_within_a_turn():
    """A machine that is twice as slow in the second turn leaves the ratio where it was."""
    found = [
        Speed("teacher", True, 64, 2.0),
        Speed("chain", True, 1, 1.5),
        Speed("product", False, 16, 3.0),
    ]
    seconds = {
        ("teacher", 64): [10.0, 20.0, 10.0],
        ("chain", 1): [1.0, 2.0, 1.0],
        ("product", 16): [4.0, 10.0, 5.0],
    }
    single = {**seconds, ("chain", 1): [5.0, 10.0, 4.0]}
    teacher, chain, product = speed_rows(found, seconds, single, 50, 64)
    assert (chain["single_ratio"], chain["single_ratio_most"]) == (2.0, 2.5)
    assert teacher["ratio"] == teacher["ratio_least"] == teacher["ratio_most"] == 1.0
    assert chain["ratio_least"] == chain["ratio_most"] == pytest.approx(10.0)
    assert chain["samples_per_second"] == pytest.approx(50.0)
    assert chain["quality"] == 1.5
    assert (product["ratio_least"], product["ratio"], product["ratio_most"]) == (2.0, 2.0, 2.5)
    assert not product["reached"]


def test_every_sampler_has_its_turns():
    truth = EnumeratedJoint.random(3, 2, 1.0, torch.Generator().manual_seed(0))
    teacher = truth.denoiser(Absorbing(4, LogLinear()))
    other = truth.denoiser(Absorbing(4, LogLinear()))
    seconds = in_turns(
        {"teacher": teacher, "student": other}, [("teacher", 3), ("student", 1)], 8, 2
    )
    assert {k: len(v) for k, v in seconds.items()} == {("teacher", 3): 2, ("student", 1): 2}
    assert teacher.evaluations == 2 * 3
    assert other.evaluations == 1 + 2
    assert all(s > 0 for v in seconds.values() for s in v)
