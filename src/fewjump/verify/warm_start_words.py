"""What the rows of ``warm-start`` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewjump.report import Chart, KeyNumber, Note, Reference, Role, Series, Table, short
from fewjump.verify.result import CheckResult
from fewjump.verify.verdicts import half_width
from fewjump.verify.warm_start_measure import curve, steps_to_reach

if TYPE_CHECKING:
    from fewjump.verify.warm_start import Options

Rows = Sequence[Mapping[str, Any]]
_STARTS: dict[str, tuple[str, Role]] = {
    "teacher": ("from the teacher's weights", "student"),
    "random": ("from random weights", "other"),
}


def answer(rows: Rows, options: Options) -> CheckResult:
    """The whole check from what was measured."""
    teacher = curve(rows, "teacher itself", "quality").mean[0]
    unit = rows[0]["unit"]
    warm, cold = (curve(rows, s, "quality") for s in ("teacher", "random"))
    best = min(warm.mean)
    reached = steps_to_reach(rows, "random", teacher)
    verdict = [
        f"**Started at the teacher** ({short(teacher)}), the student is at {short(warm.mean[-1])} "
        f"after {warm.steps[-1]} steps; its best is {short(best)}. **Started at random** it is at "
        f"{short(cold.mean[0])}, and at {short(cold.mean[-1])} after as many steps "
        f"({unit}; less is better).",
        (
            f"The random start needs {reached} steps to be where the warm start begins."
            if reached is not None
            else f"In {cold.steps[-1]} steps the random start does not get to where the warm start "
            "begins."
        ),
        _difference(rows, options.steps),
    ]
    return CheckResult(
        name="warm-start",
        question="What is starting the student at the teacher worth?",
        verdict=verdict,
        rows=rows,
        charts=[
            _chart(rows, "quality", "Quality as the students train", unit, teacher),
            _chart(rows, "loss", "Loss as the students train", "cross-entropy, nats", None),
        ],
        tables=[_table(rows, unit)],
        notes=[_NOTE],
        key_numbers=[
            KeyNumber(short(warm.mean[-1]), "the warm start, in the end"),
            KeyNumber(short(cold.mean[-1]), "the random start, in the end"),
        ],
        settings={
            name: getattr(options, name)
            for name in ("seed", "seeds", "matching", "steps", "teacher_steps", "model")
        },
    )


_NOTE = Note(
    "What is measured",
    (
        "Both students have the teacher's sizes and see the same batches, times and noise; only "
        "their first weights differ. Bands and ± are 95% intervals over seeds, the teacher "
        "trained anew for each. Distillation cannot add knowledge, so the teacher's own "
        "quality is what there is to keep: with few steps, what a student starts with decides.",
    ),
)


def _chart(rows: Rows, key: str, title: str, unit: str, teacher: float | None) -> Chart:
    series = []
    for start, (label, role) in _STARTS.items():
        found = curve(rows, start, key)
        # A logarithmic axis has no 0; half the first checkpoint stands for the start.
        xs = [s or 2.5 for s in found.steps]
        low = [max(0.0, v) for v in found.low]
        series.append(Series(label, xs, found.mean, low, found.high, role))
    references = [] if teacher is None else [Reference("the teacher itself", teacher)]
    return Chart(
        title,
        series,
        references,
        "optimiser steps (leftmost: before the first)" if key == "quality" else "optimiser steps",
        unit,
        log_y=True,
        better="lower",
    )


def _difference(rows: Rows, last: int) -> str:
    found = {
        (r["start"], r["seed"]): r["quality"] for r in rows if r["step"] == last and r["start"]
    }
    seeds = sorted({seed for _, seed in found})
    gaps = [found["random", s] - found["teacher", s] for s in seeds]
    mean, half = sum(gaps) / len(gaps), half_width(gaps)
    verdict = (
        "the warm start is better"
        if mean > half
        else "the random start is better"
        if mean < -half
        else "no difference can be told"
    )
    return (
        f"After {last} steps the random start is behind by {short(mean)} ± {short(half)} "
        f"({len(gaps)} seed{'s' * (len(gaps) > 1)}): {verdict}.{_lead(rows)}"
    )


def _lead(rows: Rows) -> str:
    """Up to which checkpoint the warm start is better beyond the seeds' differences."""
    found = {(r["start"], r["seed"], r["step"]): r["quality"] for r in rows}
    seeds = sorted({seed for _, seed, _ in found})
    ahead = []
    for step in curve(rows, "teacher", "quality").steps:
        gaps = [found["random", s, step] - found["teacher", s, step] for s in seeds]
        if len(gaps) > 1 and sum(gaps) / len(gaps) > half_width(gaps):
            ahead.append(step)
    if not ahead:
        return ""
    return f" The lead is beyond the seeds' differences up to step {ahead[-1]}."


def _table(rows: Rows, unit: str) -> Table:
    lines = []
    for start, (label, _) in _STARTS.items():
        found = curve(rows, start, "quality")
        lines.append(
            (label, *(f"{short(m)} ± {short(h - m)}" for m, h in zip(found.mean, found.high)))
        )
    heads = tuple(f"step {s}" for s in curve(rows, "teacher", "quality").steps)
    return Table(f"Quality ({unit})", ("student", *heads), lines)
