"""From result rows to a report: charts, headline and timings that need no author."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewjump.files import read_json_lines
from fewjump.report.axis import short
from fewjump.report.content import (
    Chart,
    KeyNumber,
    Note,
    Reference,
    Report,
    Role,
    SampleGroup,
    Series,
    Table,
)
from fewjump.report.metrics import metric_called
from fewjump.report.rows import Row, as_row, metrics_in

CURVE_POINTS = 160

ABOUT_FLOOR = Note(
    "What the floor is",
    (
        "A network that gives one probability table per position draws all positions of a step "
        "independently. Where positions depend on each other, a single step must then miss: by "
        "at least the **total correlation** of the clean positions given the noisy ones. Smaller "
        "steps leave less to be drawn at once, so the error falls as evaluations are added.",
        "No training of such a network can go below that floor. A score that seems to has "
        "changed the distribution, for example by giving up variety.",
    ),
)
ABOUT_METHOD = Note(
    "What distillation can and cannot do here",
    (
        "Conditional matching teaches a student to answer at a noisy time what the teacher "
        "answers at a cleaner one. It removes the error of a first-order (Euler) sampler and "
        "the disagreement of the teacher with itself between times.",
        "It **cannot** make independent draws dependent. If the teacher is already exact and "
        "is sampled with the exact reverse step, its own answers are the best possible target, "
        "and a per-position student lands on the teacher's curve, not below it.",
    ),
)


def from_results(
    rows: Iterable[Row | Mapping[str, Any]],
    title: str | None = None,
    subtitle: str = "",
    summary: Sequence[str] = (),
    key_numbers: Sequence[KeyNumber] = (),
    samples: Sequence[SampleGroup] = (),
    notes: Sequence[Note] = (ABOUT_FLOOR, ABOUT_METHOD),
    tables: Sequence[Table] = (),
    training: Sequence[Chart] = (),
    facts: Mapping[str, Any] | None = None,
    headline: str | None = None,
) -> Report:
    """A complete report from measured rows; whatever is given replaces what would be written.

    Args:
        rows: see :class:`fewjump.report.rows.Row`. Rows without evaluations are reference lines.
        title, subtitle, summary, key_numbers: the opening; written from the rows when left out.
        samples, notes, training: further sections.
        tables: shown before the wall-clock table, which is made where rows have seconds.
        facts: seed, versions, machine, configuration.
        headline: the metric of the large first chart; the first one in ``rows`` when None.

    Raises:
        ValueError: if there is no row, or no row of the headline metric.
    """
    rows = [as_row(row) for row in rows]
    names = metrics_in([row for row in rows if not row.is_reference])
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
        notes=notes,
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

    None if no row has seconds.
    """
    seen: dict[tuple[str, str], dict[float, float]] = {}
    for row in rows:
        if row.seconds is not None and row.nfe:
            seen.setdefault((row.model, row.sampler), {})[row.nfe] = row.seconds
    if not seen:
        return None
    budgets = sorted({nfe for times in seen.values() for nfe in times})
    return Table(
        title="Wall-clock seconds",
        columns=("model", "sampler", *(f"NFE {short(nfe)}" for nfe in budgets)),
        rows=[(*key, *(times.get(nfe) for nfe in budgets)) for key, times in seen.items()],
        caption="Seconds to draw the samples that were judged, on the machine named below. NFE is "
        "the number of network evaluations per sample, as counted.",
    )


def training_charts(path: str | Path, title: str, role: Role = "other") -> list[Chart]:
    """The loss of a run's ``metrics.jsonl`` against the step; empty if there is no such file.

    Long records are averaged into at most 160 points.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "metrics.jsonl"
    if not path.is_file():
        return []
    steps, losses = [], []
    for record in read_json_lines(path):
        # A loss that was not finite is recorded as null.
        if record.get("loss") is not None and "step" in record:
            steps.append(float(record["step"]))
            losses.append(float(record["loss"]))
    if not steps:
        return []
    series = Series(title, *_thin(steps, losses), role=role)
    return [Chart(f"Training: {title}", [series], (), "step", "loss", log_x=False)]


def role_of(model: str) -> Role:
    """Which colour a model gets, from its name."""
    name = model.lower()
    if "student" in name or "joint" in name:
        return "student"
    if "teacher" in name or "exact" in name:
        return "teacher"
    return "data" if "data" in name else "other"


def _series(label: str, line: Sequence[Row], role: Role) -> Series:
    banded = any(row.low is not None and row.high is not None for row in line)
    low = [row.value if row.low is None else row.low for row in line] if banded else None
    if low is not None and all(row.value >= 0 for row in line):
        # An interval by symmetric reflection can dip below what the metric can be.
        low = [max(0.0, value) for value in low]
    high = [row.value if row.high is None else row.high for row in line] if banded else None
    xs = [float(row.nfe or 0) for row in line]
    return Series(label, xs, [row.value for row in line], low, high, role)


def _thin(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    width = -(-len(xs) // CURVE_POINTS)
    buckets = [slice(i, i + width) for i in range(0, len(xs), width)]
    mean = lambda v: sum(v) / len(v)  # noqa: E731
    return [mean(xs[b]) for b in buckets], [mean(ys[b]) for b in buckets]


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
