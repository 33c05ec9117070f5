"""Tables of students that read what is visible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from fewjump.demo.parts import TEACHER
from fewjump.evaluate.bootstrap import half_width


def by_steps(corpus: str) -> str:
    """NLL at matched entropy, students against numbers of steps."""
    rows = load(f"conditioning_{corpus}")["rows"]
    return pivot(
        rows, {"student": "student"}, "steps", lambda r: seeds_cell(r, "matched_nll"), steps_head
    )


def fillings(corpus: str) -> str:
    """What a filling costs and how good it is: by the true filling, and by the judge."""
    rows = load(f"conditioning_{corpus}")["fillings"]
    lines = []
    for hidden in dict.fromkeys(r["hidden"] for r in rows if "steps" in r):
        for said, exact, now, speed in _drawn(where(rows, hidden=hidden)):
            judged = (seeds_cell(now, "nll"), seeds_cell(now, "matched_nll"))
            time = f"{1e3 * mean(_timed(now), 'seconds_alone'):.1f}"
            lines.append((hidden, said, exact, *judged, time, speed))
    header = (
        "hidden half",
        "filled by",
        "−log p of the truth, nats a hole",
        "judge NLL",
        "at matched entropy",
        "ms, one alone",
        "teacher's 64 over it",
    )
    return table(header, lines)


def lower_halves() -> str:
    """Digits: the lower half given the upper, by its truth, among real pictures, and in time."""
    rows = where(load("digits_infilling")["fillings"], hidden="lower half")
    lines = []
    for said, exact, now, speed in _drawn(rows):
        judged = (seeds_cell(now, key) for key in ("frechet", "precision", "recall"))
        kept, time = mean(now, "class_accuracy"), mean(now, "seconds_alone")
        lines.append((said, exact, *judged, f"{kept:.2f}", f"{1e3 * time:.0f}", speed))
    header = (
        "filled by",
        "−log p of the truth, nats a pixel",
        "Fréchet",
        "precision",
        "recall",
        "class kept",
        "ms, one alone",
        "teacher's 64 over it",
    )
    return table(header, lines)


def orders() -> str:
    """Digits by the order of their pixels: exact scores of test pictures, and what is drawn."""
    cells = []
    for row in load("position_orders")["rows"]:
        if "hidden" in row:
            place, key, low, high = f"−log p, {row['hidden']}", "nll", "nll_low", "nll_high"
        elif row["metric"] == "frechet":
            place, key, low, high = f"Fréchet, {steps_head(row['steps'])}", "value", "low", "high"
        else:
            continue
        value = {"value": row[key], "value_low": row[low], "value_high": row[high]}
        cells.append({"order": row["order"], "column": place, **value})
    return pivot(cells, {"order": "order"}, "column", lambda found: seeds_cell(found, "value"))


def alone() -> str:
    """Half of one picture, drawn alone: what an evaluation of each student takes, in turns."""
    lines = []
    for row in load("filling_alone")["rows"]:
        steps = load("filling_alone")["steps_of_the_teacher"] if row["student"] == TEACHER else 1
        ratio = f"{row['ratio']:.0f} ({row['ratio_least']:.0f}–{row['ratio_most']:.0f})"
        lines.append((f"{row['student']}, {steps}", f"{1e3 * row['seconds']:.0f}", ratio))
    header = ("evaluations", "ms, one alone", "teacher's 64 over it (least–most turn)")
    return table(header, lines)


def _drawn(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row], str]]:
    """Of every student and number of steps: who, −log p of the truth, rows, speed over 64 steps."""
    slow = where([r for r in rows if "steps" in r], student=TEACHER, steps=64)
    for student in dict.fromkeys(r["student"] for r in rows):
        mine = where(rows, student=student)
        truth = [r for r in mine if "steps" not in r]
        drawn = [r for r in mine if "steps" in r]
        for steps in sorted({r["steps"] for r in drawn}):
            now = where(drawn, steps=steps)
            # The law of a number of steps is known of one, and bounded with one hole a step.
            key = {1: "nll", 64: "one_by_one"}.get(steps, "")
            exact = seeds_cell(truth, key) if key in truth[0] else MISSING
            speed = mean(_timed(slow), "seconds_alone") / mean(_timed(now), "seconds_alone")
            yield f"{student}, {steps_head(steps)}", exact, now, f"{speed:.1f}×"


def _timed(rows: Sequence[Row]) -> list[Row]:
    """Those of the first seed: seeds may have been run on machines that differ."""
    return where(rows, seed=min(row["seed"] for row in rows))


def ahead(corpus: str, student: str, other: str) -> str:
    """How much less NLL at matched entropy a student has in one step than another, by seeds."""
    gaps = [
        theirs["matched_nll"] - mine["matched_nll"]
        for mine, theirs in zip(_of(corpus, student, 1), _of(corpus, other, 1), strict=True)
    ]
    return f"{sum(gaps) / len(gaps):.3f} ± {half_width(gaps):.3f}"


def parameters(corpus: str, student: str) -> str:
    """Of a student, trunk included."""
    return f"{_of(corpus, student, 1)[0]['parameters']:,}"


def drift(corpus: str, student: str) -> str:
    """NLL at matched entropy at the most steps, less that at one."""
    last = max(r["steps"] for r in _of(corpus, student))
    values = (mean(_of(corpus, student, k), "matched_nll") for k in (1, last))
    first, most = values
    return f"{most - first:.3f}"


def _of(corpus: str, student: str, steps: int | None = None) -> list[Row]:
    """Rows of a student, in whose name hyphens stand for spaces too, seed by seed."""
    rows = load(f"conditioning_{corpus}")["rows"]
    mine = [r for r in rows if r["student"].replace(" ", "-") == student]
    found = mine if steps is None else where(mine, steps=steps)
    return sorted(found, key=lambda row: row["seed"])
