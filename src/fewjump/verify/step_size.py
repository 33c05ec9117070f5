"""``fewjump verify step-size``: how far may x_s lie from x_t before its draw does harm?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from fewjump.reading import reading_values
from fewjump.report import Chart, KeyNumber, Series, Table
from fewjump.verify.checks import CheckResult, ModelOptions
from fewjump.verify.summary import (
    Role,
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
    short,
)

if TYPE_CHECKING:
    from torch import Tensor

    from fewjump.denoiser import Denoiser
    from fewjump.objective import Objective
    from fewjump.options.objectives import Intermediate
    from fewjump.verify.table_student import World

EULER: Intermediate = "student-euler"
DRAWS: dict[Intermediate, tuple[str, Role]] = {
    EULER: ("Euler", "student"),
    "student-exact": ("exact step", "teacher"),
    "student-trapezoidal": ("second order", "data"),
    "forward": ("forward pair", "other"),
}
SAMPLED = (1, 2, 4)  # numbers of steps that every student of a table is sampled with
UNITS = {
    True: "nats per position, of true tokens",
    False: "KL of the posterior, nats per position",
}


@dataclass
class Options(ModelOptions):
    """Distil at several step sizes, with Euler, exact and second-order student draws of x_s.

    A long step lets a student learn from much cleaner states; a short one keeps the draw of x_s
    right. On a problem of 4³ states with an imperfect teacher every error is exact. The break point
    of a draw is the step from which its student is worse than the teacher it learned from. With
    --model, the same on a saved teacher, judged by how surprised it is by true tokens.
    """

    processes: list[str] = field(default_factory=lambda: ["uniform", "absorbing"])
    """Processes of the problem."""

    gaps: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.35, 0.5])
    """Largest t − s, as shares of the whole time."""

    grids: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Few-step forms: numbers of equal jumps that a student is trained for, and sampled with."""

    steps: int = 400
    """Optimiser steps of each student."""

    teacher_error: float = 0.5
    """Standard deviation of the teacher's logits at t = 1; it grows linearly from 0."""


def run(options: Options) -> CheckResult:
    """Distil, judge, and say where each draw breaks.

    Raises:
        ValueError: for options outside their range.
        FileNotFoundError: if there is no model.
    """
    unknown = [name for name in options.processes if name not in ("uniform", "absorbing")]
    if unknown:
        raise ValueError(f"unknown process {unknown[0]!r}; known: uniform, absorbing")
    if len(options.gaps) < 2 or not all(0 < gap <= 1 for gap in options.gaps):
        raise ValueError("--gaps needs two numbers or more, each in (0, 1]")
    if any(k < 1 for k in options.grids) or options.seeds < 1 or options.steps < 1:
        raise ValueError("--grids, --seeds and --steps must be at least 1")
    options.refuse_without_model()

    seeds = options.all_seeds()
    if options.model is not None:
        return summarise(measure_saved(options, seeds), options)
    rows = []
    for number, family in enumerate(options.processes):
        # One process is enough to compare grids.
        grids = options.grids if number == 0 else []
        rows += measure(family, options.gaps, grids, seeds, options.steps, options.teacher_error)
    return summarise(rows, options)


class Record(NamedTuple):
    """Losses and clipped masses of a training, one number a step."""

    losses: list[float]
    clipped: list[float]

    def spike(self) -> float:
        """Largest loss of the second half over its median: near 1 for a quiet training."""
        late = self.losses[len(self.losses) // 2 :]
        return max(late) / max(1e-12, statistics.median(late))


def follow(
    student: Denoiser,
    teacher: Denoiser,
    objective: Objective,
    data: Tensor,
    steps: int,
    seed: int,
    lr: float,
    batch_size: int = 128,
) -> Record:
    """Train in place with a learning rate that falls linearly to 0."""
    from fewjump.random import generator_for
    from fewjump.verify.subjects import optimise

    record, generator = Record([], []), generator_for(seed, 11)
    for loss, metrics in optimise(
        student,
        teacher,
        objective,
        data,
        generator,
        steps,
        lambda step: lr * (1 - step / steps),
        batch_size,
    ):
        record.losses.append(loss)
        record.clipped.append(float(metrics.get("clipped_mass", 0.0)))
    return record


def run_table(world: World, objective: Objective, steps: int, seed: int) -> tuple[Denoiser, Record]:
    """A table student that starts at the teacher, trained."""
    from fewjump.random import generator_for
    from fewjump.verify.table_student import TableStudent

    student = TableStudent(world.process, world.teacher)
    data = world.problem.sample(16_384, generator_for(seed, 12))
    return student, follow(student, world.teacher, objective, data, steps, seed, lr=0.05)


def measure(
    family: str,
    gaps: Sequence[float],
    grids: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    error: float,
) -> list[dict[str, Any]]:
    """A row per draw, step size (or grid) and seed, and one for the teacher at each seed.

    ``kl`` is :func:`~fewjump.verify.table_student.posterior_kl`; ``output_kl_K`` the KL of the
    output law at K steps; ``clipped`` the mean probability that a draw asked for and could not
    have; ``spike`` the largest late loss over the median.
    """
    from fewjump.verify.table_student import make_world, output_kl, posterior_kl

    rows = []
    for seed in seeds:
        world, common = make_world(family, error, seed), {"family": family, "seed": seed}

        def judge(denoiser: Denoiser, grid: int | None, world: World = world) -> dict[str, float]:
            # A student of a grid has learned its own times only.
            sampled = SAMPLED if grid is None else (grid,)
            found = {f"output_kl_{k}": output_kl(world, denoiser, k) for k in sampled}
            return {"kl": posterior_kl(world, denoiser), **found}

        rows += _compared(
            common,
            world.teacher,
            gaps,
            grids,
            lambda objective, w=world, s=seed: run_table(w, objective, steps, s),
            judge,
        )
        for k in grids:
            teacher, floor = (output_kl(world, who, k) for who in (world.teacher, world.exact))
            rows.append(common | _of_teacher(k) | {f"output_kl_{k}": teacher, "floor": floor})
    return rows


def measure_saved(options: Options, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The same rows, without grids, for a user's teacher; ``kl`` is what its tokens cost."""
    from fewjump.verify.subjects import saved_subject

    assert options.model is not None
    subject = saved_subject(options.model, options.data, options.seed, reading_values(options))
    rows = []
    for seed in seeds:

        def trained(objective: Objective, seed: int = seed) -> tuple[Denoiser, Record]:
            student = subject.teacher.as_student()
            record = follow(
                student,
                subject.teacher,
                objective,
                subject.data,
                options.steps,
                seed,
                subject.lr,
                64,
            )
            return student, record

        rows += _compared(
            {"family": "your model", "seed": seed},
            subject.teacher,
            options.gaps,
            [],
            trained,
            lambda denoiser, _, seed=seed: {"kl": subject.judge(denoiser, seed)},
        )
    return rows


def _of_teacher(grid: int | None) -> dict[str, Any]:
    return {"draw": "teacher", "gap": None, "grid": grid, "clipped": 0.0, "spike": 1.0}


def _compared(
    common: Mapping[str, Any],
    teacher: Denoiser,
    gaps: Sequence[float],
    grids: Sequence[int],
    trained: Callable[[Objective], tuple[Denoiser, Record]],
    judge: Callable[[Denoiser, int | None], Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Rows of the teacher, and of a student for every draw and step size or grid."""
    from fewjump.objective import ConditionalMatching

    settings = [(gap, None) for gap in gaps] + [(None, grid) for grid in grids]
    rows = [{**common, **_of_teacher(None), **judge(teacher, None)}]
    for draw in DRAWS:
        for gap, grid in settings:
            objective = ConditionalMatching(draw, max_gap=gap or 1.0, steps=grid)
            student, record = trained(objective)
            found = {"clipped": statistics.fmean(record.clipped), "spike": record.spike()}
            about = {**common, "draw": draw, "gap": gap, "grid": grid}
            rows.append({**about, **found, **judge(student, grid)})
    return rows


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


def summarise(rows: Rows, options: Options) -> CheckResult:
    """The check from what was measured."""
    unit = UNITS[options.model is not None]
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
    return CheckResult(
        name="step-size",
        question="How large may the step from x_t to x_s be?",
        verdict=verdict,
        rows=[*rows, *breaks],
        charts=charts,
        tables=[_break_table(breaks), *tables],
        notes=[options.note()],
        key_numbers=key_numbers[:3],
        settings=options.settings(),
    )


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
    def drawn(draws: Iterable[Intermediate], key: str) -> list[Series]:
        return [
            line(pick(rows, draw=d), "gap", of_seeds(key, at_least=0.0), *DRAWS[d]) for d in draws
        ]

    teacher = mean(row["kl"] for row in pick(rows, draw="teacher"))
    return [
        chart(
            f"Error of the student against the step size: {family}",
            drawn(DRAWS, "kl"),
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
