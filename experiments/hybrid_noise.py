"""A teacher trained and distilled on noise that moves, beside pure masks and pure uniform noise.

The problem is a Markov chain of 8 tokens and 32 positions whose law is known. For each noise: the
exact product teacher (what a perfect network per position does), a small network trained on
samples of the chain, and a chain student distilled from that network; each drawn at a few numbers
of steps, with three seeds. Run as ``python -m experiments.hybrid_noise``; it goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.joint_markov import chain_row
from fewjump.api import distill, train_teacher
from fewjump.assembly import joint_near
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import over_seeds
from fewjump.objective import JointConditionalMatching
from fewjump.problem.examples import reference_markov_chain
from fewjump.process import Absorbing, Process, Uniform, gidd, mask_to_uniform
from fewjump.random import generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear
from fewjump.verify.results import Experiment, remembered

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
    teacher_counts: Sequence[int] = (1, 2, 4, 8, 16)
    student_counts: Sequence[int] = (1, 2, 4)
    length: int = 32


def rows_of(name: str, seed: int, sizes: Sizes, folder: Path | None = None) -> list[dict[str, Any]]:
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


def drawn(
    denoiser: Denoiser, model: str, counts: Sequence[int], seed: int, sizes: Sizes
) -> list[dict[str, Any]]:
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
) -> list[dict[str, Any]]:
    """Rows that differ by their seed only, as one: means of the metrics with 95% intervals."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment alone."""
    add_seeds(parser)
    parser.add_argument(
        "--training", nargs="+", type=int, default=[1, 5], help="multiples of the training steps"
    )
    parser.add_argument(
        "--only", nargs="*", choices=list(NOISES), help="noises to train on now, and no result"
    )


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """``--seeds`` of data, trainings and draws."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])


def main() -> None:
    experiment = Experiment("hybrid_noise", add=add_options)
    sizes, options = Sizes(), experiment.options
    rows: list[dict[str, Any]] = []
    for factor in options.training:
        for seed in options.seeds:
            for name in options.only or NOISES:
                rows += kept_rows(name, seed, sizes, factor)
    if not options.only:
        means = mean_over_seeds(rows, ("noise", "model", "steps", "nfe"), ("bigram_tv", "nll"))
        reference = references(options.seeds[0], sizes)
        experiment.save(
            {
                "sizes": asdict(sizes),
                "seeds": options.seeds,
                "training": options.training,
                "reference": reference,
                "means": means,
                "rows": rows,
            }
        )


def kept_rows(name: str, seed: int, sizes: Sizes, factor: int) -> list[dict[str, Any]]:
    """:func:`rows_of`, from the run's folder if they are there; all trainings ``factor`` times as
    long, in which case only what was trained is in the rows, and its name says so."""
    longer = replace(
        sizes,
        teacher_steps=factor * sizes.teacher_steps,
        student_steps=factor * sizes.student_steps,
    )
    place = f"{name}-{seed}".replace(" ", "-") + (f"-x{factor}" if factor > 1 else "")
    folder = Path("runs") / "hybrid-noise" / place
    rows = remembered(
        folder / "rows.json",
        json.loads(json.dumps(asdict(longer))),
        partial(rows_of, name, seed, longer, folder),
    )
    if factor == 1:
        return rows
    trained = [row for row in rows if row["model"] in TRAINED]
    return [{**row, "model": f"{row['model']}, {factor}× training"} for row in trained]


if __name__ == "__main__":
    main()
