"""What the trained demos share: models made once, rows turned into a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fewjump.checkpoint import load
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import parameter_counts
from fewjump.evaluate.frontier import Row
from fewjump.report import (
    ABOUT_FLOOR,
    ABOUT_METHOD,
    KeyNumber,
    Note,
    SampleGroup,
    from_results,
    monitor_charts,
    monitor_table,
    training_charts,
    write,
    write_results,
)
from fewjump.sampler import run as draw
from fewjump.verify.results import machine_facts

ABOUT_JOINT = Note(
    "What the joint student does differently",
    (
        "The second student has the same trunk, but its answer is a **joint** law over all "
        "positions instead of one table for each. It is trained on the same decomposition of "
        "the teacher, read as a mixture: complete sequences are drawn from the teacher at a "
        "cleaner time, and the student is scored on their joint log-probability.",
        "In one evaluation it can therefore draw positions that belong together, which no "
        "per-position student can.",
    ),
)


@dataclass
class Clock:
    """Seconds that each part of a demo took."""

    seconds: dict[str, float]

    @contextmanager
    def part(self, name: str) -> Any:
        """Time a block, and say on the terminal what it is."""
        print(f"— {name}", flush=True)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def made_once(folder: Path, make: Callable[[Path], Denoiser]) -> Denoiser:
    """The model in ``folder/model`` if its training is finished, else ``make(folder)``."""
    if (folder / "model" / "config.json").is_file():
        return load(folder / "model")
    return make(folder)


def draw_samples(denoiser: Denoiser, count: int, steps: int, seed: int) -> Tensor:
    """``count`` ancestral samples: (count, L)."""
    return draw(denoiser, count, steps, generator=seed).samples


def value_of(rows: Sequence[Row], model: str, steps: int | None, metric: str) -> float:
    """The value of one row.

    Raises:
        KeyError: if there is none.
    """
    for row in rows:
        if (row.model, row.steps, row.metric) == (model, steps, metric):
            return row.value
    raise KeyError(f"no {metric} of {model} at {steps} steps")


def write_demo(
    out: Path,
    rows: Sequence[Row],
    clock: Clock,
    models: dict[str, Denoiser],
    *,
    title: str,
    subtitle: str,
    summary: Sequence[str],
    key_numbers: Sequence[KeyNumber],
    samples: Sequence[SampleGroup],
    headline: str,
    facts: dict[str, Any],
    curves: dict[str, Path],
    metrics: Sequence[str],
) -> Path:
    """Write results.json and report.html; returns the report's path.

    Args:
        curves: title → run folder whose training curve is shown.
        metrics: those that get a chart; results.json holds all.
    """
    sizes = {f"parameters, {n}": parameter_counts(m)["total"] for n, m in models.items()}
    timing = {f"seconds, {name}": round(value, 1) for name, value in clock.seconds.items()}
    facts = {**facts, **sizes, **timing, **machine_facts()}
    write_results(out, [vars(row) for row in rows], facts)
    shown = [vars(row) for row in rows if row.metric in metrics]
    training = [chart for name, path in curves.items() for chart in training_charts(path, name)]
    training += [chart for name, path in curves.items() for chart in monitor_charts(path, name)]
    watched = [monitor_table(path, name) for name, path in curves.items()]
    report = from_results(
        shown,
        title=title,
        subtitle=subtitle,
        summary=summary,
        key_numbers=key_numbers,
        samples=samples,
        notes=(ABOUT_FLOOR, ABOUT_METHOD, ABOUT_JOINT),
        training=training,
        tables=[table for table in watched if table is not None],
        facts=facts,
        headline=headline,
    )
    return write(report, out / "report.html")
