"""One sampler against another over several seeds: the difference, its interval, a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewjump.evaluate.bootstrap import half_width

Measured = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """``challenger`` minus ``standard`` in a metric of which less is better.

    Attributes:
        question: what is asked, in words.
        challenger, standard: (student, steps).
        metric: what was compared.
        difference: averaged over the seeds that both have.
        low, high: its 95% interval: the wider of what the samples' intervals say and, with two
            seeds or more, Student's t on the differences of the seeds.
        by_seed: the differences, in the order of the seeds.
        better: the interval lies below 0.
        no_worse: the difference is at most 0, or the interval holds 0.
    """

    question: str
    challenger: tuple[str, int]
    standard: tuple[str, int]
    metric: str
    difference: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    better: bool
    no_worse: bool


def compare(
    rows: Sequence[Measured],
    challenger: tuple[str, int],
    standard: tuple[str, int],
    metric: str,
    question: str = "",
) -> Verdict:
    """Two samplers at the seeds that both were measured at.

    Args:
        rows: with ``student``, ``steps``, ``seed``, the metric, and its ends ``<metric>_low`` and
            ``<metric>_high``. Rows where the metric is None are left out.
        challenger, standard: (student, steps).
        metric: less is better.
        question: kept in the verdict.

    Raises:
        ValueError: if they have no seed in common.
    """
    mine, theirs = (_by_seed(rows, who, metric) for who in (challenger, standard))
    seeds = sorted(set(mine) & set(theirs))
    if not seeds:
        raise ValueError(
            f"{metric} of {challenger[0]} at {challenger[1]} steps and of {standard[0]} at "
            f"{standard[1]} were not measured with the same seed: found seeds {sorted(mine)} and "
            f"{sorted(theirs)}"
        )
    differences = [mine[s][metric] - theirs[s][metric] for s in seeds]
    difference = sum(differences) / len(seeds)
    sampling = sum(_half(r[s], metric) ** 2 for r in (mine, theirs) for s in seeds) ** 0.5
    half = max(sampling / len(seeds), half_width(differences))
    return Verdict(
        question=question,
        challenger=challenger,
        standard=standard,
        metric=metric,
        difference=difference,
        low=difference - half,
        high=difference + half,
        by_seed=tuple(differences),
        better=difference < -half,
        no_worse=difference <= half,
    )


def best_at(
    rows: Sequence[Measured], students: Sequence[str], steps: int, metric: str
) -> str | None:
    """The student with the least mean of the metric over seeds at ``steps``; None if none has it.

    Only students measured with the most seeds stand for election. The choice is made on the rows
    that are then compared, so a lead within their interval is none.
    """
    found = {s: list(_by_seed(rows, (s, steps), metric).values()) for s in students}
    most = max((len(values) for values in found.values()), default=0)
    means = {
        student: sum(row[metric] for row in values) / most
        for student, values in found.items()
        if values and len(values) == most
    }
    return min(means, key=lambda name: means[name]) if means else None


def _by_seed(rows: Sequence[Measured], who: tuple[str, int], metric: str) -> dict[int, Measured]:
    return {
        row["seed"]: row
        for row in rows
        if (row["student"], row["steps"]) == who and row.get(metric) is not None
    }


def _half(row: Measured, metric: str) -> float:
    return (row[f"{metric}_high"] - row[f"{metric}_low"]) / 2
