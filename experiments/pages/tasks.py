"""The real tasks in a few lines: what one evaluation of a student does, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.antibodies import ROLLOUT_STEPS
from experiments.finite_supports import BOARDS, EXACT
from experiments.frozen_trunk import STATES
from experiments.molecules import ALONE, ONE_BY_ONE
from experiments.pages.markdown import Row, mean, table, where
from experiments.pages.road import load
from experiments.rule_refinement import WHOLE
from fewjump.demo.parts import TEACHER


def readme() -> str:
    """Teacher at one and at its most evaluations, the best student at one, and its cost."""
    header = (
        "",
        "teacher, 1",
        "teacher, most",
        "student, **1**",
        "which",
        "training, minutes",
        "teacher evaluations",
    )
    tasks = (_antibodies, _molecules, _selfies, _boards, _boards_by_rule, _letters)
    return table(header, [task() for task in tasks])


def _antibodies() -> Sequence[str]:
    """Share of sequences that AntPack numbers without complaint."""
    found = load("antibodies")
    rows = found["rows"]
    best = _best(rows, "valid", TEACHER)
    asked = found["rollouts"] * ROLLOUT_STEPS + found["learned"] * STATES
    return _line(
        "antibodies without data, valid",
        rows,
        "valid",
        TEACHER,
        best,
        found["trained"][best]["core_seconds"],
        asked,
    )


def _molecules() -> Sequence[str]:
    """Share of strings that are molecules."""
    found = load("molecules_smiles_30")
    what = f"molecules of at most {found['length']} tokens, valid"
    return _of_molecules(found, found["rows"], "valid", what)


def _selfies() -> Sequence[str]:
    """Distance of molecules, which all strings are, from those of the test set."""
    found = load("molecules_selfies_30")
    rows = [{**row, "fcd": row["moses"]["FCD/Test"]} for row in found["rows"]]
    return _of_molecules(found, rows, "fcd", "the same as SELFIES, FCD (lower is better)", True)


def _of_molecules(
    found: dict[str, Any], rows: Sequence[Row], key: str, what: str, least: bool = False
) -> Sequence[str]:
    mine = [row for row in rows if row["student"] not in (ALONE, ONE_BY_ONE)]
    best = _best(mine, key, TEACHER, least)
    trained = found["trained"][best]
    asked = trained["steps"] * found["sizes"]["batch_size"]
    return _line(what, mine, key, TEACHER, best, trained["seconds"], asked)


def _boards() -> Sequence[str]:
    """Share of 4×4 Sudoku boards that are valid."""
    rows = where(load("finite_supports")["boards"], clues=0)
    best = _best(rows, "solved", EXACT)
    seconds = mean(where(rows, student=best, steps=1), "training_seconds")
    asked = BOARDS.steps * BOARDS.batch_size
    return _line("4×4 Sudoku boards, valid", rows, "solved", EXACT, best, seconds, asked)


def _boards_by_rule() -> Sequence[str]:
    """The same after refinement on whole boards by the rule alone."""
    teachers = where(load("finite_supports")["boards"], clues=0, student=EXACT)
    refined = where(load("rule_refinement")["rows"], clues=0, refined=WHOLE)
    anchor = min(row["anchor"] for row in refined)
    rows = where(refined, anchor=anchor)
    # A few boards alone would be valid too.
    best = _best(rows, "tv", EXACT, least=True)
    first = where(load("finite_supports")["boards"], student=best, clues=0, steps=1)
    seconds = mean(first, "training_seconds")
    seconds += mean(where(rows, student=best, steps=1), "training_seconds")
    asked = BOARDS.steps * BOARDS.batch_size
    what = "the same, refined by the rule"
    return _line(what, [*teachers, *rows], "solved", EXACT, best, seconds, asked)


def _letters() -> Sequence[str]:
    """KL rate of letters from the chain that they should follow."""
    found = load("oracle_markov")
    rows = where([r for r in found["rows"] if "steps" in r], length=128)
    best = _best(rows, "kl_rate", EXACT, least=True)
    seconds = mean(where(rows, student=best, steps=1), "training_seconds")
    asked = found["sizes"]["steps"] * found["sizes"]["batch_size"]
    what = "128 letters of a chain, KL rate (nats, lower is better)"
    return _line(what, rows, "kl_rate", EXACT, best, seconds, asked)


def _best(rows: Sequence[Row], key: str, teacher: str, least: bool = False) -> str:
    """The student that is best in one evaluation."""
    names = {row["student"] for row in rows if row["steps"] == 1} - {teacher}
    chosen = min if least else max
    return chosen(sorted(names), key=lambda name: mean(where(rows, student=name, steps=1), key))


def _line(
    what: str,
    rows: Sequence[Row],
    key: str,
    teacher: str,
    student: str,
    seconds: float,
    asked: int,
) -> Sequence[str]:
    theirs = where(rows, student=teacher)
    most = max(row["steps"] for row in theirs)
    slow = mean(where(theirs, steps=most), key)
    return (
        what,
        f"{mean(where(theirs, steps=1), key):.2f}",
        f"{slow:.2f} (at {most})",
        f"**{mean(where(rows, student=student, steps=1), key):.2f}**",
        f"`{student}`",
        f"{seconds / 60:.1f}",
        f"{asked:,}",
    )
