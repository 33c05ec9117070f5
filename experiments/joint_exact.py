"""Past the product floor, with no Monte Carlo: joint students on enumerated problems.

Masked noise, the exact per-position teacher, and small students of every kind distilled from it by
joint conditional matching on the four-step grid. KL and TV of what 1, 2 and 4 steps produce are
exact (the Ising model at more than one step: from samples). Run as
``python -m experiments.joint_exact``; it goes on where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.harness import Content, Options, Rows, kept, main, place
from experiments.masked_law import MaskedTables, masked_output_law, one_step_law
from experiments.training import distilled, network
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.evaluate.exact import kl, tv
from fewjump.problem import EnumeratedJoint, copy, ising, xor
from fewjump.process import Absorbing
from fewjump.random import fold_seed, generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear

STEPS = (1, 2, 4)
KINDS = (
    "product",
    "mixture",
    "shared-mixture",
    "chain",
    "mixture-of-chains",
    "shared-chain",
    "autoregressive",
    "any-order",
)
#: Kinds that are trained fewer times than the others.
FEWER = {"any-order": 2}
#: Kinds that walk from token to token, and learn for ``walk_steps``.
WALKS = ("autoregressive", "any-order")
#: Tables of every mask pattern are kept up to this many entries; above, steps are sampled.
EXACT_ENTRIES = 1 << 20


@dataclass(frozen=True)
class World:
    """A problem and how its students are trained.

    Attributes:
        make: the problem.
        steps: optimiser steps; the heads that walk take ``walk_steps``.
        width: of the heads that walk.
        any_order: steps and width of the any-order head, which learns more than one order, where
            they are larger; it then embeds every other position, and the nearest alone elsewhere.
        states: of the chain; the mixture has twice as many components, the chain with shared
            transitions four times as many states.
    """

    make: Callable[[], EnumeratedJoint]
    steps: int
    walk_steps: int
    batch_size: int
    width: int
    states: int
    near: float = 0.1
    any_order: tuple[int, int] | None = None
    samples: int = 500_000


WORLDS = {
    "copy V=4 L=4": World(lambda: copy(4, 4), 400, 400, 128, 32, 32),
    # Two hidden bits are a coin each to the teacher, right half of the time: at a share of 0.1 that
    # bias alone leaves 0.026 nats.
    "xor L=4": World(lambda: xor(4), 400, 1000, 128, 32, 16, near=0.02),
    "Ising 4x4": World(lambda: ising(4, 4, 0.44), 400, 600, 128, 64, 32),
    "random V=3 L=4": World(
        lambda: EnumeratedJoint.random(3, 4, 2.0, generator_for(3)), 500, 1800, 256, 64, 32
    ),
    # 4096 free numbers with no pattern to help: each must be learned on its own.
    "random V=4 L=6": World(
        lambda: EnumeratedJoint.random(4, 6, 2.0, generator_for(3)),
        *(500, 1800, 256, 128, 32),
        any_order=(5000, 256),
    ),
}


def head_options(kind: str, world: World, length: int) -> dict[str, Any]:
    """Sizes of a head. All-masked input looks alike everywhere: positions need templates."""
    if kind == "mixture":
        return {"components": 2 * world.states, "length": length}
    if kind == "shared-mixture":
        return {"components": 8 * world.states, "length": length}
    if kind == "chain":
        return {"states": world.states, "length": length}
    if kind == "shared-chain":
        return {"states": 4 * world.states, "length": length}
    if kind == "mixture-of-chains":
        return {"components": 4, "states": world.states // 2, "length": length}
    if kind == "any-order":
        if world.any_order is None:
            return {"width": world.width, "neighbours": (1,)}
        return {"width": world.any_order[1], "neighbours": tuple(range(1, length))}
    return {"width": world.width} if kind in WALKS else {}


def build(kind: str, world: World, problem: EnumeratedJoint, seed: int) -> NetworkDenoiser:
    """A small student that ignores time, as masked networks may."""
    process = Absorbing(problem.vocab_size + 1, LogLinear())
    head = {"kind": kind, **head_options(kind, world, problem.length)}
    return network(process, problem.length, fold_seed(seed, 1), head, time_conditioned=False)


def train_student(
    kind: str, world: World, problem: EnumeratedJoint, seed: int, out: Path | None = None
) -> Denoiser:
    """Distil the exact product teacher on the four-step grid; averaged weights."""
    steps = world.walk_steps if kind in WALKS else world.steps
    if kind == "any-order" and world.any_order is not None:
        steps = world.any_order[0]
    return distilled(
        build(kind, world, problem, seed),
        problem,
        world.near,
        seed,
        out,
        joint=False,
        samples=world.samples,
        steps=steps,
        batch_size=world.batch_size,
        lr=5e-3,
    )


def judge(problem: EnumeratedJoint, denoiser: Denoiser, seed: int, samples: int = 20_000) -> Rows:
    """KL(data ‖ output) and TV at each number of steps, exact.

    Where the tables of all mask patterns are too many (the Ising model) only one step is: rows then
    have numbers of samples too, see :func:`sampled`, and no KL at several steps, whose density has
    no closed form.
    """
    count = problem.vocab_size**problem.length
    tables = MaskedTables(denoiser) if 2**problem.length * count <= EXACT_ENTRIES else None
    rows: Rows = []
    for steps in STEPS:
        row: dict[str, Any] = {"steps": steps}
        if steps == 1 or tables is not None:
            law = one_step_law(denoiser) if tables is None else masked_output_law(tables, steps)
            law = law / law.sum()
            row |= {"kl": kl(problem.probs, law), "tv": tv(problem.probs, law)}
        if tables is None:
            drawn = draw(denoiser, samples, steps, "ancestral", generator=seed, batch_size=4096)
            row |= sampled(problem, drawn.samples)
        rows.append(row)
    return rows


def sampled(problem: EnumeratedJoint, x: Tensor) -> dict[str, Any]:
    """Excess negative log-likelihood of samples (n, L), and TV of the law of the energy.

    A sequence's log-probability is a function of its energy, so the TV between the laws of log p
    is at most the TV of the laws themselves; few levels make its sampling error small.
    """
    levels, of = problem.probs.flatten().log().round(decimals=9).unique(return_inverse=True)
    powers = problem.vocab_size ** torch.arange(problem.length - 1, -1, -1)
    seen = of[(x * powers).sum(-1)]
    truth = torch.zeros_like(levels).index_add_(0, of, problem.probs.flatten())
    found = torch.bincount(seen, minlength=len(levels)).double() / len(x)
    excess = -levels[seen] - problem.entropy()
    half = 1.96 * float(excess.std()) / len(x) ** 0.5
    return {
        "excess_nll": float(excess.mean()),
        "excess_nll_half_width": half,
        "energy_tv": 0.5 * float((truth - found).abs().sum()),
        "samples": len(x),
    }


def rows_of(name: str, kind: str, seed: int, runs: Path) -> Rows:
    """Train (or go on with) one student and judge it."""
    world = WORLDS[name]
    settings = {k: v for k, v in vars(world).items() if k != "make"}
    folder = place(runs / "joint-exact", f"{name}-{kind}-{seed}", settings)

    def compute() -> Rows:
        problem, begin = world.make(), time.perf_counter()
        student = train_student(kind, world, problem, seed, folder)
        trained = time.perf_counter()
        judged = judge(problem, student, seed)
        about = {
            "problem": name,
            "student": kind,
            "seed": seed,
            "parameters": sum(p.numel() for p in student.parameters()),
            "training_seconds": round(trained - begin, 1),
            "judging_seconds": round(time.perf_counter() - trained, 1),
        }
        return [{**about, **row} for row in judged]

    return kept(folder / "rows.json", compute)


def teacher_rows(name: str) -> Rows:
    """The exact product teacher at each number of steps: the floor to go under."""
    problem = WORLDS[name].make()
    teacher = problem.denoiser(Absorbing(problem.vocab_size + 1, LogLinear()))
    about = {"problem": name, "student": "exact product teacher", "seed": 0}
    return [{**about, **row} for row in judge(problem, teacher, 0)]


def summary(rows: Rows) -> Rows:
    """One-step KL of each student, over seeds, as a share of the floor that it removes."""
    table = []
    for name, world in WORLDS.items():
        floor = world.make().one_step_floor()
        for kind in KINDS:
            values = [
                row["kl"]
                for row in rows
                if (row["problem"], row["student"], row["steps"]) == (name, kind, 1)
            ]
            if values:
                removed = [1 - value / floor for value in values]
                table.append(
                    {
                        "problem": name,
                        "student": kind,
                        "floor": floor,
                        "kl": sum(values) / len(values),
                        "removed": sum(removed) / len(removed),
                        "removed_least": min(removed),
                        "removed_most": max(removed),
                        "seeds": len(values),
                    }
                )
    return table


@dataclass
class Config(Options):
    """Joint students on enumerated problems, with exact laws.

    Attributes:
        seeds: trainings of every student.
        worlds: problems.
        kinds: of students.
    """

    seeds: int = 3
    worlds: tuple[str, ...] = tuple(WORLDS)
    kinds: tuple[str, ...] = KINDS


def measure(config: Config) -> Content:
    """The exact teachers, then every student of every problem and seed."""
    rows = [row for name in config.worlds for row in teacher_rows(name)]
    for seed in range(config.seed, config.seed + config.seeds):
        for name in config.worlds:
            for kind in config.kinds:
                if seed - config.seed < FEWER.get(kind, config.seeds):
                    rows += rows_of(name, kind, seed, config.runs)
    return {"summary": summary(rows), "rows": rows}


if __name__ == "__main__":
    main("joint_exact", Config, measure)
