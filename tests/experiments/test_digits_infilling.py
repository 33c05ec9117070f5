"""The lower half of a digit given the upper: whole rows, and an upper half that is not touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments import digits_infilling
from experiments.digits_infilling import HEADS, Config, measure
from fewjump.data import load_data
from fewjump.demo.digits import Sizes
from fewjump.demo.parts import JOINT, TEACHER
from fewjump.evaluate.image import ImageMeter, train_classifier


def test_rows_are_whole_and_the_upper_half_is_given(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with fewjump[eval]")
    monkeypatch.setattr("experiments.filling.FILLED_IN", {TEACHER: (1, 2)})
    monkeypatch.setattr("experiments.filling.FEW", (1,))
    monkeypatch.setattr("experiments.filling._ALONE", 1)
    monkeypatch.setattr("experiments.filling._ORDERS", 1)
    monkeypatch.setattr(digits_infilling, "REPLICATES", 50)
    monkeypatch.setitem(HEADS, "shared-chain", {"states": 4, "length": 64})
    whole = load_data("digits")
    labels = {part: found[:30] if part == "test" else found for part, found in whole.labels.items()}
    data = replace(whole, test=whole.test[:30], labels=labels)
    monkeypatch.setattr(digits_infilling, "load_data", lambda _: data)
    judge = ImageMeter(data, train_classifier(data, steps=5))
    monkeypatch.setattr(digits_infilling, "ImageMeter", lambda _: judge)
    drawn = []
    plain = digits_infilling.draw

    def watched(*args, **options):
        drawn.append(plain(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(digits_infilling, "draw", watched)
    tiny = Sizes(hidden=16, blocks=1, teacher_steps=2, components=4)
    found = measure(Config(runs=tmp_path, steps=2, sizes=tiny))
    rows = found["fillings"]
    assert [r["student"] for r in rows if "steps" in r] == [TEACHER, TEACHER, *HEADS, JOINT]
    assert all(0 < r["nll"] < 4 for r in rows if "steps" not in r)
    assert all(r["frechet"] > 0 and 0 <= r["class_accuracy"] <= 1 for r in rows if "steps" in r)
    x0 = torch.as_tensor(data.test)
    for result in drawn:
        assert torch.equal(result.samples[:, :32], x0[:, :32])
        assert not torch.equal(result.samples[:, 32:], x0[:, 32:])
