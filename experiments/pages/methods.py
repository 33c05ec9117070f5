"""Tables of every few-step method under one budget."""

from __future__ import annotations

from experiments.pages.markdown import Row, mean, pivot, steps_head, table, where
from experiments.pages.road import Content, load

HEADERS = {
    "kl": "KL, nats",
    "kl_rate": "KL, nats a token",
    "tv": "sequences, TV",
    "bigram_tv": "pairs, TV",
    "valid": "valid",
    "nll": "nats a token",
    "entropy": "entropy of three tokens, nats",
}


def _result(task: str) -> Content:
    """What was found in a task."""
    return load(f"methods_{task.replace('-', '_')}")


def by_steps(task: str, metric: str, digits: str = "3") -> str:
    """A metric of every method, by number of steps; ± is half of a 95% interval."""
    rows = where(_result(task)["rows"], metric=metric)
    rows = [row for row in rows if row["steps"] is not None]
    return pivot(rows, {"model": "model"}, "steps", lambda here: _cell(here, digits), steps_head)


def one_step(task: str, *metrics: str) -> str:
    """Several metrics of one evaluation; a dash where a law has no density."""
    rows = where(_result(task)["rows"], steps=1)
    rows = [row for row in rows if row["metric"] in metrics]
    return pivot(rows, {"model": "model"}, "metric", _cell, HEADERS.__getitem__, metrics)


def _cell(here: list[Row], digits: str = "3") -> str:
    (row,) = here
    half = (row["high"] - row["low"]) / 2
    return f"{row['value']:.{digits}f}" + (f" ± {half:.{digits}f}" if half else "")


def costs(task: str) -> str:
    """What each method took to train, means over seeds."""
    rows = _result(task)["costs"]
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
    rows = where(_result(task)["rows"], metric=metric)
    (row,) = (row for row in rows if row["steps"] is None)
    return format(row["value"], spec)
