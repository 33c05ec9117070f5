"""Tables of every few-step method under one budget."""

from __future__ import annotations

from experiments.methods import SAMPLERS, WALKING
from experiments.pages.markdown import MISSING, Row, mean, pivot, steps_head, table, where
from experiments.pages.road import Content, load

#: Steps of the teacher that students are held against.
MOST = 64
#: The row without steps: exact samples of a law, or a test part.
REAL = "real data"
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


#: What is shown of a task beside others: in words, its first metric, another in brackets, and how
#: many digits.
SHOWN: dict[str, tuple[str, str, str | None, str]] = {
    "masked-chain": ("masked chain: pairs, TV", "bigram_tv", None, "3"),
    "uniform-chain": ("uniform chain: pairs, TV", "bigram_tv", None, "3"),
    "letters": ("letters: pairs, TV", "bigram_tv", None, "3"),
    "names": ("names: nats (entropy)", "nll", "entropy", "2"),
    "text": ("text: nats (entropy)", "nll", "entropy", "2"),
    "digits": ("digits: Fréchet (recall)", "frechet", "recall", "2"),
    "boards": ("boards: valid", "valid", None, "3"),
}


def across(steps: str, *tasks: str) -> str:
    """A metric of each task at one number of steps; the teacher's most, and real data, as well."""
    found: list[str] = []
    for task in tasks:
        place = 0
        for row in where(_result(task)["rows"], steps=int(steps)):
            if row["model"] not in found:
                found.insert(place, row["model"])
            place = found.index(row["model"]) + 1
    # One step of another sampler is one of the model's own.
    same = [name for own in (*SAMPLERS.values(), WALKING) for name in own if int(steps) == 1]
    places = {name: (name, int(steps)) for name in found if name not in same}
    places |= {f"teacher, {MOST} steps": ("teacher", MOST), REAL: (REAL, None)}
    lines = [[name, *(_shown(task, *at) for task in tasks)] for name, at in places.items()]
    return table(["model", *(SHOWN[task][0] for task in tasks)], lines)


def _shown(task: str, model: str, steps: int | None) -> str:
    rows = where(_result(task)["rows"], steps=steps)
    rows = [row for row in rows if row["model"] == model or model == REAL]
    _, first, second, digits = SHOWN[task]
    shown = [metric for metric in (first, second) if metric and rows]
    cells = [_cell(where(rows, metric=metric), digits) for metric in shown]
    return " (".join(cells) + ")" * (len(cells) > 1) if cells else MISSING


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


def cell(task: str, model: str, steps: str, metric: str) -> str:
    """One number."""
    (row,) = where(_result(task)["rows"], model=model, steps=int(steps), metric=metric)
    return _cell([row])


def reference(task: str, metric: str, spec: str = ".3f") -> str:
    """What real data score: as many exact samples of a law, or a test part."""
    rows = where(_result(task)["rows"], metric=metric)
    (row,) = (row for row in rows if row["steps"] is None)
    return format(row["value"], spec)
