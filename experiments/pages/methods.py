"""Tables of every few-step method under one budget."""

from __future__ import annotations

from experiments.pages.markdown import Row, mean, pivot, steps_head, table, where
from experiments.pages.road import load


def by_steps(task: str, metric: str, digits: str = "3") -> str:
    """A metric of every method, by number of steps; ± is half of a 95% interval."""
    rows = where(load("methods")["rows"], task=task, metric=metric)
    rows = [row for row in rows if row["steps"] is not None]

    def cell(here: list[Row]) -> str:
        (row,) = here
        half = (row["high"] - row["low"]) / 2
        return f"{row['value']:.{digits}f}" + (f" ± {half:.{digits}f}" if half else "")

    return pivot(rows, {"model": "model"}, "steps", cell, steps_head)


def costs(task: str) -> str:
    """What each method took to train, means over seeds."""
    rows = where(load("methods")["costs"], task=task)
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = where(rows, model=model)
        lines.append(
            (
                model,
                f"{mean(mine, 'steps'):,.0f}",
                f"{mean(mine, 'teacher_evaluations'):,.0f}",
                f"{mean(mine, 'seconds'):.0f}",
            )
        )
    return table(("model", "optimiser steps", "teacher evaluations", "seconds"), lines)


def reference(task: str, metric: str, spec: str = ".3f") -> str:
    """What real data score: as many exact samples of a law, or a test part."""
    rows = where(load("methods")["rows"], task=task, metric=metric)
    (row,) = (row for row in rows if row["steps"] is None)
    return format(row["value"], spec)
