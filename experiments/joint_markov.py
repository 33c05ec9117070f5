"""Past the product floor at any length: one-step students on Markov and hidden Markov chains.

The exact teacher (forward–backward) misses 0.43 of the bigram law in one step. Here small joint
students are distilled from it in the one-step form and drawn from once: bigram TV, likelihood under
the true chain, seconds. The student of length 32 is also drawn at length 512, which a head that
treats all positions alike allows. Run as ``python -m experiments.joint_markov``; it goes on
where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.harness import Content, Options, Rows, kept, main, place, with_ends
from experiments.training import distilled, network
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.evaluate.ngrams import ngram_keys, tv_to_law
from fewjump.problem import (
    Estimate,
    HiddenMarkovChain,
    MarkovChain,
    reference_hidden_markov_chain,
    reference_markov_chain,
)
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import fold_seed, generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear

Chain = MarkovChain | HiddenMarkovChain

TRAINED_LENGTH = 32
CHAINS: dict[str, Callable[[int], Chain]] = {
    "Markov V=8": reference_markov_chain,
    "hidden Markov S=16 V=8": reference_hidden_markov_chain,
}
PROCESSES: dict[str, Callable[[int], Process]] = {
    "masked": lambda vocab: Absorbing(vocab + 1, LogLinear()),
    "uniform": lambda vocab: Uniform(vocab, LogLinear()),
}
#: Lengths that each student is drawn at, and how many sequences.
LENGTHS = {"Markov V=8": {32: 8192, 512: 512}, "hidden Markov S=16 V=8": {32: 8192}}


@dataclass(frozen=True)
class Student:
    """A kind of student and how long it is trained."""

    head: dict[str, Any]
    steps: int
    seeds: int
    batch_size: int = 64
    lr: float = 5e-3
    near: float = 0.02


STUDENTS: dict[str, Student] = {
    "chain": Student({"kind": "chain", "states": 32, "rank": 16}, 900, 3),
    "autoregressive": Student({"kind": "autoregressive", "width": 64}, 600, 1),
}


def train_student(
    chain: Chain, process: Process, student: Student, seed: int, out: Path | None = None
) -> Denoiser:
    """One-step joint conditional matching against the exact product teacher.

    The network's head does not know positions, so that any length can be drawn.
    """
    return distilled(
        network(process, TRAINED_LENGTH, fold_seed(seed, 1), student.head, blocks=1),
        chain,
        student.near,
        seed,
        out,
        jumps=1,
        joint=False,
        samples=65_536,
        steps=student.steps,
        batch_size=student.batch_size,
        lr=student.lr,
    )


def chain_row(chain: Chain, samples: Tensor, seed: int) -> dict[str, Any]:
    """Bigram TV and negative log-likelihood per token of samples, with 95% intervals over them."""
    generator = generator_for(seed, 3)
    cells = ngram_keys(samples, 2, chain.vocab_size)
    error = tv_to_law(cells, chain.bigram_law().flatten(), generator)
    nll = bootstrap(-chain.log_prob(samples) / chain.length, mean, generator)
    return with_ends("bigram_tv", error) | with_ends("nll", nll)


def draw_rows(name: str, denoiser: Denoiser, seed: int, about: dict[str, Any]) -> Rows:
    """One-step samples at every length of the chain, judged."""
    rows = []
    for length, count in LENGTHS[name].items():
        if denoiser.length != length and not isinstance(denoiser, NetworkDenoiser):
            continue
        chain = CHAINS[name](length)
        batch = max(32, 8192 // length)
        result = draw(denoiser, count, 1, generator=seed, length=length, batch_size=batch)
        rows.append(
            {
                **about,
                "length": length,
                "steps": 1,
                "nfe": result.nfe,
                "samples": count,
                "seconds": result.seconds,
                "network_seconds": result.network_seconds,
                **chain_row(chain, result.samples, seed),
            }
        )
    return rows


def rows_of(name: str, process_name: str, kind: str, seed: int, runs: Path) -> Rows:
    """Train (or go on with) one student and judge it."""
    label = f"{name}-{process_name}-{kind}-{seed}"
    folder = place(runs / "joint-markov", label, asdict(STUDENTS[kind]))

    def compute() -> Rows:
        chain = CHAINS[name](TRAINED_LENGTH)
        process = PROCESSES[process_name](chain.vocab_size)
        begin = time.perf_counter()
        student = train_student(chain, process, STUDENTS[kind], seed, folder)
        about = {
            "problem": name,
            "process": process_name,
            "student": kind,
            "seed": seed,
            "parameters": sum(p.numel() for p in student.parameters()),
            "training_seconds": round(time.perf_counter() - begin, 1),
        }
        return draw_rows(name, student, seed, about)

    return kept(folder / "rows.json", compute)


def teacher_rows(name: str, process_name: str) -> Rows:
    """The exact product teacher in one step: where a per-position student ends at best."""
    rows = []
    for length in LENGTHS[name]:
        chain = CHAINS[name](length)
        teacher = chain.denoiser(PROCESSES[process_name](chain.vocab_size))
        about = {"problem": name, "process": process_name, "seed": 0}
        rows += draw_rows(name, teacher, 0, {**about, "student": "exact product teacher"})
    return rows


def references(name: str) -> Rows:
    """What exact samples of the same number score, and the entropy rate."""
    rows = []
    for length, count in LENGTHS[name].items():
        chain = CHAINS[name](length)
        floor = chain.bigram_tv_floor(count, generator=generator_for(9))
        rate = chain.entropy_rate()
        rows.append(
            {
                "problem": name,
                "length": length,
                "bigram_tv_floor": floor.value,
                "entropy_rate": rate.value if isinstance(rate, Estimate) else rate,
                **{
                    f"exact_{k}": v
                    for k, v in chain_row(chain, chain.sample(count, generator_for(10)), 10).items()
                },
            }
        )
    return rows


def measure(config: Options) -> Content:
    """The exact teachers, then every student of every chain, noise and seed."""
    rows: Rows = []
    for name in CHAINS:
        for process_name in PROCESSES:
            rows += teacher_rows(name, process_name)
    for kind, student in STUDENTS.items():
        for seed in range(config.seed, config.seed + student.seeds):
            for name in CHAINS:
                for process_name in PROCESSES:
                    rows += rows_of(name, process_name, kind, seed, config.runs)
    return {"references": [row for name in CHAINS for row in references(name)], "rows": rows}


if __name__ == "__main__":
    main("joint_markov", Options, measure, __doc__)
