"""Processes as plain data."""

from __future__ import annotations

import json

import pytest
import torch

from fewjump.process import PROCESSES as BY_NAME
from fewjump.process import process_from_config
from laws.registry import PROCESSES, SCHEDULES

pytestmark = pytest.mark.filterwarnings("ignore:at t = 1 the slowest mode:UserWarning")


SAVED = [case for case in PROCESSES.params() if "function" not in case.id]


@pytest.mark.parametrize("make", SAVED)
@pytest.mark.parametrize("schedule", SCHEDULES.names())
def test_round_trip_to_the_last_bit(make, schedule):
    process = make(SCHEDULES.make(schedule))
    text = json.dumps(process.config(), allow_nan=False)
    again = process_from_config(json.loads(text))
    assert type(again) is type(process)
    assert again.schedule == process.schedule
    assert again.vocab_size == process.vocab_size
    assert torch.equal(again.prior(), process.prior())
    assert torch.equal(again.rate(0.6), process.rate(0.6))
    assert json.dumps(again.config()) == text
    assert getattr(again, "mask", None) == getattr(process, "mask", None)


def test_every_process_can_be_rebuilt():
    ours = {cls for cls in BY_NAME.values() if cls.__module__.startswith("fewjump.")}
    assert ours == PROCESSES.concrete()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "Tumbling"}, "unknown process 'Tumbling'; known: Uniform, Absorbing"),
        ({}, "unknown process None"),
        ({"name": "Uniform", "vocab_size": 3}, "lacks its 'schedule'"),
        ({"name": "Uniform", "schedule": {"name": "LogLinear"}}, "does not fit process Uniform"),
        (
            {"name": "Uniform", "vocab_size": 3.5, "schedule": {"name": "LogLinear"}},
            "vocab_size must be a whole number, got 3.5",
        ),
        (
            {"name": "Uniform", "vocab_size": 3, "kept": 2, "schedule": {"name": "LogLinear"}},
            r"kept lists tokens, such as kept=\[2\]",
        ),
        (
            {"name": "Uniform", "vocab_size": 3, "mask": 1, "schedule": {"name": "LogLinear"}},
            "does not fit process Uniform",
        ),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        process_from_config(config)
