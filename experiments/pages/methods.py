"""Tables of every few-step method under one budget."""

from __future__ import annotations

from experiments.pages.markdown import Row, mean, pivot, steps_head, table, where
from experiments.pages.road import load
from fewjump.evaluate.meter import mean_over_seeds
from fewjump.report.content import as_row

_FIELDS = ("model", "sampler", "steps", "nfe", "metric", "value", "low", "high", "seconds")


def by_steps(noise: str, metric: str = "bigram_tv") -> str:
    """A metric of every method, by number of steps; ± is half of a 95% interval."""
    rows = where(load("methods")["rows"], noise=noise, metric=metric)

    def cell(here: list[Row]) -> str:
        found = mean_over_seeds([as_row({key: row[key] for key in _FIELDS}) for row in here])
        low, high = found.ends
        return f"{found.value:.3f} ± {(high - low) / 2:.3f}"

    return pivot(rows, {"student": "student"}, "steps", cell, steps_head)


def costs(noise: str) -> str:
    """What each method took to train, means over seeds."""
    rows = where(load("methods")["costs"], noise=noise)
    lines = []
    for student in dict.fromkeys(row["student"] for row in rows):
        mine = where(rows, student=student)
        lines.append(
            (
                student,
                f"{mean(mine, 'steps'):,.0f}",
                f"{mean(mine, 'teacher_evaluations'):,.0f}",
                f"{mean(mine, 'seconds'):.0f}",
            )
        )
    return table(("method", "optimiser steps", "teacher evaluations", "seconds"), lines)


def reference(metric: str, spec: str = ".3f") -> str:
    """What samples of the chain itself score."""
    (row,) = (row for row in load("methods")["reference"] if row["metric"] == metric)
    return format(row["value"], spec)
