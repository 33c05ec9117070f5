"""From a run's files to a report: charts, tables and words that need no author.

Rows of ``results.json`` become quality charts, a headline and timings; ``metrics.jsonl`` becomes
training curves and what the monitors of a distillation saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import yaml

from fewjump.files import read_json_lines
from fewjump.report.content import (
    Better,
    Chart,
    KeyNumber,
    Note,
    Reference,
    Report,
    Role,
    SampleGroup,
    Series,
    Table,
    shipped,
    short,
)
from fewjump.results import Row, as_row

CURVE_POINTS = 160


def explanation(name: str) -> Note:
    """A note of ``notes.yaml``: what the ``floor`` is, what the ``method`` can do."""
    return Note(**yaml.safe_load(shipped("notes.yaml"))[name])


@dataclass(frozen=True)
class Metric:
    """How a metric is shown; the words and their meaning stand in ``metrics.yaml``."""

    title: str
    unit: str
    better: Better | None = None
    log: bool = False
    caption: str = ""
    suspect: Literal["below", "above"] | None = None


def metric_called(name: str) -> Metric:
    """The metric's description; for an unknown one its name serves as title."""
    for known in (name, name.partition("_")[0]):
        if known in _metrics():
            return Metric(**_metrics()[known])
    words = name.replace("_", " ")
    return Metric(words[:1].upper() + words[1:], words)


def from_results(
    rows: Iterable[Row | Mapping[str, Any]],
    title: str | None = None,
    subtitle: str = "",
    summary: Sequence[str] = (),
    key_numbers: Sequence[KeyNumber] = (),
    samples: Sequence[SampleGroup] = (),
    notes: Sequence[Note] | None = None,
    tables: Sequence[Table] = (),
    training: Sequence[Chart] = (),
    facts: Mapping[str, Any] | None = None,
    headline: str | None = None,
) -> Report:
    """A complete report from measured rows; whatever is given replaces what would be written.

    Args:
        rows: see :class:`fewjump.results.Row`. Rows without evaluations are reference lines.
        title, subtitle, summary, key_numbers: the opening; written from the rows when left out.
        samples, training: further sections.
        notes: by default, what the floor is and what the method can do.
        tables: shown before the wall-clock table, which is made where rows have seconds.
        facts: seed, versions, machine, configuration.
        headline: the metric of the large first chart; the first one in ``rows`` when None.

    Raises:
        ValueError: if there is no row, or no row of the headline metric.
    """
    rows = [as_row(row) for row in rows]
    names = list(dict.fromkeys(row.metric for row in rows if not row.is_reference))
    if not names:
        raise ValueError("there are no results to report: no row has a number of evaluations")
    if headline is not None and headline not in names:
        raise ValueError(f"no row measures {headline!r}; measured: {', '.join(names)}")
    first = headline or names[0]
    names = [first, *(name for name in names if name != first)]
    words, numbers = _in_words(rows, first)
    timing = wall_clock_table(rows)
    return Report(
        title=title or "Few-step sampling, measured",
        subtitle=subtitle,
        summary=summary or words,
        key_numbers=key_numbers or numbers,
        charts=[quality_chart(rows, name) for name in names],
        samples=samples,
        tables=[*tables, *([timing] if timing else [])],
        notes=[explanation("floor"), explanation("method")] if notes is None else notes,
        training=training,
        facts=facts or {},
        rows=rows,
    )


def quality_chart(rows: Sequence[Row], metric: str, caption: str | None = None) -> Chart:
    """One metric against the number of evaluations: a line per model and sampler."""
    about = metric_called(metric)
    mine = [row for row in rows if row.metric == metric]
    sampled = [row for row in mine if not row.is_reference]
    samplers: dict[str, set[str]] = {}
    for row in sampled:
        samplers.setdefault(row.model, set()).add(row.sampler)
    series = []
    for model, sampler in dict.fromkeys((row.model, row.sampler) for row in sampled):
        line = sorted(
            (r for r in sampled if (r.model, r.sampler) == (model, sampler)),
            key=lambda r: r.nfe or 0,
        )
        label = f"{model}, {sampler}" if len(samplers[model]) > 1 and sampler else model
        series.append(_series(label, line, role_of(model)))
    references = [Reference(row.model, row.value) for row in mine if row.is_reference]
    values = [row.value for row in mine]
    spread = about.log and min(values) > 0 and max(values) > 8 * min(values)
    return Chart(
        title=about.title,
        series=series,
        references=references,
        y_label=about.unit,
        log_y=spread,
        better=about.better,
        caption=about.caption if caption is None else caption,
    )


def wall_clock_table(rows: Sequence[Row]) -> Table | None:
    """Sampling seconds: a line per model and sampler, a column per number of evaluations.

    Steps that do not cost one evaluation each have columns of their own. None if no row has
    seconds.
    """
    seen: dict[tuple[str, str], dict[tuple[float, int], float]] = {}
    for row in rows:
        if row.seconds is not None and row.nfe:
            budget = row.nfe, round(row.nfe) if row.steps is None else row.steps
            seen.setdefault((row.model, row.sampler), {})[budget] = row.seconds
    if not seen:
        return None
    budgets = sorted({budget for times in seen.values() for budget in times})
    return Table(
        title="Wall-clock seconds",
        columns=(
            *("model", "sampler"),
            *(f"NFE {short(nfe)}" + f", {k} steps" * (k != nfe) for nfe, k in budgets),
        ),
        rows=[(*key, *(times.get(budget) for budget in budgets)) for key, times in seen.items()],
        caption="Seconds to draw the samples that were judged, on the machine named below. NFE is "
        "the number of network evaluations per sample, as counted.",
    )


def training_charts(path: str | Path, title: str, role: Role = "other") -> list[Chart]:
    """The loss of a run against the step; empty if the run has no ``metrics.jsonl``.

    Long records are averaged into at most 160 points.

    Args:
        path: a run's folder or its ``metrics.jsonl``.
        title: what the run is called.
        role: fixes the colour.
    """
    # A loss that was not finite is recorded as null.
    seen = [line for line in _log(path) if line.get("loss") is not None and "step" in line]
    width = -(-len(seen) // CURVE_POINTS) or 1
    pieces = [seen[i : i + width] for i in range(0, len(seen), width)]
    if not pieces:
        return []
    steps = [fmean(line["step"] for line in piece) for piece in pieces]
    losses = [fmean(line["loss"] for line in piece) for piece in pieces]
    series = Series(title, steps, losses, role=role)
    return [Chart(f"Training: {title}", [series], (), "step", "loss", log_x=False)]


def monitor_table(path: str | Path, title: str) -> Table | None:
    """Warnings of a run: kind, when, how often, and what the first one says to try.

    Args:
        path: a run's folder or its ``metrics.jsonl``.
        title: what the run is called.

    Returns:
        A table that says so where a run was watched and nothing was found; None for a run that was
        not watched, or has no such file.
    """
    lines = _log(path)
    if not any("student_support" in line or "warnings" in line for line in lines):
        return None
    first: dict[str, Mapping[str, Any]] = {}
    steps: dict[str, list[int]] = {}
    for line in lines:
        for kind in line.get("warnings", ()):
            first.setdefault(kind, line)
            steps.setdefault(kind, []).append(int(line["step"]))
    rows = [
        (
            kind,
            steps[kind][0],
            steps[kind][-1],
            len(steps[kind]),
            line.get("advice", {}).get(kind, ""),
        )
        for kind, line in first.items()
    ]
    logged = sum("loss" in line for line in lines)
    about = "collapse, overshooting draws, ill-conditioned recovery and a miscalibrated teacher"
    nothing = ("none", None, None, 0, f"{about} were looked for at every log line")
    return Table(
        f"What the monitors saw: {title}",
        ("trouble", "first step", "last step", "log lines", "what it says, and what to try"),
        rows or [nothing],
        caption=f"{logged} lines were logged. A warning does not stop a training; its result "
        "should not be trusted unseen.",
    )


def monitor_charts(path: str | Path, title: str) -> list[Chart]:
    """Variety of the student against the teacher's as it trained, and the teacher's calibration.

    Arguments as for :func:`monitor_table`; empty for a run that was not watched.
    """
    lines = _log(path)
    charts = []
    for name, about, unit in (
        ("support", "Tokens that one-step draws really use", "e^entropy of a token"),
        ("distinct", "Distinct runs of three tokens in one-step draws", "share of all runs"),
    ):
        seen = [line for line in lines if line.get(f"student_{name}") is not None]
        seen = seen[:: -(-len(seen) // CURVE_POINTS) or 1]
        if len(seen) > 1:
            steps = [line["step"] for line in seen]
            series = [
                Series(who, steps, [line[f"{who}_{name}"] for line in seen], role=who)
                for who in ("student", "teacher")
            ]
            charts.append(Chart(f"{about}: {title}", series, (), "step", unit, log_x=False))
    bins = next((line["calibration"] for line in lines if line.get("calibration")), None)
    # What is not finite was written as null.
    shown = ("realised", "predicted", "error")
    bins = [one for one in bins or () if all(one[key] is not None for key in shown)]
    if bins:
        times = [one["t"] for one in bins]
        low = [one["realised"] - 1.96 * one["error"] for one in bins]
        high = [one["realised"] + 1.96 * one["error"] for one in bins]
        charts.append(
            Chart(
                f"The teacher's surprise at true tokens: {title}",
                [
                    Series("as it is", times, [o["realised"] for o in bins], low, high, "data"),
                    Series("as it predicts", times, [o["predicted"] for o in bins], role="teacher"),
                ],
                (),
                "t",
                "nats per position",
                log_x=False,
                caption="They agree for a calibrated teacher. The band is a 95% interval.",
            )
        )
    return charts


def role_of(model: str) -> Role:
    """Which colour a model gets, from its name."""
    name = model.lower()
    if "student" in name or "joint" in name:
        return "student"
    if "teacher" in name or "exact" in name:
        return "teacher"
    return "data" if "data" in name else "other"


@cache
def _metrics() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(shipped("metrics.yaml"))


def _series(label: str, line: Sequence[Row], role: Role) -> Series:
    banded = any(row.low is not None and row.high is not None for row in line)
    low = [row.value if row.low is None else row.low for row in line] if banded else None
    if low is not None and all(row.value >= 0 for row in line):
        # A centred interval can dip below what the metric can be.
        low = [max(0.0, value) for value in low]
    high = [row.value if row.high is None else row.high for row in line] if banded else None
    xs = [float(row.nfe or 0) for row in line]
    return Series(label, xs, [row.value for row in line], low, high, role)


def _log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, given it or its folder; none if there is no such file."""
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        return []
    return read_json_lines(path)


def _in_words(rows: Sequence[Row], metric: str) -> tuple[list[str], list[KeyNumber]]:
    """A plain summary of the headline metric, and the number that tells most."""
    about = metric_called(metric)
    mine = [row for row in rows if row.metric == metric and not row.is_reference]
    fewest = min(row.nfe or 0 for row in mine)
    # One voice per role: the best sampler of each at the smallest budget they share.
    best: dict[Role, Row] = {}
    for row in (r for r in mine if r.nfe == fewest):
        role = role_of(row.model)
        rival = best.get(role)
        lower = rival is None or row.value < rival.value
        if rival is None or (lower if about.better != "higher" else not lower):
            best[role] = row
    plural = "" if fewest == 1 else "s"
    at = f"{short(fewest)} network evaluation{plural}"
    if "student" in best and "teacher" in best:
        student, teacher = best["student"], best["teacher"]
        words = (
            f"At {at} per sample the {student.model} reaches {short(student.value)} and the "
            f"{teacher.model} {short(teacher.value)} ({about.unit}"
            f"{f', {about.better} is better' if about.better else ''})."
        )
        label = f"{about.unit} of the {student.model} at {at}; {teacher.model}: "
        return [words], [KeyNumber(short(student.value), label + short(teacher.value))]
    row = next(iter(best.values()))
    most = max((r for r in mine if r.model == row.model), key=lambda r: r.nfe or 0)
    words = (
        f"With {at} per sample the {row.model} scores {short(row.value)} ({about.unit}); with "
        f"{short(most.nfe or 0)} it scores {short(most.value)}."
    )
    return [words], [KeyNumber(short(row.value), f"{about.unit} of the {row.model} at {at}")]
