"""Tokens drawn from the teacher or summed out: the noise of a joint student's gradient.

At x_s the teacher says a row for each position. A joint student is scored along one draw of them
all; given the drawn tokens to its left, each position's own token can be summed out instead. The
trained students of :mod:`experiments.conditioning` are asked for gradients of both kinds on the
same states. Run as

    python -m experiments.summed_targets --names names.txt
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments import conditioning
from experiments.harness import Content, Options, Rows, main
from experiments.text_sizes import SIZES, Sizes, load_corpus
from experiments.text_students import Workshop
from fewjump.demo.parts import Clock
from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.objective import freeze
from fewjump.objective.intermediate import forward_path
from fewjump.random import generator_for

KINDS = ("autoregressive", "shared-chain")
SHARES = (0.1, 0.3, 0.6)
TIMES = (1.0, 0.75, 0.5, 0.25)
#: How a law is scored: what the base class does for every law, and the sum.
WAYS = {"drawn": Law.cross_entropy, "summed": lambda law, *rest: law.summed_cross_entropy(*rest)}


@dataclass(kw_only=True)
class Config(Options):
    """Tokens drawn or summed, on names.

    Attributes:
        names: file with one name of a–z per line.
        steps: optimiser steps behind each student.
        batches: independent batches of data.
        draws: of the teacher's tokens for each.
        batch_size: sequences.
    """

    names: Path
    steps: int = 2000
    batches: int = 5
    draws: int = 3
    batch_size: int = 32


def gradients(
    student: Denoiser, teacher: Denoiser, x0: Tensor, near: float, draws: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Gradients of one batch by each way, (draws, parameters), and CPU seconds of each.

    The states x_s and x_t are the same throughout; the two ways take turns.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    t = torch.tensor(TIMES, dtype=torch.float64).repeat(-(-len(x0) // len(TIMES)))[: len(x0)]
    x_t, x_s = forward_path(student.process, x0, torch.stack([t, near * t]), generator_for(seed))
    found: dict[str, list[Tensor]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for draw in range(draws):
        for way, score in WAYS.items():
            begin = time.process_time()
            with torch.no_grad():
                target = teacher(x_s, near * t)
            loss = score(student(x_t, t), target, generator_for(seed, draw)).mean() / x0.shape[1]
            parts = torch.autograd.grad(loss, parameters, allow_unused=True)
            seconds[way].append(time.process_time() - begin)
            found[way].append(torch.cat([p.flatten() for p in parts if p is not None]).double())
    return {way: torch.stack(each) for way, each in found.items()}, seconds


def rows_of(kind: str, near: float, each: list[dict[str, Tensor]], seconds: Rows) -> Rows:
    """Variance of the gradient (traces) that is due to the draw, and all of it.

    All of it is that of the draw and that of the batch, which both ways share.
    """
    inner, between = {}, []
    for way in WAYS:
        found = torch.stack([batch[way] for batch in each])
        inner[way] = float(found.var(1).sum(1).mean())
        between.append(float(found.mean(1).var(0).sum()) - inner[way] / found.shape[1])
    return [
        {
            "student": kind,
            "near": near,
            "way": way,
            "draw_variance": inner[way],
            "variance": inner[way] + sum(between) / len(between),
            "cpu_seconds": statistics.median(s for batch in seconds for s in batch[way]),
        }
        for way in WAYS
    ]


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """Rows of each student, share s/t and way."""
    wanted = conditioning.Config(names=config.names, steps=config.steps)
    sizes = conditioning.sizes_of(wanted, SIZES["names"] if sizes is None else sizes)
    data = load_corpus("names", sizes, config.names, None)
    shop = Workshop("names", data, sizes, config.seed, config.runs, Clock())
    teacher = freeze(shop.teacher())
    index = torch.randperm(len(data), generator=generator_for(config.seed))
    batches = index[: config.batches * config.batch_size].split(config.batch_size)
    rows: Rows = []
    for kind in KINDS:
        student = shop.student(kind, teacher).requires_grad_(True)
        for near in SHARES:
            found = [
                gradients(student, teacher, data.batch(part), near, config.draws, seed)
                for seed, part in enumerate(batches)
            ]
            rows += rows_of(kind, near, [f[0] for f in found], [f[1] for f in found])
    return {"data": data.description, "batch_size": config.batch_size, "rows": rows}


if __name__ == "__main__":
    main("summed_targets", Config, measure)
