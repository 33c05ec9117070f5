"""``fewjump verify step-size``: how far may x_s lie from x_t before its draw does harm?"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewjump.config import one_of
from fewjump.report import Chart, KeyNumber, Role, Series, Table, short
from fewjump.verify.checks import (
    CheckResult,
    ModelCheck,
    Rows,
    chart,
    distinct,
    interval,
    line,
    mean,
    of_seeds,
    pick,
    pivot,
    plus_minus,
)

if TYPE_CHECKING:
    from fewjump.denoiser import Denoiser
    from fewjump.objective import ConditionalMatching
    from fewjump.options.matching import Intermediate
    from fewjump.verify.subjects import Subject
    from fewjump.verify.table_student import World

EULER: Intermediate = "student-euler"
DRAWS: dict[Intermediate, tuple[str, Role]] = {
    EULER: ("Euler", "student"),
    "student-exact": ("exact step", "teacher"),
    "student-trapezoidal": ("second order", "data"),
    "forward": ("forward pair", "other"),
}
SAMPLED = (1, 2, 4)  # numbers of steps that every student of a table is sampled with


@dataclass
class StepSize(ModelCheck):
    """Distil at several step sizes, with Euler, exact and second-order student draws of x_s.

    A long step lets a student learn from much cleaner states; a short one keeps the draw of x_s
    right. On a problem of 4³ states with an imperfect teacher every error is exact. The break point
    of a draw is the step from which its student is worse than the teacher it learned from. With
    --model, the same on a saved teacher, judged by how surprised it is by true tokens.

    Attributes:
        processes: processes of the problem.
        gaps: largest t − s, as shares of the whole time.
        grids: few-step forms: numbers of equal jumps that a student is trained for, and sampled
            with.
        steps: optimiser steps of each student.
        teacher_error: standard deviation of the teacher's logits at t = 1; it grows linearly
            from 0.
    """

    name = "step-size"
    about = "how far a student's draw of x_s may reach before it does harm"
    question = "How large may the step from x_t to x_s be?"

    processes: list[str] = field(default_factory=lambda: ["uniform", "absorbing"])
    gaps: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.35, 0.5])
    grids: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    steps: int = 400
    teacher_error: float = 0.5

    def validate(self) -> None:
        super().validate()
        for name in self.processes:
            one_of("process", name, ("uniform", "absorbing"))
        if len(self.gaps) < 2 or not all(0 < gap <= 1 for gap in self.gaps):
            raise ValueError("--gaps needs two numbers or more, each in (0, 1]")
        if any(k < 1 for k in self.grids) or self.steps < 1:
            raise ValueError("--grids and --steps must be at least 1")

    def measure(self) -> list[dict[str, Any]]:
        """A row per draw, step size (or grid) and seed, and one for the teacher at each seed.

        ``kl`` is the subject's judgement (:func:`~fewjump.verify.table_student.posterior_kl`, or
        what true tokens cost a user's model); ``output_kl_K`` the KL of the output law at K steps;
        ``clipped`` the mean probability that a draw asked for and could not have; ``spike`` the
        largest late loss over the median.
        """
        from fewjump.verify.subjects import saved_subject
        from fewjump.verify.table_student import make_world

        rows: list[dict[str, Any]] = []
        if self.model is not None:
            subject = saved_subject(self, self.seed)
            for seed in self.all_seeds():
                rows += compared("your model", subject, self.gaps, [], self.steps, seed)
            return rows
        for number, family in enumerate(self.processes):
            # One process is enough to compare grids.
            grids = self.grids if number == 0 else []
            for seed in self.all_seeds():
                world = make_world(family, self.teacher_error, seed)
                subject = world.subject(seed)
                rows += compared(family, subject, self.gaps, grids, self.steps, seed, world)
        return rows

    def answer(self, rows: Rows) -> CheckResult:
        unit = (
            "nats per position, of true tokens"
            if self.model is not None
            else "KL of the posterior, nats per position"
        )
        charts, tables, verdict, key_numbers, breaks = [], [], [], [], []
        for family in distinct(rows, "family"):
            mine = pick(rows, family=family)
            by_gap, by_grid = pick(mine, grid=None), [r for r in mine if r["grid"] is not None]
            found = {draw: {"family": family} | break_points(by_gap, draw) for draw in DRAWS}
            breaks += found.values()
            charts += _charts(by_gap, family, unit)
            tables.append(_gap_table(by_gap, family, unit))
            verdict.append(_told(by_gap, family, found[EULER]))
            if found[EULER]["at"] is not None:
                what = f"Δt from which Euler draws do harm ({family})"
                key_numbers.append(KeyNumber(short(found[EULER]["at"]), what))
            if by_grid:
                charts.append(_grid_chart(by_grid, family))
                tables.append(_grid_table(by_grid, family))
        return self.result(
            [*rows, *breaks],
            verdict,
            charts,
            tables=[_break_table(breaks), *tables],
            key_numbers=key_numbers[:3],
        )


def compared(
    family: str,
    subject: Subject,
    gaps: Sequence[float],
    grids: Sequence[int],
    steps: int,
    seed: int,
    world: World | None = None,
) -> list[dict[str, Any]]:
    """Rows of the teacher, and of a student for every draw and step size or grid.

    Args:
        family, seed: of the rows.
        subject: what is distilled, for ``steps`` steps.
        world: the enumerable problem that the subject is of, whose samplers are judged too.
    """
    from fewjump.objective import ConditionalMatching
    from fewjump.verify.table_student import output_kl

    def row(draw: str, gap: float | None, grid: int | None, **found: float) -> dict[str, Any]:
        about = {"family": family, "seed": seed, "draw": draw, "gap": gap, "grid": grid}
        return {**about, "clipped": 0.0, "spike": 1.0, **found}

    def judge(denoiser: Denoiser, grid: int | None) -> dict[str, float]:
        found = {"kl": subject.judge(denoiser, seed)}
        if world is not None:
            # A student of a grid has learned its own times only.
            for k in SAMPLED if grid is None else (grid,):
                found[f"output_kl_{k}"] = output_kl(world, denoiser, k)
        return found

    rows = [row("teacher", None, None, **judge(subject.teacher, None))]
    for draw in DRAWS:
        for gap, grid in [(gap, None) for gap in gaps] + [(None, grid) for grid in grids]:
            objective = ConditionalMatching(draw, max_gap=gap or 1.0, steps=grid)
            student, found = distilled(subject, objective, steps, seed)
            rows.append(row(draw, gap, grid, **found, **judge(student, grid)))
    if world is not None:
        for k in grids:
            teacher, floor = (output_kl(world, who, k) for who in (world.teacher, world.exact))
            rows.append(row("teacher", None, k, **{f"output_kl_{k}": teacher, "floor": floor}))
    return rows


def distilled(
    subject: Subject, objective: ConditionalMatching, steps: int, seed: int
) -> tuple[Denoiser, dict[str, float]]:
    """A student that starts at the teacher, trained at a rate that falls linearly to 0.

    Its ``clipped`` mass (mean), and its ``spike``: the largest loss of the second half over its
    median, near 1 for a quiet training.
    """
    from fewjump.random import generator_for

    student, losses, clipped = subject.warm(), [], []
    source = generator_for(seed, 11)
    for loss, metrics in subject.distil(
        student, objective, source, steps, lambda step: 1 - step / steps
    ):
        losses.append(loss)
        clipped.append(float(metrics.get("clipped_mass", 0.0)))
    late = losses[len(losses) // 2 :]
    spike = max(late) / max(1e-12, statistics.median(late))
    return student, {"clipped": statistics.fmean(clipped), "spike": spike}


def break_points(rows: Rows, draw: str) -> dict[str, Any]:
    """Where a draw's students stop being better than the teacher: Δt, its interval, by seed.

    By seed, the smallest gap from which the error is above the teacher's, interpolated linearly;
    None where it never is. The interval is Student's 95% over seeds, given if all seeds break.
    """
    by_seed = []
    for seed in distinct(rows, "seed"):
        mine = pick(rows, seed=seed, grid=None)
        teacher = pick(mine, draw="teacher")[0]["kl"]
        by_seed.append(
            _crossing(sorted((r["gap"], r["kl"] - teacher) for r in pick(mine, draw=draw)))
        )
    out: dict[str, Any] = {"draw": draw, "by_seed": by_seed, "at": None, "low": None, "high": None}
    if None not in by_seed:
        centre, half = interval(by_seed)
        out |= {"at": centre, "low": max(0.0, centre - half), "high": centre + half}
    return out


def _crossing(curve: Sequence[tuple[float, float]]) -> float | None:
    """The gap after the last one at which the excess is ≤ 0; None if that is the largest."""
    last = max((i for i, (_, excess) in enumerate(curve) if excess <= 0), default=-1)
    if last == len(curve) - 1:
        return None
    if last < 0:
        return curve[0][0]
    (x0, y0), (x1, y1) = curve[last], curve[last + 1]
    return x0 + (x1 - x0) * (-y0) / (y1 - y0)


def _told(rows: Rows, family: str, euler: Mapping[str, Any]) -> str:
    """Each draw at its best step, and where Euler's ends."""
    best = []
    for draw, (name, _) in DRAWS.items():
        mine = pick(rows, draw=draw)
        value, gap = min(
            (mean(r["kl"] for r in pick(mine, gap=g)), g) for g in distinct(mine, "gap")
        )
        best.append(f"{name} {short(value)} at Δt ≤ {short(gap)}")
    teacher = mean(row["kl"] for row in pick(rows, draw="teacher"))
    end = (
        f"from Δt = {short(euler['at'])} ({short(euler['low'])} to {short(euler['high'])}) on"
        if euler["at"] is not None
        else "in some seeds"
        if any(at is not None for at in euler["by_seed"])
        else "never"
    )
    late = pick(rows, gap=max(distinct(rows, "gap")))
    clipped = mean(row["clipped"] for row in pick(late, draw=EULER))
    clips = f" (its draws ask for {short(clipped)} more probability than there is at the longest)"
    return (
        f"**{family.capitalize()}** (teacher {short(teacher)}), each at its best: "
        f"{', '.join(best)}. Euler's student becomes worse than its teacher: {end}"
        f"{clips if clipped >= 1e-3 else ''}."
    )


def _charts(rows: Rows, family: str, unit: str) -> list[Chart]:
    def drawn(draws: Sequence[Intermediate], key: str) -> list[Series]:
        return [
            line(pick(rows, draw=d), "gap", of_seeds(key, at_least=0.0), *DRAWS[d]) for d in draws
        ]

    teacher = mean(row["kl"] for row in pick(rows, draw="teacher"))
    return [
        chart(
            f"Error of the student against the step size: {family}",
            drawn(list(DRAWS), "kl"),
            "largest t − s",
            unit,
            marks={"the teacher itself": teacher},
        ),
        chart(
            f"Probability that a draw asked for and could not have: {family}",
            drawn((EULER, "student-trapezoidal"), "clipped"),
            "largest t − s",
            "mass per position",
        ),
    ]


def _grid_chart(rows: Rows, family: str) -> Chart:
    series = [
        line(pick(rows, draw=draw), "grid", _output_kl, name, role)
        for draw, (name, role) in {**DRAWS, "teacher": ("teacher", "other")}.items()
    ]
    floor = line(pick(rows, draw="teacher"), "grid", of_seeds("floor"), "product floor")
    series.append(Series(floor.label, floor.x, floor.y, role="data"))
    return chart(
        f"Students of a grid, sampled on it: {family}",
        series,
        "jumps from noise to data",
        "KL of the samples' law, nats",
        "xy",
        caption="The floor is what exact posteriors, one table per position, reach.",
    )


def _output_kl(rows: Rows) -> tuple[float, float, float]:
    """Of the students of one grid, sampled on it."""
    return of_seeds(f"output_kl_{rows[0]['grid']}", at_least=0.0)(rows)


def _names(teacher: str) -> dict[str, str]:
    return {draw: name for draw, (name, _) in DRAWS.items()} | {"teacher": teacher}


def _gap_table(rows: Rows, family: str, unit: str) -> Table:
    # The teacher has no step: it is shown beside each.
    gaps = sorted(distinct(rows, "gap"))
    spread = [r for r in rows if r["gap"] is not None]
    spread += [{**r, "gap": gap} for r in pick(rows, draw="teacher") for gap in gaps]
    return pivot(
        f"Error against the step size: {family} ({unit})",
        spread,
        "draw",
        _names("the teacher itself"),
        {f"Δt ≤ {short(gap)}": {"gap": gap} for gap in gaps},
        lambda cell: plus_minus([row["kl"] for row in cell]),
        "draw of x_s",
    )


def _grid_table(rows: Rows, family: str) -> Table:
    return pivot(
        f"Students of a grid: KL of the samples' law ({family})",
        rows,
        "draw",
        _names("teacher"),
        {f"{k} jump{'s' * (k > 1)}": {"grid": k} for k in sorted(distinct(rows, "grid"))},
        lambda cell: plus_minus([row[f"output_kl_{row['grid']}"] for row in cell]),
        "x_s",
    )


def _break_table(breaks: Rows) -> Table:
    lines = []
    for found in breaks:
        by_seed = ["never" if at is None else short(at) for at in found["by_seed"]]
        at, ends = "in some seeds" if set(by_seed) != {"never"} else "never", ""
        if found["at"] is not None:
            at, ends = short(found["at"]), f"{short(found['low'])} – {short(found['high'])}"
        lines.append((found["family"], DRAWS[found["draw"]][0], at, ends, ", ".join(by_seed)))
    return Table(
        "Where a student becomes worse than its teacher: Δt",
        ("process", "draw of x_s", "break point", "95% interval", "by seed"),
        lines,
        caption="Within the steps that were tried. A break point is given if all seeds have one.",
    )
