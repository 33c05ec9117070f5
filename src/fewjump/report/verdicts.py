"""Tables of a comparison: verdicts, what looks degenerate, and what training took."""

from __future__ import annotations

from typing import Any

from fewjump.report.build import metric_called
from fewjump.report.content import Table
from fewjump.results import Row

COMPARISON = "Students of one teacher, compared"


def comparison_tables(
    rows: list[Row], costs: list[dict[str, Any]], teacher: str = "teacher"
) -> list[Table]:
    """Verdicts, what looks degenerate, and costs; arguments as for each of them."""
    return [*verdicts(rows, teacher), *suspects(rows), *cost_table(costs)]


def verdicts(rows: list[Row], teacher: str) -> list[Table]:
    """Every model against the teacher at its most evaluations, where a metric has a direction.

    Args:
        rows: one for each model, number of steps and metric.
        teacher: what the teacher's rows are called.
    """
    lines = []
    sampled = [row for row in rows if not row.is_reference]
    for metric in dict.fromkeys(row.metric for row in sampled):
        direction = metric_called(metric).better
        if direction is None:
            continue
        mine = [row for row in sampled if row.metric == metric]
        slow = max((r for r in mine if r.model == teacher), key=lambda r: r.nfe or 0, default=None)
        for row in mine:
            # What is known of one evaluation may not be known of the teacher's numbers of steps.
            if slow is None or row.model == teacher:
                continue
            (low, high), (slow_low, slow_high) = row.ends, slow.ends
            below, above = high < slow_low, low > slow_high
            better, worse = (below, above) if direction == "lower" else (above, below)
            answer = "better" if better else "worse" if worse else "intervals overlap"
            lines.append((row.model, row.nfe, metric, row.value, slow.value, slow.nfe, answer))
    columns = ("model", "NFE", "metric", "value", "teacher", "its NFE", "verdict")
    caption = (
        "Against the teacher at its most evaluations. Samples at one temperature: look at entropy "
        "or recall beside quality before you call one better. With one seed the intervals are of "
        "sampling alone: another training may differ."
    )
    return [Table("Verdicts", columns, lines, caption)] if lines else []


def suspects(rows: list[Row]) -> list[Table]:
    """Samples that repeat, copy or lack variety, by intervals that lie apart from real data's.

    A judge likes what is likelier than the data: periodic text, one sequence over and over, shaped
    logits, training data. Each of them is on the wrong side of the data in some metric.
    """
    real = {row.metric: row for row in rows if row.is_reference}
    lines = []
    for row in rows:
        data = real.get(row.metric) or real.get(row.metric.partition("_at_")[0])
        side = metric_called(row.metric).suspect
        if row.is_reference or data is None or side is None:
            continue
        (low, high), (data_low, data_high) = row.ends, data.ends
        if high < data_low if side == "below" else low > data_high:
            lines.append((row.model, row.nfe, row.metric, row.value, data.value, side))
    columns = ("model", "NFE", "metric", "value", "data", "side")
    caption = (
        "Where samples lie on that side of real data on which a generator is degenerate: it "
        "repeats itself, copies, lacks variety, or pleases the judge more than real data do. What "
        "stands here is not better for it, whatever its verdict."
    )
    return [Table("Degenerate?", columns, lines, caption)] if lines else []


def cost_table(costs: list[dict[str, Any]]) -> list[Table]:
    """What the students took to train."""
    columns = ("model", "seed", "steps", "batch_size", "teacher_evaluations", "seconds")
    lines = [tuple(cost[name] for name in columns) for cost in costs]
    heads = ("student", "seed", "optimiser steps", "batch size", "teacher evaluations", "seconds")
    return [Table("Cost of training", heads, lines)] if lines else []
