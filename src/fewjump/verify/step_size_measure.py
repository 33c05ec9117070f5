"""Distil at several step sizes with every student draw, and judge by exact laws."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.objective import ConditionalMatching, Objective
from fewjump.objective.conditional import Intermediate
from fewjump.random import generator_for
from fewjump.verify.table_student import (
    TableStudent,
    World,
    make_world,
    output_kl,
    posterior_kl,
)
from fewjump.verify.verdicts import half_width

DRAWS: tuple[Intermediate, ...] = (
    "student-euler",
    "student-exact",
    "student-trapezoidal",
    "forward",
)
GRIDS = (1, 2, 4, 8)
SAMPLED = (1, 2, 4)


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
    """Adam with a learning rate that falls linearly to 0: a training without files or averages.

    Args:
        student: trained in place.
        teacher: frozen.
        objective: from data or not.
        data: (N, L) clean tokens, drawn with replacement.
        steps, seed, lr, batch_size: of the training.
    """
    generator, record = generator_for(seed, 11), Record([], [])
    optimiser = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr)
    student.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - step / steps)
        batch = data[torch.randint(data.shape[0], (batch_size,), generator=generator)]
        optimiser.zero_grad(set_to_none=True)
        loss, metrics = objective(student, teacher, batch, generator)
        loss.backward()
        optimiser.step()
        record.losses.append(float(loss.detach()))
        record.clipped.append(float(metrics.get("clipped_mass", 0.0)))
    student.eval()
    return record


def run_table(
    world: World, objective: Objective, steps: int, seed: int, warm: bool = True
) -> tuple[Denoiser, Record]:
    """A table student that starts at the teacher, or at the uniform law, trained."""
    student = TableStudent(world.process, world.teacher if warm else None)
    data = world.problem.sample(16_384, generator_for(seed, 12))
    return student, follow(student, world.teacher, objective, data, steps, seed, lr=0.05)


def measure(
    family: str,
    gaps: Sequence[float],
    grids: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    error: float,
    draws: Sequence[Intermediate] = DRAWS,
) -> list[dict[str, Any]]:
    """A row per draw, step size (or grid) and seed, and one for the teacher at each seed.

    ``kl`` is :func:`~fewjump.verify.table_student.posterior_kl`; ``output_kl_K`` the KL of the
    output law at K steps; ``clipped`` the mean probability that a draw asked for and could not
    have; ``spike`` the largest late loss over the median.
    """
    rows = []
    for seed in seeds:
        world = make_world(family, error, seed)
        common = {"family": family, "seed": seed}
        rows.append(
            common
            | {"draw": "teacher", "gap": None, "grid": None, "clipped": 0.0, "spike": 1.0}
            | _judge(world, world.teacher, SAMPLED)
        )
        for draw in draws:
            settings = [{"gap": g, "grid": None} for g in gaps]
            settings += [{"gap": None, "grid": k} for k in grids]
            for setting in settings:
                objective = ConditionalMatching(
                    draw, max_gap=setting["gap"] or 1.0, steps=setting["grid"]
                )
                student, record = run_table(world, objective, steps, seed)
                # A student of a grid has learned its own times only.
                sampled = SAMPLED if setting["grid"] is None else (setting["grid"],)
                rows.append(
                    common
                    | {"draw": draw, **setting}
                    | {"clipped": statistics.fmean(record.clipped), "spike": record.spike()}
                    | _judge(world, student, sampled)
                )
        if grids:
            rows += [
                common
                | {"draw": "teacher", "gap": None, "grid": k, "clipped": 0.0, "spike": 1.0}
                | {f"output_kl_{k}": output_kl(world, world.teacher, k)}
                | {"floor": output_kl(world, world.exact, k)}
                for k in grids
            ]
    return rows


def _judge(world: World, denoiser: Denoiser, sampled: Sequence[int]) -> dict[str, float]:
    found = {f"output_kl_{k}": output_kl(world, denoiser, k) for k in sampled}
    return {"kl": posterior_kl(world, denoiser), **found}


def measure_saved(
    teacher: Denoiser,
    data: Tensor,
    gaps: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    judge: Callable[[Denoiser, int], float],
    student: Callable[[], Denoiser],
    draws: Sequence[Intermediate] = DRAWS,
) -> list[dict[str, Any]]:
    """The same rows for a user's teacher; ``kl`` is what ``judge(denoiser, seed)`` says.

    Args:
        teacher: frozen.
        data: (N, L) clean tokens to train on.
        gaps, seeds, steps, draws: as for :func:`measure`.
        judge: less is better.
        student: makes a student that starts at the teacher.
    """
    rows = []
    for seed in seeds:
        common = {"family": "your model", "seed": seed, "grid": None}
        rows.append(
            common
            | {"draw": "teacher", "gap": None, "clipped": 0.0, "spike": 1.0}
            | {"kl": judge(teacher, seed)}
        )
        for draw in draws:
            for gap in gaps:
                trained, objective = student(), ConditionalMatching(draw, max_gap=gap)
                record = follow(trained, teacher, objective, data, steps, seed, 3e-4, 64)
                rows.append(
                    common
                    | {"draw": draw, "gap": gap}
                    | {"clipped": statistics.fmean(record.clipped), "spike": record.spike()}
                    | {"kl": judge(trained, seed)}
                )
    return rows


def break_points(rows: Sequence[Mapping[str, Any]], draw: str) -> dict[str, Any]:
    """Where a draw's students stop being better than the teacher: Δt, its interval, by seed.

    By seed, the smallest gap from which the error is above the teacher's, interpolated linearly;
    None where it never is. The interval is Student's 95% over seeds, given if all seeds break.
    """
    by_seed = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        mine = [r for r in rows if r["seed"] == seed and r.get("grid") is None]
        teacher = next(r["kl"] for r in mine if r["draw"] == "teacher")
        curve = sorted((r["gap"], r["kl"] - teacher) for r in mine if r["draw"] == draw)
        by_seed.append(_crossing(curve))
    found = [b for b in by_seed if b is not None]
    out: dict[str, Any] = {"draw": draw, "by_seed": by_seed, "at": None, "low": None, "high": None}
    if found and len(found) == len(by_seed):
        centre, half = math.fsum(found) / len(found), half_width(found)
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
