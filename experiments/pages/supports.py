"""Tables of data whose law is known: boards, points of the plane, letters of a chain."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.oracle_markov import SAMPLES
from experiments.pages.markdown import (
    MISSING,
    Row,
    mean,
    pivot,
    seeds_cell,
    steps_head,
    table,
    where,
)
from experiments.pages.road import load
from fewjump.evaluate.bootstrap import half_width

#: Validity in percent at 1, 2 and 4 steps, as VADD (arXiv 2505.17384) and E-MoE (arXiv 2609.37533)
#: give it.
PUBLISHED = {
    "8 modes": {
        "MDLM": (37.7, 68.1, 84.2),
        "VADD": (91.8, 95.3, 97.3),
        "E-MoE": (94.4, 96.6, 97.7),
    },
    "swiss roll": {
        "MDLM": (49.3, 73.1, 86.5),
        "VADD": (93.8, 95.9, 97.1),
        "E-MoE": (90.3, 92.6, 95.7),
    },
}


def boards() -> str:
    """Whole boards from nothing: exact in one evaluation, from samples in more."""
    rows = where(load("finite_supports")["boards"], clues=0)
    lines = []
    for student in dict.fromkeys(r["student"] for r in rows):
        mine = where(rows, student=student)
        one = where(mine, steps=1)
        cells = [_cell(one, key) if one else MISSING for key in ("solved", "kl", "tv")]
        for steps in (2, 4, 16):
            some = where(mine, steps=steps)
            cells.append(seeds_cell(some, "solved") if some else MISSING)
        few = where(mine, steps=4)
        lines.append((student, *cells, f"{mean(few, 'effective_boards'):.0f}"))
    header = ("valid, 1 step", "KL", "TV", "valid, 2 steps", "4 steps", "16 steps")
    return table(("student", *header, "effective boards, 4 steps"), lines)


def puzzles() -> str:
    """Share of puzzles that are solved in one evaluation, by the number of clues."""
    return _by_clues(where(load("finite_supports")["boards"], steps=1))


def puzzles_at_most() -> str:
    """The same with the most steps that puzzles were solved in."""
    rows = [r for r in load("finite_supports")["boards"] if r["clues"]]
    most = {r["student"]: max(w["steps"] for w in where(rows, student=r["student"])) for r in rows}
    return _by_clues([r for r in rows if r["steps"] == most[r["student"]]])


def _by_clues(rows: Sequence[Row]) -> str:
    return pivot(
        rows,
        {"student": "student", "steps": "steps"},
        "clues",
        lambda r: _cell(r, "solved"),
        lambda clues: f"{clues} clues" if clues else "none",
    )


def nine(clues: str) -> str:
    """9×9 boards that obey the rules and their clues: share, by which cells a step draws."""
    rows = where(_nine("rows"), clues=int(clues))

    def cell(here: list[Row]) -> str:
        (row,) = here
        return f"{row['valid']:.2f} ± {(row['valid_high'] - row['valid_low']) / 2:.2f}"

    index = {"model": "student", "cells": "order"}
    return pivot(rows, index, "steps", cell, steps_head)


def _nine(part: str) -> list[Row]:
    return [row for source in ("teacher", "boards") for row in load(f"sudoku_{source}")[part]]


def nine_costs() -> str:
    """What the trainings of 9×9 boards took."""
    lines = [
        (c["model"], f"{c['steps']:,}", f"{c['minutes']:.0f}", f"{c['teacher_evaluations']:,}")
        for c in _nine("costs")
    ]
    return table(("training", "optimiser steps", "minutes", "teacher evaluations"), lines)


def rule() -> str:
    """4×4 students refined by the rule: whole boards, exact in one evaluation."""
    rows = where(load("rule_refinement")["rows"], clues=0)
    lines = []
    for (student, on, anchor), mine in _refined(rows).items():
        one, few = where(mine, steps=1), where(mine, steps=4)
        cells = [_cell(one, key) for key in ("solved", "kl", "tv")]
        some = [row for row in few if row["effective_boards"] is not None]
        many = f"{mean(some, 'effective_boards'):.0f}" if some else MISSING
        lines.append((student, on, anchor, *cells, seeds_cell(few, "solved"), many))
    header = ("refined on", "anchor", "valid, 1 step", "KL", "TV", "valid, 4 steps")
    return table(("student", *header, "effective boards, 4 steps"), lines)


def rule_puzzles() -> str:
    """The same students' puzzles, solved in one evaluation, by the number of clues."""
    rows = where(load("rule_refinement")["rows"], steps=1)
    clues = sorted({row["clues"] for row in rows if row["clues"]})
    lines = [
        (*key, *(_cell(where(mine, clues=count), "solved") for count in clues))
        for key, mine in _refined(rows).items()
    ]
    header = ("student", "refined on", "anchor")
    return table((*header, *(f"{count} clues" for count in clues)), lines)


def _refined(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows by student, what it was refined on, and how closely it was held."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        anchor = MISSING if row["anchor"] is None else f"{row['anchor']:g}"
        found.setdefault((row["student"], row["refined"] or MISSING, anchor), []).append(row)
    return found


def points(name: str) -> str:
    """Validity and exact distances by steps, beside published validity; hyphens are spaces."""
    name = name.replace("-", " ")
    rows = where(load("finite_supports")["points"], problem=name)
    lines: list[Sequence[str]] = []
    for student in dict.fromkeys(r["student"] for r in rows):
        mine = where(rows, student=student)
        if "steps" not in mine[0]:
            lines.append((student, _over(mine, "valid", 100, 1), *[MISSING] * 5))
            lines[-1] = (*lines[-1], _over(mine, "true_tv"))
            continue
        few = [where(mine, steps=k) for k in (1, 2, 4)]
        valid = [_over(some, "valid", 100, 1) for some in few]
        distance = [_over(some, "tv") for some in few]
        lines.append((student, *valid, *distance, _over(few[0], "true_tv")))
    for method, values in PUBLISHED[name].items():
        lines.append((f"{method}, published", *map(str, values), *[MISSING] * 4))
    header = ("valid %, 1 step", "2 steps", "4 steps", "TV, 1 step", "2 steps", "4 steps")
    return table(("student", *header, "TV from the true law, 1 step"), lines)


def letters(length: str, key: str) -> str:
    """One number of the oracle-Markov protocol at a length: models against steps."""
    rows = where(load("oracle_markov")["rows"], length=int(length))
    steps = sorted({r["steps"] for r in rows if "steps" in r})
    lines = []
    for student in dict.fromkeys(r["student"] for r in rows):
        mine = where(rows, student=student)
        if student == SAMPLES:
            lines.append((student, *[seeds_cell(mine, key)] * len(steps)))
            continue
        cells = [where(mine, steps=k) for k in steps]
        lines.append((student, *(seeds_cell(c, key) if c else MISSING for c in cells)))
    return table(("model", *(f"{k} step{'s' * (k > 1)}" for k in steps)), lines)


def letters_in_one(length: str) -> str:
    """Everything about one evaluation at a length, and the exact KL of whole sequences."""
    rows = where(load("oracle_markov")["rows"], length=int(length))
    lines = []
    for student in dict.fromkeys(r["student"] for r in rows):
        mine = [r for r in where(rows, student=student) if r.get("steps", 1) == 1]
        cells = [seeds_cell(mine, key) for key in ("kl_rate", "tv_rate", "unigram_l1")]
        whole = MISSING if student == SAMPLES else seeds_cell(mine, "kl")
        lines.append((student, whole, *cells, f"{mean(mine, 'duplicates'):.3f}"))
    header = ("KL a token, exact", "KL rate", "TV rate", "unigram L1", "duplicates")
    return table(("model", *header), lines)


def _cell(rows: Sequence[Row], key: str) -> str:
    """Mean over seeds with its interval; of one exact number, the number."""
    exact = len(rows) == 1 and rows[0][f"{key}_low"] == rows[0][f"{key}_high"]
    return f"{rows[0][key]:.3f}" if exact else seeds_cell(rows, key)


def _over(rows: Sequence[Row], key: str, scale: float = 1.0, digits: int = 3) -> str:
    """Mean over seeds of exact numbers, and the half-width of its interval."""
    values = [row[key] * scale for row in rows]
    centre = f"{sum(values) / len(values):.{digits}f}"
    return f"{centre} ± {half_width(values):.{digits}f}" if len(values) > 1 else centre
