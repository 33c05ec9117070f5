"""The product floor on a Markov chain, and a student that learns to lie on it.

An exact teacher (forward–backward) needs no training, so what its few-step samples lack is the
product form and nothing else. A student trained on it by the paper's objective can at best be that
teacher. Run as ``python -m experiments.markov_curve``; it resumes where it was stopped. It
took 36 minutes on a third of a core, so count on a quarter of an hour on an idle one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.harness import Content, Options, Rows, main, place
from experiments.training import fitted, network
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.ngrams import ngram_keys, tv_to_law
from fewjump.objective import ConditionalMatching
from fewjump.options.matching import Intermediate
from fewjump.problem import MarkovChain, reference_markov_chain
from fewjump.process import Process, Uniform
from fewjump.random import generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear

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


def train_student(
    chain: MarkovChain,
    process: Process,
    sizes: Sizes,
    seed: int,
    intermediate: Intermediate = "student-euler",
    out: Path | None = None,
) -> Denoiser:
    """Conditional matching against the exact product teacher; returns averaged weights."""
    trunk: dict[str, Any] = {"hidden": sizes.hidden, "blocks": sizes.blocks}
    return fitted(
        network(process, chain.length, seed, **trunk, heads=4, conv_kernel=5),
        ConditionalMatching(intermediate),
        chain.sample(65536, generator_for(seed, 1)),
        chain.denoiser(process),
        out,
        steps=sizes.training_steps,
        batch_size=sizes.batch_size,
        lr=2e-3,
        ema=0.995,
        seed=seed,
    )


def bigram_interval(
    chain: MarkovChain, samples: Tensor, seed: int, repeats: int = 200
) -> tuple[float, float, float]:
    """Bigram TV of samples (N, L) with the ends of its 95% interval, a bootstrap over sequences."""
    pairs = ngram_keys(samples, 2, chain.vocab_size)
    found = tv_to_law(pairs, chain.bigram_law().flatten(), generator_for(seed, 2), repeats)
    return found.value, found.low, found.high


def curve(chain: MarkovChain, denoiser: Denoiser, name: str, sizes: Sizes, seed: int) -> Rows:
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


@dataclass
class Config(Options):
    """The product floor on a Markov chain."""

    sizes: Sizes = field(default_factory=Sizes)


def measure(config: Config) -> Content:
    """All rows, and the reference levels."""
    sizes = config.sizes
    chain = reference_markov_chain(32)
    process = Uniform(chain.vocab_size, LogLinear())
    rows: Rows = []
    for seed in sizes.seeds:
        rows += curve(chain, chain.denoiser(process), TEACHER, sizes, seed)
        for name, intermediate in STUDENTS.items():
            out = place(config.runs, f"markov-curve-{intermediate}-{seed}", asdict(sizes))
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


def against_teacher(rows: Sequence[dict[str, Any]], student: str) -> Rows:
    """A student against the teacher at each number of steps.

    ``difference`` in bigram TV is the mean of its seeds less the teacher's, and ``half_width``
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


if __name__ == "__main__":
    main("markov_curve", Config, measure)
