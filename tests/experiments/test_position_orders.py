"""Orders of pixels: students that differ in their order alone, judged alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments import position_orders
from experiments.position_orders import HIDDEN, ORDERS, Config, measure
from fewjump.checkpoint import load
from fewjump.data import load_data
from fewjump.demo.digits import Sizes
from fewjump.evaluate.image import ImageMeter, train_classifier


def test_students_of_one_teacher_differ_in_their_order(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with fewjump[eval]")
    whole = load_data("digits")
    labels = {part: found[:30] if part == "test" else found for part, found in whole.labels.items()}
    data = replace(whole, test=whole.test[:30], labels=labels)
    monkeypatch.setattr(position_orders, "load_data", lambda _: data)
    judge = ImageMeter(data, train_classifier(data, steps=5))
    monkeypatch.setattr(position_orders, "ImageMeter", lambda _: judge)
    tiny = Sizes(hidden=16, blocks=1, teacher_steps=2, samples=20)
    config = Config(runs=tmp_path, seeds=1, steps=2, sizes=tiny, evaluations=(1, 2))
    rows = measure(config)["rows"]
    for order in ORDERS:
        mine = [r for r in rows if r["order"] == order]
        assert [r["hidden"] for r in mine if "hidden" in r] == list(HIDDEN)
        assert all(0 < r["nll"] < 4 for r in mine if "hidden" in r)
        assert {r["steps"] for r in mine if r.get("metric") == "frechet"} == {1, 2}
    models = [load(f.parent) for f in sorted(tmp_path.glob("position-orders-*/model/config.json"))]
    assert [model.drawn_in.order for model in models] == ["ascending", "coarse-to-fine"]
    assert {model.drawn_in.columns for model in models} == {8}
