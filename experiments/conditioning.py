"""Students that read what is visible: quality by number of steps, and infilling in one evaluation.

A left-to-right head learns of visible tokens to the right of a hole through the trunk alone. It is
trained beside the same head with a pass from right to left over the visible tokens, and beside the
any-order head, for as many optimiser steps. Run as

    python -m experiments.conditioning --names names.txt
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.harness import Content, Options, Rows, digest, kept, main
from experiments.text_quality import reference_row, with_ends
from experiments.text_sizes import SIZES, Sizes, load_corpus
from experiments.text_students import Workshop, seconds_of_parts
from experiments.wall_clock import TEACHER
from fewjump.demo.parts import Clock
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.evaluate.text import TextMeter
from fewjump.random import generator_for

LOOKAHEAD = "autoregressive with lookahead"
KINDS = ("autoregressive", LOOKAHEAD, "any-order")


def holes(kind: str, shape: tuple[int, int], seed: int) -> Tensor:
    """Which positions of each row are to be filled: all, a stretch of half, or a scattered half."""
    rows, length = shape
    generator = generator_for(seed)
    if kind == "scattered":
        return torch.rand(rows, length, generator=generator).argsort(1) < length // 2
    if kind == "everything":
        return torch.ones(rows, length, dtype=torch.bool)
    start = torch.randint(length - length // 2 + 1, (rows, 1), generator=generator)
    at = torch.arange(length)
    return (at >= start) & (at < start + length // 2)


@torch.no_grad()
def filling(model: Denoiser, x0: Tensor, hole: Tensor, batch: int = 256) -> Tensor:
    """Exact −log p of the true filling given what is visible, in nats per hole: (N,).

    One evaluation of the trunk, at the noise level that hides as many positions.
    """
    process, out = model.process, []
    assert process.mask is not None
    for rows in torch.arange(len(x0)).split(batch):
        x_t = torch.where(hole[rows], process.mask, x0[rows])
        share = hole[rows].double().mean(1).clamp(max=1 - 1e-6)
        law = model(x_t, process.schedule.time_of_alpha(1 - share).clamp(max=1))
        out.append(-law.log_prob(x0[rows]).double() / hole[rows].sum(1))
    return torch.cat(out)


@dataclass(kw_only=True)
class Config(Options):
    """Students that read what is visible, on names.

    Attributes:
        names: file with one name of a–z per line.
        seeds: trainings of everything.
        steps: optimiser steps of each student.
    """

    names: Path | None = None
    seeds: int = 1
    steps: int = 2000


def sizes_of(config: Config, sizes: Sizes) -> Sizes:
    """The budget: the names' of the students' experiment, and as many steps for every student."""
    width = sizes.heads.get("autoregressive", {}).get("width", 16)
    heads = {
        "autoregressive": {"width": width},
        LOOKAHEAD: {"kind": "autoregressive", "width": width, "lookahead": True},
        "any-order": {"width": width},
    }
    return replace(sizes, heads=heads, joint_steps=config.steps, longer={}, seeds=config.seeds)


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """Rows by number of steps, and rows of fillings."""
    clock = Clock()
    sizes = sizes_of(config, SIZES["names"] if sizes is None else sizes)
    data = load_corpus("names", sizes, config.names, None)
    meter = TextMeter(data)
    reference = reference_row(data, meter, sizes.samples)
    x0 = data.all("test", sizes.samples)
    rows: Rows = []
    fillings: Rows = []
    for seed in range(config.seed, config.seed + sizes.seeds):
        workshop = Workshop("names", data, sizes, seed, config.runs, clock)
        teacher = workshop.teacher()
        rows += workshop.rows(TEACHER, teacher, meter, reference["entropy"])
        for kind in KINDS:
            model = workshop.student(kind, teacher)
            rows += workshop.rows(kind, model, meter, reference["entropy"])
            for hidden in ("everything", "stretch", "scattered"):
                key = digest(hidden, len(x0), sizes.replicates)

                def compute(hidden: str = hidden, model: Denoiser = model) -> dict[str, Any]:
                    each = filling(model, x0, holes(hidden, (len(x0), x0.shape[1]), 1))
                    interval = bootstrap(each, mean, generator_for(1), sizes.replicates)
                    return with_ends("nll", interval)

                found = kept(workshop.folder(kind) / f"filling-{key}.json", compute)
                fillings.append({"student": kind, "seed": seed, "hidden": hidden, **found})
    return {
        "data": data.description,
        "sizes": asdict(sizes),
        "reference": reference,
        "seconds_of_parts": seconds_of_parts(rows),
        "rows": rows,
        "fillings": fillings,
    }


if __name__ == "__main__":
    main("conditioning", Config, measure)
