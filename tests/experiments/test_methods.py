"""Every method with one teacher and one budget, at toy size."""

from __future__ import annotations

import pytest

from experiments import methods
from experiments.wall_clock import TEACHER
from fewjump.registry import METHODS

TINY = methods.Sizes(
    length=6,
    sequences=64,
    teacher_steps=2,
    batch_size=4,
    evaluations=200,
    samples=32,
    steps=(1, 2),
    teacher_grid=(1, 2),
    network={"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8},
)
SMALL = {
    "states=32": "states=2",
    "components=16": "components=2",
    "width=32": "width=8",
    "size=64": "size=2",
    "categories=0": "categories=0",
}


def small(own: dict) -> dict:
    changes = {"head": [SMALL[option] for option in own["head"]]} if "head" in own else {}
    if own.get("method") == "redi":
        changes |= {"pairs": 8, "pair-steps": 2, "steps": 4}
    if own.get("method") == "idlm":
        changes |= {"auxiliary-steps": 1}
    if own.get("method") in ("data-only", "vadd", "e-moe"):
        changes |= {"steps": 3}
    return {**own, **changes, "warmup": 1}


#: A second network, pairs drawn first, and no teacher: what is not a number of its answers.
SOME = {"masked": ("IDLM shared-chain", "VADD"), "uniform": ("ReDi", "E-MoE")}
#: What these two may ask: its pairs, or nothing.
MOST = {"ReDi": 2 * 8 * 2, "VADD": 0, "E-MoE": 0}


@pytest.mark.parametrize("noise", list(methods.METHODS))
def test_methods_are_trained_within_the_budget_and_judged(noise, tmp_path, monkeypatch) -> None:
    students = {name: small(methods.METHODS[noise][name]) for name in SOME[noise]}
    monkeypatch.setitem(methods.METHODS, noise, students)
    config = methods.Config(runs=tmp_path, seeds=1, noises=(noise,))
    found = methods.measure(config, TINY)
    cells = {(r["student"], r["steps"]) for r in found["rows"] if r["metric"] == "bigram_tv"}
    names = {methods.EXACT, TEACHER, *students}
    assert cells == {(name, k) for name in names for k in (1, 2)}
    for cost in found["costs"]:
        most = MOST.get(cost["student"], 200)
        assert most / 2 <= cost["teacher_evaluations"] <= most, cost
    again = methods.measure(config, TINY)
    assert (again["rows"], again["costs"]) == (found["rows"], found["costs"])


def test_no_method_is_left_out() -> None:
    tried = {own.get("method") for part in methods.METHODS.values() for own in part.values()}
    assert tried == {None, *METHODS}
