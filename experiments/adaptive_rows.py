"""What the adaptive experiment with networks compares on one corpus and seed, as rows.

Three kinds: grids of one model at equal evaluations, and product or joint students whose training
times are drawn or weighed in each way, after equal optimiser steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.adaptive_judges import Bench, Judged, TextBench
from experiments.harness import Rows
from fewjump.api import distill
from fewjump.denoiser.base import Denoiser
from fewjump.objective import ConditionalMatching, JointConditionalMatching, TimeSampling
from fewjump.sampler import GRIDS, interval_costs
from fewjump.sampler.time_grid import time_grid
from fewjump.verify.times import ways

CHOICES = (*GRIDS, "fitted")
CANDIDATES = 32


@dataclass(frozen=True)
class Budget:
    """How much is fitted, trained and judged.

    Attributes:
        seeds: of teachers, trainings and draws.
        grid_steps: evaluations of the sampler; each divides 32, the candidate intervals.
        judged_steps: the same, for students.
        sampled_steps: those of them at which samples are judged too.
        fitted_to: training sequences that a grid is fitted to.
        unseen: test sequences of the bound, at most.
        training: optimiser steps of the product students by corpus.
        batch_size: the same, sequences a step.
        joint_training, joint_batch: the same of the joint students.
        joint_steps: evaluations of the sampler that they are judged at.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    grid_steps: tuple[int, ...] = (2, 4, 8)
    judged_steps: tuple[int, ...] = (1, 4, 8)
    sampled_steps: tuple[int, ...] = (4,)
    fitted_to: int = 512
    unseen: int = 1000
    training: tuple[tuple[str, int], ...] = (("names", 150), ("digits", 100))
    batch_size: tuple[tuple[str, int], ...] = (("names", 64), ("digits", 16))
    joint_training: int = 400
    joint_batch: int = 128
    joint_steps: tuple[int, ...] = (1, 4)

    def of(self, part: str) -> dict[str, Any]:
        """What the rows of one part depend on, as JSON gives it back."""
        own = {
            "grids": ("grid_steps", "fitted_to"),
            "training": ("training", "batch_size", "judged_steps", "sampled_steps"),
            "joint": ("joint_training", "joint_batch", "joint_steps"),
        }[part]
        return json.loads(json.dumps({name: getattr(self, name) for name in (*own, "unseen")}))


#: Of running text: as many tokens a step as the others have.
TEXT_BUDGET = Budget(training=(("text", 150),), batch_size=(("text", 16),))


def grid_rows(bench: Bench, model: Denoiser, what: str, seed: int, budget: Budget) -> Rows:
    """Every grid at every number of steps.

    Rows of the fitted grid hold its ``times`` and ``promised``: nats per token by which its path
    KL lies below the uniform grid's, as the network sees it on the data that it was fitted to.
    """
    judged = Judged({"problem": what}, bench.data.all("test", budget.unseen), seed)
    x0 = bench.data.all("train", budget.fitted_to)
    table = interval_costs(model, x0, [k / CANDIDATES for k in range(CANDIDATES + 1)], seed)
    for steps in budget.grid_steps:
        grids = {name: time_grid(name, steps, model.process.schedule) for name in GRIDS}
        for name, grid in grids.items():
            judged.add(bench, model, name, grid)
        times = table.best(steps)
        begin = len(judged.rows)
        judged.add(bench, model, "fitted", times)
        promised = float((table.total(grids["uniform"]) - table.total(times)).mean())
        for row in judged.rows[begin:]:
            row |= {"times": times.tolist(), "promised": promised / x0.shape[1]}
    return judged.rows


def student_rows(
    judged: Judged,
    bench: Bench,
    choices: Mapping[str, TimeSampling | None],
    train: Callable[[TimeSampling | None], Denoiser],
    counts: Sequence[int],
    sampled: Sequence[int],
) -> Rows:
    """A student for each way to draw and weigh times, judged on uniform grids."""
    for name, times in choices.items():
        student = train(times)
        for count in counts:
            grid = time_grid("uniform", count, student.process.schedule)
            judged.add(bench, student, name, grid, count in sampled)
    return judged.rows


def training_rows(bench: Bench, teacher: Denoiser, what: str, seed: int, budget: Budget) -> Rows:
    """Product students by the paper's Algorithm 1."""
    steps = dict(budget.training)[bench.name]

    def train(times: TimeSampling | None) -> Denoiser:
        return distill(
            teacher,
            bench.data,
            student="product",
            objective=ConditionalMatching("student-euler", times=times),
            steps=steps,
            batch_size=dict(budget.batch_size)[bench.name],
            lr=5e-4,
            ema=0.99,
            seed=seed,
            monitor=False,
        )

    judged = Judged({"problem": what}, bench.data.all("test", budget.unseen), seed)
    counts, sampled = budget.judged_steps, budget.sampled_steps
    return student_rows(judged, bench, ways(steps), train, counts, sampled)


def joint_ways(steps: int) -> dict[str, TimeSampling | None]:
    """The ways that joint matching has: it sets s by ``near``, so there are no gaps to choose."""
    return {
        name: times
        for name, times in ways(steps).items()
        if times is None or (times.curriculum == "none" and times.gap_bins == 1)
    }


def joint_rows(bench: TextBench, teacher: Denoiser, what: str, seed: int, budget: Budget) -> Rows:
    """Students with a shared chain, trained as those of the students' experiment but for time."""
    sizes, steps = bench.sizes, budget.joint_training

    def train(times: TimeSampling | None) -> Denoiser:
        return distill(
            teacher,
            bench.data,
            student="shared-chain",
            head=sizes.heads["shared-chain"],
            objective=JointConditionalMatching(
                near=sizes.near, steps=sizes.grid_steps, times=times
            ),
            steps=steps,
            batch_size=budget.joint_batch,
            lr=3e-3,
            ema=0.99,
            seed=seed,
            monitor=False,
        )

    judged = Judged({"problem": what}, bench.data.all("test", budget.unseen), seed, joint=True)
    counts = budget.joint_steps
    return student_rows(judged, bench, joint_ways(steps), train, counts, counts)
