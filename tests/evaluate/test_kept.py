"""Samples take frames and lengths from the sequences that they are compared with."""

from __future__ import annotations

import torch

from fewjump.data import Characters, Dataset
from fewjump.evaluate import TextMeter, quality
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from publish.toy import model

PAD = 3


def test_kept_tokens_come_from_test_sequences() -> None:
    rows = torch.tensor([[0, 1, 2, PAD], [1, PAD, PAD, PAD], [2, 2, 0, 1]]).repeat(20, 1)
    data = Dataset(rows, rows[:6], rows[:3], Characters("abc#", "#"), "toy")
    keeping = model(4, None, process=Absorbing(5, LogLinear(), kept=[PAD]))
    meter = TextMeter(data)
    given = meter.given(keeping, 4)
    assert given["length"] == 4
    assert torch.equal(given["fixed"], (rows == PAD)[[0, 1, 2, 0]])
    assert torch.equal(given["prompt"], rows[[0, 1, 2, 0]])
    assert meter.given(model(4, None), 4) == {"length": 4}
    found = quality(keeping, meter, [1], num_samples=30, seeds=[0])
    # A third of the rows each of 3, 1 and 4 letters: real and drawn alike.
    assert {row.metric for row in found} >= {"nll", "entropy"}
