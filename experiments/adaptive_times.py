"""Times and weights that adapt, against uniform ones, at equal cost and over three seeds.

``grids``: the fitted grid against uniform, cosine and log-linear ones at equal numbers of
evaluations, with teachers that need no training: an enumerated joint (output law exact) and the
reference Markov chain (sampled). ``training``: ways to draw and weigh times in conditional
matching at equal optimiser steps, for a free table on an enumerated joint whose teacher errs more
the noisier its input (exact KLs; no network).

Run as ``python -m experiments.adaptive_times``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.harness import Content, Options, Rows, kept, main, place
from experiments.markov_curve import bigram_interval
from experiments.verdicts import compare
from fewjump.evaluate.exact import data_law, kl
from fewjump.objective import ConditionalMatching
from fewjump.problem import EnumeratedJoint, reference_markov_chain
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.sampler import GRIDS, exact_output_law, fitted_grid, interval_costs
from fewjump.sampler import run as draw
from fewjump.sampler.time_grid import time_grid
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train
from fewjump.verify.enumeration import random_joint
from fewjump.verify.table_student import TableStudent, make_world, output_kl, posterior_kl
from fewjump.verify.times import ways

SEEDS = (0, 1, 2)
TRAINING_STEPS = 200
STEPS = (2, 4, 8)
CHOICES = (*GRIDS, "fitted")


def families(vocab_size: int) -> dict[str, Process]:
    """Uniform noise and masks on the log-linear schedule."""
    return {
        "uniform": Uniform(vocab_size, LogLinear()),
        "masked": Absorbing(vocab_size + 1, LogLinear()),
    }


def joint_grids(seed: int, samples: int = 4096) -> Rows:
    """Exact output KL, nats, of the exact product teacher on every grid: a joint of 4³ states."""
    rows = []
    problem = EnumeratedJoint(random_joint(4, 3, seed))
    x0 = problem.sample(samples, generator_for(seed, 1))
    for family, process in families(4).items():
        teacher, law = problem.denoiser(process), data_law(problem)
        for steps in STEPS:
            fit = fitted_grid(
                teacher,
                x0,
                steps,
                samples=samples,
                candidates=16,
                batch_size=samples,
                generator=seed,
            )
            for name in CHOICES:
                grid = fit.times if name == "fitted" else name
                value = kl(law, exact_output_law(teacher, steps, grid=grid))
                rows.append(_row("joint", family, name, steps, seed, value, value, value))
            rows[-1] |= {
                "times": fit.times.tolist(),
                "saving": fit.saving,
                "saving_error": fit.saving_error,
            }
    return rows


def chain_grids(seed: int, samples: int = 2048, fitted_to: int = 64) -> Rows:
    """Bigram total variation of samples of the exact product teacher: a chain of 32 tokens."""
    rows = []
    chain = reference_markov_chain(32)
    x0 = chain.sample(fitted_to, generator_for(seed, 2))
    for family, process in families(chain.vocab_size).items():
        teacher = chain.denoiser(process)
        # One table serves every number of steps: 16 equal intervals hold all uniform grids.
        candidates = [k / 16 for k in range(17)]
        table = interval_costs(teacher, x0, candidates, seed)
        for steps in STEPS:
            times = table.best(steps)
            for name in CHOICES:
                grid = times if name == "fitted" else time_grid(name, steps, process.schedule)
                result = draw(teacher, samples, None, grid=grid, generator=seed, batch_size=1024)
                value, low, high = bigram_interval(chain, result.samples, seed, 50)
                rows.append(_row("chain", family, name, steps, seed, value, low, high))
            saved = table.total(time_grid("uniform", steps, process.schedule)) - table.total(times)
            rows[-1] |= {"times": times.tolist(), "saving": float(saved.mean())}
    return rows


def training_choices(seed: int, steps: int = TRAINING_STEPS) -> Rows:
    """Students of one seed: what they miss of the exact posterior, and in 4 steps, in nats."""
    world = make_world("uniform", 1.0, seed)
    data = world.problem.sample(20_000, generator_for(seed, 3))
    rows = []
    for name, times in ways(steps).items():
        student = TableStudent(world.process)
        config = TrainConfig(
            steps=steps, batch_size=128, lr=0.1, ema=0.95, seed=seed, monitor=False, log_every=100
        )
        objective = ConditionalMatching("forward", times=times)
        result = train(student, objective, data, config, teacher=world.teacher, label=name)
        model = result.averaged()
        for problem, value, sampled in (
            ("posterior", posterior_kl(world, model), 0),
            ("output", output_kl(world, model, 4), 4),
        ):
            rows.append(_row(problem, "uniform", name, sampled, seed, value, value, value))
    return rows


def _row(
    problem: str, family: str, choice: str, steps: int, seed: int, value: float, *ends: float
) -> dict[str, Any]:
    return {
        "problem": problem,
        "process": family,
        "student": choice,
        "steps": steps,
        "seed": seed,
        "loss": value,
        "loss_low": ends[0],
        "loss_high": ends[1],
    }


def against_uniform(rows: Rows) -> Rows:
    """Every choice against ``uniform``, by problem, process and number of steps."""
    found = []
    places = sorted({(r["problem"], r["process"], r["steps"]) for r in rows})
    for problem, process, steps in places:
        here = [
            r for r in rows if (r["problem"], r["process"], r["steps"]) == (problem, process, steps)
        ]
        base = [r["loss"] for r in here if r["student"] == "uniform"]
        for name in dict.fromkeys(r["student"] for r in here):
            if name == "uniform":
                continue
            verdict = compare(here, (name, steps), ("uniform", steps), "loss")
            found.append(
                {
                    "problem": problem,
                    "process": process,
                    "steps": steps,
                    "choice": name,
                    "uniform": sum(base) / len(base),
                    "difference": verdict.difference,
                    "low": verdict.low,
                    "high": verdict.high,
                    "better": verdict.better,
                    "worse": verdict.low > 0,
                }
            )
    return found


def collect(name: str, measure: Callable[[int], Rows], runs: Path, **settings: Any) -> Rows:
    """Rows of every seed, computed once for the same settings."""
    rows: Rows = []
    for seed in SEEDS:
        folder = place(runs / "adaptive-times", f"{name}-{seed}", settings)
        rows += kept(folder / "rows.json", partial(measure, seed))
    return rows


def measure(config: Options) -> Content:
    """Both parts, and each choice against the uniform one."""
    grids = collect("joint", joint_grids, config.runs) + collect("chain", chain_grids, config.runs)
    # A way that is added later must not be missed among rows that were finished before.
    known = list(ways(TRAINING_STEPS))
    trained = collect("training", training_choices, config.runs, ways=known)
    return {
        "grids": grids,
        "grids_against_uniform": against_uniform(grids),
        "training_steps": TRAINING_STEPS,
        "training": trained,
        "training_against_uniform": against_uniform(trained),
    }


if __name__ == "__main__":
    main("adaptive_times", Options, measure, __doc__)
