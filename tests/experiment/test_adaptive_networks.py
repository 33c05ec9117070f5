"""The adaptive experiment's own logic at tiny sizes: what is compared with what, and taken up."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewjump.data import load_data
from fewjump.data.text import LETTERS_AND_SPACE
from fewjump.evaluate.path_bound import path_bound
from fewjump.experiment import digits, text_sizes
from fewjump.experiment.adaptive_judges import DigitsBench, Judged, NamesBench
from fewjump.experiment.adaptive_networks import CHOICES, Budget, Plan
from fewjump.experiment.adaptive_times import ways

SIZES = text_sizes.Sizes(
    length=6,
    seeds=1,
    hidden=16,
    blocks=1,
    teacher_steps=3,
    product_steps=2,
    joint_steps=2,
    batch_size=8,
    samples=20,
    heads={"product": {}},
    replicates=5,
)
BUDGET = Budget(
    seeds=(0,),
    grid_steps=(2, 4),
    judged_steps=(1, 2),
    sampled_steps=(2,),
    fitted_to=12,
    unseen=20,
    training=(("names", 2), ("digits", 1)),
    batch_size=(("names", 8), ("digits", 4)),
)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> NamesBench:
    pick = random.Random(0)
    words = ["".join(pick.choices(["an", "be", "lo"], k=pick.randint(1, 3))) for _ in range(300)]
    file = tmp_path_factory.mktemp("data") / "names.txt"
    file.write_text("\n".join(words) + "\n")
    data = load_data(file, 6, kind="lines", alphabet=LETTERS_AND_SPACE.strip())
    return NamesBench(data, SIZES, teacher_steps=2)


@pytest.fixture(scope="module")
def images() -> DigitsBench:
    small = digits.Sizes(hidden=16, blocks=1, teacher_steps=1, batch_size=4, samples=30)
    return DigitsBench(sizes=small)


def plan(names: NamesBench, images: DigitsBench, folder: Path) -> Plan:
    return Plan(names, images, folder / "models", folder / "rows", BUDGET)


def test_grids_of_every_teacher_are_judged_and_remembered(names, images, tmp_path) -> None:
    made = plan(names, images, tmp_path)
    rows = made.rows("grids")
    found = {(r["problem"], r["student"], r["steps"]) for r in rows if r["process"] == "bound"}
    problems = {"names, masked", "names, uniform", "digits, masked"}
    assert found == {(p, c, k) for p in problems for c in CHOICES for k in (2, 4)}
    metrics = {r["process"] for r in rows if r["problem"] == "digits, masked"}
    assert metrics == {"bound", "frechet", "1 − precision", "1 − recall"}
    for row in rows:
        if row["student"] == "fitted":
            assert len(row["times"]) == row["steps"] + 1
            assert row["promised"] >= 0
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert made.rows("grids") == rows
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="was made with"):
        replace(made, budget=replace(BUDGET, fitted_to=13)).rows("grids")


def test_every_way_is_trained_and_judged(names, images, tmp_path) -> None:
    rows = plan(names, images, tmp_path).rows("training")
    found = {(r["problem"], r["student"], r["steps"]) for r in rows if r["process"] == "bound"}
    problems = {"names, warm", "digits, warm"}
    assert found == {(p, way, k) for p in problems for way in ways(2) for k in (1, 2)}
    assert {r["steps"] for r in rows if r["process"] != "bound"} == {2}


def test_intervals_of_bounds_are_of_paired_differences(names, tmp_path) -> None:
    """Narrower than the spread of sequences would make them, and none for the standard."""
    teacher = names.masked_teacher(0, tmp_path)
    unseen = names.data.all("test", 20)
    judged = Judged({"problem": "p"}, unseen, 3)
    grids = {"uniform": [1.0, 0.5, 0.0], "other": [1.0, 0.4, 0.0]}
    for name, times in grids.items():
        judged.add(names, teacher, name, torch.tensor(times, dtype=torch.float64), sampled=False)
    uniform, other = judged.rows
    each = [path_bound(teacher, unseen, None, times, 3) / 6 for times in grids.values()]
    half = 1.96 * float((each[1] - each[0]).std()) / math.sqrt(20)
    assert uniform["loss"] == uniform["loss_low"] == pytest.approx(float(each[0].mean()))
    assert other["loss_high"] - other["loss"] == pytest.approx(half)
    assert half > 0
