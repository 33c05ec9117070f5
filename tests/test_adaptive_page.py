"""What docs/adaptive-times.md says in words is what the committed results say in numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]


def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "adaptive_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(**changed: Any) -> dict[str, Any]:
    plain = {"problem": "p", "process": "bound", "steps": 2, "choice": "a", "uniform": 1.0}
    ends = {"difference": -0.2, "low": -0.3, "high": -0.1, "better": True, "worse": False}
    return {**plain, **ends, **changed}


def test_a_table_has_a_line_a_place_and_a_column_a_choice() -> None:
    even = row(choice="b", difference=0.1, low=-0.1, high=0.3, better=False)
    lines = page().comparison([row(), even, row(steps=4)]).splitlines()
    assert lines[2] == (
        "| p | likelihood bound | 2 | 1.0000 | **-0.2000 ± 0.1000** | +0.1000 ± 0.2000 |"
    )
    assert lines[3].endswith("| **-0.2000 ± 0.1000** | – |")


def test_a_tally_counts_what_is_told_apart() -> None:
    worse = row(steps=4, better=False, worse=True, difference=0.2, low=0.1, high=0.3)
    even = row(steps=8, better=False, low=-0.3, high=0.1)
    assert page().tally([row(), worse, even]) == (
        "* `a`, 3 comparisons: better 1 (p: likelihood bound at 2); worse 1 "
        "(p: likelihood bound at 4)."
    )


def test_the_verdict_is_what_the_results_say() -> None:
    """Each sentence of the page's verdict on networks, asked of the result file."""
    _, networks = page().read()
    found = {
        (part, r["choice"], r["problem"], r["process"], r["steps"]): r
        for part in ("grids", "training")
        for r in networks[f"{part}_against_uniform"]
    }
    better = {key[1:] for key, r in found.items() if r["better"]}
    worse = {key[1:] for key, r in found.items() if r["worse"]}
    fitted = {key[1:] for key in better if key[0] == "fitted"}
    assert ("names, uniform", "matched_nll", 2) in fitted
    assert {("digits, masked", m, 2) for m in ("frechet", "1 − recall")} <= fitted
    assert all(steps == 2 for _, _, steps in fitted)
    assert not any(key[0] in ("fitted", "gap halving") for key in worse)
    cosine = {key[1:] for key in better if key[0] == "cosine"}
    assert cosine
    assert all(problem == "digits, masked" and steps == 2 for problem, _, steps in cosine)
    for word in (better, worse):
        assert sum(key[0] == "log-linear" for key in word) == 1
    for choice in ("importance", "importance pairs", "learned weight", "gap doubling"):
        assert not any(key[0] == choice for key in better)
    halving = {key[1:] for key in better if key[0] == "gap halving"}
    assert halving >= {("digits, warm", "bound", k) for k in (4, 8)} | {("names, warm", "bound", 8)}


def test_every_student_is_worse_than_its_teacher_in_the_bound() -> None:
    _, networks = page().read()

    def mean(part: str, problem: str, student: str, steps: int) -> float:
        key = (problem, "bound", student, steps)
        rows = networks[part]
        mine = [r for r in rows if (r["problem"], r["process"], r["student"], r["steps"]) == key]
        assert len(mine) == 3
        return sum(r["loss"] for r in mine) / 3

    for corpus in ("names", "digits"):
        for steps in (4, 8):
            teacher = mean("grids", f"{corpus}, masked", "uniform", steps)
            for way in {r["student"] for r in networks["training"]}:
                assert mean("training", f"{corpus}, warm", way, steps) > teacher
