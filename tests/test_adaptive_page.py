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


def verdicts(
    networks: dict[str, Any], part: str, word: str
) -> dict[str, set[tuple[str, str, int]]]:
    """By choice: problem, measure and steps of the rows that are ``better`` or ``worse``."""
    out: dict[str, set[tuple[str, str, int]]] = {}
    for r in networks[f"{part}_against_uniform"]:
        places = out.setdefault(r["choice"], set())
        if r[word]:
            places.add((r["problem"], r["process"], r["steps"]))
    return out


def test_the_verdict_on_grids_is_what_the_results_say() -> None:
    """Each sentence of the page's verdict on grids with networks, asked of the result file."""
    _, networks = page().read()
    better, worse = (verdicts(networks, "grids", word) for word in ("better", "worse"))
    assert ("names, uniform", "matched_nll", 2) in better["fitted"]
    assert {("digits, masked", m, 2) for m in ("frechet", "1 − recall")} <= better["fitted"]
    assert all(steps == 2 for _, _, steps in better["fitted"])
    assert {problem for problem, _, _ in better["fitted"]} == {"names, uniform", "digits, masked"}
    assert not worse["fitted"]
    assert {(problem, steps) for problem, _, steps in better["cosine"]} == {("digits, masked", 2)}
    on_text = {("text, masked", m, k) for m in ("bound", "matched_nll") for k in (4, 8)}
    assert on_text | {("text, masked", m, 2) for m in ("bound", "matched_nll")} <= worse["cosine"]
    assert len(better["log-linear"]) == 1
    assert on_text | {("text, masked", "trigram_tv", k) for k in (4, 8)} <= worse["log-linear"]


def test_the_verdict_on_training_times_is_what_the_results_say() -> None:
    _, networks = page().read()
    better, worse = (verdicts(networks, "training", word) for word in ("better", "worse"))
    for choice in ("importance", "importance pairs", "learned weight", "gap doubling"):
        assert not better[choice]
    assert [problem for problem, _, _ in worse["importance"]] == ["text, warm"]
    assert {p for p, _, _ in worse["learned weight"]} == {"names, warm", "text, warm"}
    assert len(worse["learned weight"]) == 2
    assert not worse["gap halving"]
    won = {("names, warm", "bound", 8)}
    won |= {(f"{corpus}, warm", "bound", k) for corpus in ("text", "digits") for k in (4, 8)}
    assert won <= better["gap halving"]


def test_the_verdict_on_joint_students_is_what_the_results_say() -> None:
    _, networks = page().read()
    better, worse = (verdicts(networks, "joint", word) for word in ("better", "worse"))
    assert not better["importance"] | worse["importance"] | better["learned weight"]
    at_one = {("names, joint", m, 1) for m in ("bound", "matched_nll", "trigram_tv")}
    assert at_one <= worse["learned weight"]


def test_the_fit_on_text_moves_times_by_one_candidate() -> None:
    _, networks = page().read()
    fits = [
        r["times"]
        for r in networks["grids"]
        if (r["problem"], r["student"], r["process"]) == ("text, masked", "fitted", "bound")
    ]
    assert len(fits) == 9
    for times in fits:
        steps = len(times) - 1
        assert all(abs(t - (1 - k / steps)) <= 1 / 32 for k, t in enumerate(times))


def test_every_student_is_worse_than_its_teacher_in_the_bound() -> None:
    _, networks = page().read()

    def mean(part: str, problem: str, student: str, steps: int) -> float:
        key = (problem, "bound", student, steps)
        rows = networks[part]
        mine = [r for r in rows if (r["problem"], r["process"], r["student"], r["steps"]) == key]
        assert len(mine) == 3
        return sum(r["loss"] for r in mine) / 3

    for corpus in ("names", "text", "digits"):
        for steps in (4, 8):
            teacher = mean("grids", f"{corpus}, masked", "uniform", steps)
            for way in {r["student"] for r in networks["training"]}:
                assert mean("training", f"{corpus}, warm", way, steps) > teacher
