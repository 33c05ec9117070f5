"""The adaptive experiment's own logic at tiny sizes: what is compared with what, and taken up."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.adaptive_judges import DigitsBench, Judged, TextBench
from experiments.adaptive_networks import Plan
from experiments.adaptive_rows import CHOICES, Budget, joint_ways
from experiments.harness import Rows
from experiments.text_sizes import load_corpus
from fewjump.data import load_data
from fewjump.demo import digits
from fewjump.evaluate.image import train_classifier
from fewjump.evaluate.likelihood import one_evaluation_nlls, path_bound
from fewjump.verify.times import ways
from toy_text import SIZES, names_file, words

BUDGET = Budget(
    seeds=(0,),
    grid_steps=(2, 4),
    judged_steps=(1, 2),
    sampled_steps=(2,),
    fitted_to=4,
    unseen=10,
    training=(("names", 2), ("digits", 1)),
    batch_size=(("names", 8), ("digits", 4)),
    joint_training=2,
    joint_batch=8,
)


TEXT_BUDGET = replace(BUDGET, training=(("text", 3),), batch_size=(("text", 8),), unseen=15)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> TextBench:
    file = names_file(tmp_path_factory.mktemp("data"))
    return TextBench("names", load_corpus("names", SIZES, file, None), SIZES, teacher_steps=2)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextBench:
    file = tmp_path_factory.mktemp("data") / "book.txt"
    file.write_text(" ".join(words()))
    return TextBench("text", load_corpus("text", SIZES, None, file), SIZES)


@pytest.fixture(scope="module")
def images() -> DigitsBench:
    pytest.importorskip("sklearn", reason="the digits come with fewjump[eval]")
    small = digits.Sizes(hidden=16, blocks=1, teacher_steps=1, batch_size=4, samples=30)
    data = load_data("digits")
    return DigitsBench(data, train_classifier(data, steps=10), small)


@pytest.fixture
def plan(names: TextBench, text: TextBench, images: DigitsBench, tmp_path: Path) -> Plan:
    return Plan(names, text, images, tmp_path / "models", tmp_path / "rows", BUDGET, TEXT_BUDGET)


def bounded(rows: Rows) -> set[tuple[str, str, int]]:
    """Problem, choice and steps of the rows of likelihoods."""
    return {(r["problem"], r["student"], r["steps"]) for r in rows if r["process"] == "bound"}


def test_grids_of_every_teacher_are_judged_and_remembered(plan, tmp_path) -> None:
    rows = plan.rows("grids")
    problems = {"names, masked", "names, uniform", "text, masked", "digits, masked"}
    assert bounded(rows) == {(p, c, k) for p in problems for c in CHOICES for k in (2, 4)}
    metrics = {r["process"] for r in rows if r["problem"] == "digits, masked"}
    assert metrics == {"bound", "frechet", "1 − precision", "1 − recall"}
    for row in rows:
        if row["student"] == "fitted":
            assert len(row["times"]) == row["steps"] + 1
            assert row["promised"] >= 0
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert plan.rows("grids") == rows
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_every_way_is_trained_and_judged(plan) -> None:
    rows = plan.rows("training")
    problems = {"names, warm", "text, warm", "digits, warm"}
    assert bounded(rows) == {(p, way, k) for p in problems for way in ways(2) for k in (1, 2)}
    assert {r["steps"] for r in rows if r["process"] != "bound"} == {2}


def test_joint_students_are_trained_in_the_ways_they_have(plan) -> None:
    """Their likelihood is known at one step only; their samples are judged at every one."""
    rows = plan.rows("joint")
    assert list(joint_ways(2)) == ["uniform", "importance", "learned weight"]
    assert bounded(rows) == {("names, joint", way, 1) for way in joint_ways(2)}
    drawn = {(r["student"], r["steps"]) for r in rows if r["process"] == "trigram_tv"}
    assert drawn == {(way, k) for way in joint_ways(2) for k in BUDGET.joint_steps}


def test_more_seeds_than_teachers_share_them(text, plan) -> None:
    """Then the draws differ and the network does not."""
    shared = [text.masked_teacher(seed, plan.teachers).state_dict() for seed in (0, 1)]
    torch.testing.assert_close(*shared, rtol=0, atol=0)
    (folder,) = (plan.teachers / "text-students").iterdir()
    assert folder.name.startswith("text-teacher-0-")
    assert text.teachers == 1


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


def test_the_likelihood_of_a_joint_law_is_exact_at_one_step(names, plan) -> None:
    """Of a product law, where both are known under masks, it is what the bound is."""
    teacher = names.masked_teacher(0, plan.teachers)
    unseen = names.data.all("test", 20)
    grids = [torch.tensor(times, dtype=torch.float64) for times in ([1.0, 0.0], [1.0, 0.5, 0.0])]
    found = []
    for joint in (False, True):
        judged = Judged({"problem": "p"}, unseen, 3, joint)
        for grid in grids:
            judged.add(names, teacher, "uniform", grid, sampled=False)
        found.append(judged.rows)
    assert [r["steps"] for r in found[0]] == [1, 2]
    (exact,) = found[1]
    assert exact["loss"] == pytest.approx(found[0][0]["loss"], abs=1e-6)
    assert exact["loss"] == pytest.approx(float(one_evaluation_nlls(teacher, unseen).mean()))


def test_rows_of_names_and_digits_do_not_depend_on_the_budget_of_text(plan) -> None:
    """What was computed before there was text is taken up."""
    assert Budget().of("grids") == {"grid_steps": [2, 4, 8], "fitted_to": 512, "unseen": 1000}
    assert Budget().of("training") == {
        "training": [["names", 150], ["digits", 100]],
        "batch_size": [["names", 64], ["digits", 16]],
        "judged_steps": [1, 4, 8],
        "sampled_steps": [4],
        "unseen": 1000,
    }
    assert plan.budget_of(plan.text) is TEXT_BUDGET
    assert plan.budget_of(plan.names) is plan.budget_of(plan.digits) is BUDGET
