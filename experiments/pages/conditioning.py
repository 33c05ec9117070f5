"""Tables of students that read what is visible."""

from __future__ import annotations

from experiments.pages.markdown import MISSING, mean, pivot, seeds_cell, steps_head, table, where
from experiments.pages.road import load
from experiments.wall_clock import TEACHER


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
        here = where(rows, hidden=hidden)
        slow = where([r for r in here if "steps" in r], student=TEACHER, steps=64)
        for student in dict.fromkeys(r["student"] for r in here):
            mine = where(here, student=student)
            truth = [r for r in mine if "steps" not in r]
            drawn = [r for r in mine if "steps" in r]
            for steps in sorted({r["steps"] for r in drawn}):
                now = where(drawn, steps=steps)
                # The law of a number of steps is known of one, and bounded with one hole a step.
                exact = {1: "nll", 64: "one_by_one"}.get(steps, "")
                speed = mean(slow, "seconds_alone") / mean(now, "seconds_alone")
                lines.append(
                    (
                        hidden,
                        f"{student}, {steps_head(steps)}",
                        seeds_cell(truth, exact) if exact in truth[0] else MISSING,
                        seeds_cell(now, "nll"),
                        seeds_cell(now, "matched_nll"),
                        f"{1e3 * mean(now, 'seconds_alone'):.1f}",
                        f"{speed:.1f}×",
                    )
                )
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
    rows = load("digits_infilling")["fillings"]
    slow = where([r for r in rows if "steps" in r], student=TEACHER, steps=64)
    lines = []
    for student in dict.fromkeys(r["student"] for r in rows):
        mine = where(rows, student=student)
        truth = [r for r in mine if r["hidden"] == "lower half" and "steps" not in r]
        drawn = [r for r in mine if "steps" in r]
        for steps in sorted({r["steps"] for r in drawn}):
            now = where(drawn, steps=steps)
            exact = {1: "nll", 64: "one_by_one"}.get(steps, "")
            speed = mean(slow, "seconds_alone") / mean(now, "seconds_alone")
            lines.append(
                (
                    f"{student}, {steps_head(steps)}",
                    seeds_cell(truth, exact) if exact in truth[0] else MISSING,
                    *(seeds_cell(now, key) for key in ("frechet", "precision", "recall")),
                    f"{mean(now, 'class_accuracy'):.2f}",
                    f"{1e3 * mean(now, 'seconds_alone'):.0f}",
                    f"{speed:.1f}×",
                )
            )
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


def drift(corpus: str, student: str) -> str:
    """NLL at matched entropy at the most steps, less that at one; hyphens stand for spaces too."""
    rows = load(f"conditioning_{corpus}")["rows"]
    mine = [r for r in rows if r["student"].replace(" ", "-") == student]
    last = max(r["steps"] for r in mine)
    values = (mean(where(mine, steps=k), "matched_nll") for k in (1, last))
    first, most = values
    return f"{most - first:.3f}"
