"""How much faster a student is at equal quality: seconds, not network evaluations.

A student that draws its tokens one after another, or whose head is heavy, has few evaluations and
may still be slow. So each student is given the cheapest number of steps at which it reaches what
the teacher reaches with many, and samples per second are compared there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewjump.demo.parts import TEACHER
from fewjump.results import Row


@dataclass(frozen=True)
class Point:
    """A sampler at a number of steps: how good, and how fast.

    Attributes:
        student: whose samples.
        steps: of the grid.
        quality: a number of which less is better.
        seconds_per_sample: wall-clock.
    """

    student: str
    steps: int
    quality: float
    seconds_per_sample: float


@dataclass(frozen=True)
class Speed:
    """A student at the quality of the teacher.

    Attributes:
        student: whose samples.
        reached: whether some number of steps is as good as the teacher.
        steps: the fastest that is; where none is, the number of steps of the best quality.
        quality: at ``steps``, averaged over seeds.
    """

    student: str
    reached: bool
    steps: int
    quality: float


def points_of(rows: Sequence[Mapping[str, Any]], metric: str) -> list[Point]:
    """Points from rows with ``student``, ``steps``, ``samples``, ``seconds`` and the metric.

    Rows without a value of the metric (None) are left out.
    """
    return [
        Point(r["student"], r["steps"], r[metric], r["seconds"] / r["samples"])
        for r in rows
        if r.get(metric) is not None
    ]


def points_of_results(rows: Sequence[Row], metric: str, samples: int) -> list[Point]:
    """Points from rows of ``results.json``, whose ``seconds`` are for ``samples`` samples.

    References, and rows that were not timed, are left out.
    """
    return [
        Point(r.model, r.steps, r.value, r.seconds / samples)
        for r in rows
        if r.metric == metric and r.steps is not None and r.seconds is not None
    ]


def speed_at_quality(points: Sequence[Point], steps: int = 64) -> list[Speed]:
    """Each student at the quality of the teacher with ``steps`` steps, the teacher's row first.

    Measured numbers of steps only: between two of them there is no sampler.

    Args:
        points: of the teacher and the students, one for each number of steps and seed.
        steps: of the teacher.

    Raises:
        ValueError: without the teacher at that number of steps, or with a time that is not
            positive.
    """
    if any(point.seconds_per_sample <= 0 for point in points):
        raise ValueError("every point needs a positive time per sample")
    curves = _averaged(points)
    if steps not in curves.get(TEACHER, {}):
        found = sorted(curves.get(TEACHER, {}))
        raise ValueError(f"no point of {TEACHER} at {steps} steps; found steps {found}")
    standard = curves.pop(TEACHER)[steps]
    out = [Speed(TEACHER, True, steps, standard.quality)]
    for student, curve in curves.items():
        good = [p for p in curve.values() if p.quality <= standard.quality]
        if good:
            p = min(good, key=lambda p: p.seconds_per_sample)
        else:
            p = min(curve.values(), key=lambda p: p.quality)
        out.append(Speed(student, bool(good), p.steps, p.quality))
    return out


def _averaged(points: Sequence[Point]) -> dict[str, dict[int, Point]]:
    groups: dict[str, dict[int, list[Point]]] = {}
    for point in points:
        groups.setdefault(point.student, {}).setdefault(point.steps, []).append(point)
    return {
        student: {
            steps: Point(
                student,
                steps,
                sum(p.quality for p in group) / len(group),
                sum(p.seconds_per_sample for p in group) / len(group),
            )
            for steps, group in sorted(curve.items())
        }
        for student, curve in groups.items()
    }
