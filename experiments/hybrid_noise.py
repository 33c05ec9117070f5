"""A teacher trained and distilled on noise that moves, beside pure masks and pure uniform noise.

The problem is a Markov chain of 8 tokens and 32 positions whose law is known. For each noise: the
exact product teacher (what a perfect network per position does), a small network trained on
samples of the chain, and a chain student distilled from that network; each drawn at a few numbers
of steps, with three seeds. Run as ``python -m experiments.hybrid_noise``; it goes on where
it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.harness import Content, Options, Rows, kept, main, place
from experiments.joint_markov import chain_row
from fewjump.api import distill, train_teacher
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import over_seeds
from fewjump.objective import JointConditionalMatching
from fewjump.objective.teacher_time import joint_near
from fewjump.problem import reference_markov_chain
from fewjump.process import Absorbing, Process, Uniform, gidd, mask_to_uniform
from fewjump.random import generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear

#: Each noise over a vocabulary of clean tokens.
NOISES: dict[str, Callable[[int], Process]] = {
    "masked": lambda vocab: Absorbing(vocab + 1, LogLinear()),
    "uniform": lambda vocab: Uniform(vocab, LogLinear()),
    "mask to uniform": lambda vocab: mask_to_uniform(vocab + 1, LogLinear()),
    "GIDD, 20% uniform": lambda vocab: gidd(vocab + 1, LogLinear(), peak=0.2),
}


TRAINED = ("trained teacher", "chain student")


@dataclass(frozen=True)
class Sizes:
    """How much is trained and drawn.

    Attributes:
        teacher_steps, student_steps: training steps of 64 sequences.
        samples: sequences drawn for each row.
        teacher_counts, student_counts: numbers of sampling steps.
        length: positions.
    """

    teacher_steps: int = 300
    student_steps: int = 200
    samples: int = 2048
    teacher_counts: tuple[int, ...] = (1, 2, 4, 8, 16)
    student_counts: tuple[int, ...] = (1, 2, 4)
    length: int = 32


def rows_of(name: str, seed: int, sizes: Sizes, folder: Path | None = None) -> Rows:
    """Train, distil and judge on one noise.

    Args:
        name: of :data:`NOISES`.
        seed: of data, training and draws.
        sizes: see :class:`Sizes`.
        folder: of the runs; None keeps nothing.
    """
    chain = reference_markov_chain(sizes.length)
    process = NOISES[name](chain.vocab_size)
    data = chain.sample(65_536, generator_for(seed, 2))
    exact = chain.denoiser(process)
    rows = drawn(exact, "exact product teacher", sizes.teacher_counts, seed, sizes)
    begin = time.perf_counter()
    teacher = train_teacher(
        data,
        process,
        network={
            "hidden": 32,
            "blocks": 2,
            "heads": 2,
            "conv_kernel": 3,
            "time_conditioned": exact.time_conditioned,
        },
        steps=sizes.teacher_steps,
        batch_size=64,
        lr=5e-3,
        ema=0.99,
        seed=seed,
        out=None if folder is None else folder / "teacher",
    )
    trained = time.perf_counter()
    rows += drawn(teacher, TRAINED[0], sizes.teacher_counts, seed, sizes)
    started = time.perf_counter()
    student = distill(
        teacher,
        data,
        student="chain",
        head={"states": 32, "rank": 16},
        objective=JointConditionalMatching("forward", near=joint_near(process)),
        steps=sizes.student_steps,
        batch_size=64,
        lr=5e-3,
        ema=0.99,
        seed=seed,
        out=None if folder is None else folder / "student",
    )
    seconds = {
        "teacher_seconds": round(trained - begin, 1),
        "student_seconds": round(time.perf_counter() - started, 1),
    }
    rows += drawn(student, TRAINED[1], sizes.student_counts, seed, sizes)
    return [{"noise": name, "seed": seed, **seconds, **row} for row in rows]


def drawn(denoiser: Denoiser, model: str, counts: Sequence[int], seed: int, sizes: Sizes) -> Rows:
    """One row for each number of steps, drawn with the exact reverse step."""
    chain = reference_markov_chain(sizes.length)
    rows = []
    for steps in counts:
        result = draw(denoiser, sizes.samples, steps, generator=seed + 1, length=sizes.length)
        row = chain_row(chain, result.samples, seed)
        rows.append({"model": model, "steps": steps, "nfe": result.nfe, **row})
    return rows


def references(seed: int, sizes: Sizes) -> dict[str, Any]:
    """What exact samples of the same number score, and the entropy per token."""
    chain = reference_markov_chain(sizes.length)
    exact = chain_row(chain, chain.sample(sizes.samples, generator_for(seed, 10)), seed)
    return {"entropy_per_token": chain.entropy() / chain.length, **exact}


def mean_over_seeds(
    rows: Sequence[dict[str, Any]], by: Sequence[str], metrics: Sequence[str]
) -> Rows:
    """Rows that differ by their seed only, as one: means of the metrics with 95% intervals."""
    found: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in by), []).append(row)
    out = []
    for key, alike in found.items():
        merged = dict(zip(by, key))
        for metric in metrics:
            names = (metric, f"{metric}_low", f"{metric}_high")
            merged |= zip(names, over_seeds(alike, metric))
        out.append({**merged, "seeds": len(alike)})
    return out


def folder_of(name: str, seed: int, sizes: Sizes, runs: Path) -> Path:
    """Where the models and rows of one noise are."""
    return place(runs / "hybrid-noise", f"{name}-{seed}", asdict(sizes))


def kept_rows(name: str, seed: int, sizes: Sizes, factor: int, runs: Path) -> Rows:
    """:func:`rows_of`, all trainings ``factor`` times as long: above 1 the rows are only of what
    was trained, and its name says so."""
    longer = replace(
        sizes,
        teacher_steps=factor * sizes.teacher_steps,
        student_steps=factor * sizes.student_steps,
    )
    folder = folder_of(name, seed, longer, runs)
    rows = kept(folder / "rows.json", lambda: rows_of(name, seed, longer, folder))
    if factor == 1:
        return rows
    trained = [row for row in rows if row["model"] in TRAINED]
    return [{**row, "model": f"{row['model']}, {factor}× training"} for row in trained]


@dataclass
class Config(Options):
    """Teachers and students under four noises, on a chain whose law is known.

    Attributes:
        seeds: of data, trainings and draws.
        training: multiples of the training steps.
    """

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    training: list[int] = field(default_factory=lambda: [1, 5])
    sizes: Sizes = field(default_factory=Sizes)


def measure(config: Config) -> Content:
    """All noises, seeds and lengths of training, and means over seeds."""
    rows: Rows = []
    for factor in config.training:
        for seed in config.seeds:
            for name in NOISES:
                rows += kept_rows(name, seed, config.sizes, factor, config.runs)
    return {
        "sizes": asdict(config.sizes),
        "seeds": config.seeds,
        "training": config.training,
        "reference": references(config.seeds[0], config.sizes),
        "means": mean_over_seeds(rows, ("noise", "model", "steps", "nfe"), ("bigram_tv", "nll")),
        "rows": rows,
    }


if __name__ == "__main__":
    main("hybrid_noise", Config, measure)
