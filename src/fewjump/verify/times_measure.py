"""Time grids and training times of one teacher, judged on unseen sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser
from fewjump.evaluate.path_bound import path_bound
from fewjump.objective import ConditionalMatching, freeze
from fewjump.process import Absorbing
from fewjump.sampler import GRIDS, interval_costs
from fewjump.sampler.grid import time_grid
from fewjump.train import TrainConfig, train
from fewjump.verify.adaptive_times import ways

# Candidate times of a fitted grid.
_CANDIDATES = 32


class Bench(NamedTuple):
    """A teacher and sequences for it.

    Attributes:
        teacher: frozen, of product laws.
        training, fit, unseen: (N, L) clean tokens: for students, for grids, to judge on.
        batch_size, lr: of the students' training.
    """

    teacher: Denoiser
    training: Tensor
    fit: Tensor
    unseen: Tensor
    batch_size: int = 64
    lr: float = 1e-3


def chain_bench(seed: int, teacher_steps: int, sequences: int) -> Bench:
    """The teacher of ``verify warm-start``: a small transformer on a Markov chain."""
    from fewjump.verify.warm_start_measure import chain_subject

    subject = chain_subject(seed, teacher_steps)
    # The teacher saw all of it; a chain of 8 tokens is not learned by heart from 20,000 sequences.
    fit, unseen = subject.data[:sequences], subject.data[-sequences:]
    return Bench(subject.teacher, subject.data[sequences:-sequences], fit, unseen)


def saved_bench(
    path: Path, source: str | None, sequences: int, seed: int, reading: Mapping[str, Any]
) -> Bench:
    """A user's model with rows of its data, or its own samples.

    Raises:
        ValueError: for a model whose sampler has no bound (:func:`path_bound`), and as
            :func:`fewjump.verify.saved_model.open_saved` and ``tokens_for`` do.
    """
    from fewjump.verify.saved_model import open_saved, tokens_for

    saved = open_saved(path, reading)
    teacher = _of_posteriors(saved.denoiser)
    data = tokens_for(saved, source, count=4 * sequences, seed=seed)
    if len(data) < 8:
        raise ValueError(f"{source} has {len(data)} unseen sequences; 8 are needed at least")
    quarter = len(data) // 4
    return Bench(freeze(teacher), data[2 * quarter :], data[:quarter], data[quarter : 2 * quarter])


def _of_posteriors(model: Denoiser) -> Denoiser:
    """The model itself, or the network of posteriors that a score network under a mask is."""
    if isinstance(model, ScoreDenoiser):
        if isinstance(model.process, Absorbing):
            return model.as_network().eval()
        raise ValueError(
            "samplers step by this model's scores, and what is measured is a bound for samplers "
            "that step by posteriors; distil it first (fewjump distill) and give the student"
        )
    if isinstance(model, NetworkDenoiser) and model.kind != "product":
        raise ValueError(
            f"a {model.kind} student draws all positions jointly; what is measured is for models "
            "that draw them independently, such as its teacher"
        )
    return model


def grid_rows(bench: Bench, steps: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """A row for each grid and number of steps; see :func:`_judged`. Fitted ones hold ``times``."""
    schedule = bench.teacher.process.schedule
    candidates = [k / _CANDIDATES for k in range(_CANDIDATES + 1)]
    table = interval_costs(bench.teacher, bench.fit, candidates, seed)
    rows = []
    for count in steps:
        grids = {name: time_grid(name, count, schedule) for name in GRIDS}
        fitted = table.best(count)
        found = {
            name: path_bound(bench.teacher, bench.unseen, None, grid, seed)
            for name, grid in {**grids, "fitted": fitted}.items()
        }
        for name, bound in found.items():
            row = {"part": "grid", "choice": name, "steps": count, "seed": seed}
            row |= _judged(bound, found["uniform"], bench.unseen.shape[1])
            rows.append(row | ({"times": fitted.tolist()} if name == "fitted" else {}))
    return rows


def training_rows(
    bench: Bench, steps: Sequence[int], training: int, seed: int
) -> list[dict[str, Any]]:
    """A row for each way to draw and weigh times and number of sampling steps."""
    config = TrainConfig(
        steps=training,
        batch_size=min(bench.batch_size, len(bench.training)),
        lr=bench.lr,
        ema=0.95,
        seed=seed,
        monitor=False,
        log_every=training,
        progress=False,
    )
    rows, first = [], {}
    for name, times in ways(training).items():
        result = train(
            bench.teacher.as_student(),
            ConditionalMatching("forward", times=times),
            bench.training,
            config,
            teacher=bench.teacher,
        )
        student = result.averaged()
        for count in steps:
            grid = time_grid("uniform", count, student.process.schedule)
            bound = path_bound(student, bench.unseen, None, grid, seed)
            row = {"part": "training", "choice": name, "steps": count, "seed": seed}
            standard = first.setdefault(count, bound)
            rows.append(row | _judged(bound, standard, bench.unseen.shape[1]))
    return rows


def _judged(bound: Tensor, standard: Tensor, length: int) -> dict[str, float]:
    """``bound``, nats per token; ``difference`` to the standard's, sequence by sequence, with the
    ends of its 95% interval."""
    gap = (bound - standard) / length
    mean = float(gap.mean())
    half = 1.96 * float(gap.std()) / len(gap) ** 0.5 if len(gap) > 1 else 0.0
    return {
        "bound": float(bound.mean()) / length,
        "difference": mean,
        "difference_low": mean - half,
        "difference_high": mean + half,
    }
