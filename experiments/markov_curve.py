"""The product floor on a Markov chain, and a student that learns to lie on it.

An exact teacher (forward–backward) needs no training, so what its few-step samples lack is the
product form and nothing else. A student trained on it by the paper's objective can at best be that
teacher. Run as ``python -m experiments.markov_curve``; it resumes where it was stopped. It
took 36 minutes on a third of a core, so count on a quarter of an hour on an idle one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.harness import Content, Options, main
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import ConditionalMatching, freeze
from fewjump.objective.conditional import Intermediate
from fewjump.problem import MarkovChain
from fewjump.problem.examples import reference_markov_chain
from fewjump.process import Process, Uniform
from fewjump.random import generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train

STEPS = (1, 2, 4, 8, 16, 32, 64)
TEACHER = "exact product teacher"
STUDENTS: dict[str, Intermediate] = {
    "student, Algorithm 1": "student-euler",
    "student, forward pair": "forward",
}


@dataclass(frozen=True)
class Sizes:
    """How large the experiment is; the defaults are what the committed result used."""

    samples: int = 4096
    training_steps: int = 2000
    batch_size: int = 128
    hidden: int = 64
    blocks: int = 3
    seeds: tuple[int, ...] = (0,)


def student_for(process: Process, length: int, sizes: Sizes) -> NetworkDenoiser:
    """A small transformer for sequences of ``length`` tokens."""
    trunk = {"hidden": sizes.hidden, "blocks": sizes.blocks, "heads": 4, "conv_kernel": 5}
    return NetworkDenoiser.from_config(
        {"process": process.config(), "trunk": trunk, "length": length}
    )


def train_student(
    chain: MarkovChain,
    process: Process,
    sizes: Sizes,
    seed: int,
    intermediate: Intermediate = "student-euler",
    out: Path | None = None,
) -> Denoiser:
    """Conditional matching against the exact product teacher; returns averaged weights."""
    torch.manual_seed(seed)
    student = student_for(process, chain.length, sizes)
    data = chain.sample(65536, generator_for(seed, 1))
    config = TrainConfig(
        steps=sizes.training_steps,
        batch_size=sizes.batch_size,
        lr=2e-3,
        ema=0.995,
        seed=seed,
        log_every=100,
    )
    objective = ConditionalMatching(intermediate)
    teacher = freeze(chain.denoiser(process))
    result = train(student, objective, data, config, teacher=teacher, out=out, label="student")
    return result.averaged()


def bigram_interval(
    chain: MarkovChain, samples: Tensor, seed: int, repeats: int = 200
) -> tuple[float, float, float]:
    """Bigram TV with a 95% percentile bootstrap over sequences, centred on the estimate.

    Resampling adds its own sampling noise to a distance that cannot be negative; the interval is
    therefore the estimate plus the bootstrap's deviations from its own mean.
    """
    generator = generator_for(seed, 2)
    value = chain.bigram_tv(samples)
    n, vocab = samples.shape[0], chain.vocab_size
    pairs = samples[:, :-1] * vocab + samples[:, 1:]
    counts = torch.zeros(n, vocab * vocab, dtype=torch.float64)
    counts.scatter_add_(1, pairs, torch.ones_like(pairs, dtype=torch.float64))
    target = chain.bigram_law().reshape(-1)
    tvs = []
    for _ in range(repeats):
        weight = torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n)
        frequency = weight.double() @ counts
        tvs.append(0.5 * (frequency / frequency.sum() - target).abs().sum())
    spread = torch.stack(tvs)
    spread = spread - spread.mean()
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return value, value + low, value + high


def curve(
    chain: MarkovChain, denoiser: Denoiser, name: str, sizes: Sizes, seed: int
) -> list[dict[str, Any]]:
    """Bigram TV and NLL of ancestral samples at each number of steps."""
    rows = []
    for steps in STEPS:
        result = draw(denoiser, sizes.samples, steps, generator=seed, batch_size=1024)
        value, low, high = bigram_interval(chain, result.samples, seed)
        nll = -chain.log_prob(result.samples) / chain.length
        rows.append(
            {
                "model": name,
                "seed": seed,
                "steps": steps,
                "nfe": result.nfe,
                "bigram_tv": value,
                "low": low,
                "high": high,
                "nll_per_token": float(nll.clamp(max=1e6).mean()),
                "seconds": result.seconds,
            }
        )
    return rows


def experiment(sizes: Sizes, runs: Path | None = None) -> dict[str, Any]:
    """All rows, and the reference levels."""
    chain = reference_markov_chain(32)
    process = Uniform(chain.vocab_size, LogLinear())
    rows: list[dict[str, Any]] = []
    for seed in sizes.seeds:
        rows += curve(chain, chain.denoiser(process), TEACHER, sizes, seed)
        for name, intermediate in STUDENTS.items():
            out = None if runs is None else runs / f"markov-curve-{intermediate}-{seed}"
            student = train_student(chain, process, sizes, seed, intermediate, out)
            rows += curve(chain, student, name, sizes, seed + 100)
    floor = chain.bigram_tv_floor(sizes.samples, generator=generator_for(9))
    independent = chain.bigram_law().sum(0)
    one_step = 0.5 * float((torch.outer(independent, independent) - chain.bigram_law()).abs().sum())
    return {
        "sizes": asdict(sizes),
        "rows": rows,
        "against_teacher": {name: against_teacher(rows, name) for name in STUDENTS},
        "sampling_floor": float(floor.value),
        "entropy_rate": chain.entropy_rate(),
        "one_step_tv_closed_form": one_step,
        "one_step_floor_nats": chain.one_step_floor(),
    }


def against_teacher(rows: Sequence[dict[str, Any]], student: str) -> list[dict[str, Any]]:
    """A student against the teacher at each number of steps, paired by seed.

    ``difference`` is student minus teacher in bigram TV, averaged over seeds, and ``half_width``
    that of its 95% interval, from the sampling intervals of both. ``within`` says whether the
    interval holds 0, and ``below`` whether it lies wholly under 0.
    """
    table = []
    for steps in sorted({row["steps"] for row in rows}):
        difference, variance, seeds = 0.0, 0.0, 0
        for sign, name in ((-1, TEACHER), (1, student)):
            mine = [r for r in rows if r["model"] == name and r["steps"] == steps]
            seeds = len(mine)
            difference += sign * sum(r["bigram_tv"] for r in mine) / seeds
            variance += sum(((r["high"] - r["low"]) / 2) ** 2 for r in mine) / seeds**2
        half = variance**0.5
        table.append(
            {
                "steps": steps,
                "difference": difference,
                "half_width": half,
                "within": abs(difference) <= half,
                "below": difference < -half,
            }
        )
    return table


@dataclass
class Config(Options):
    """The product floor on a Markov chain, and students that learn to lie on it."""


def measure(config: Config) -> Content:
    """Trainings resume in ``--runs``."""
    return experiment(Sizes(seeds=(config.seed,)), config.runs)


if __name__ == "__main__":
    main("markov_curve", Config, measure)
