"""The lower half of a digit given the upper: students in one evaluation, the teacher in 64.

Run as ``python -m experiments.digits_infilling``; each training resumes where it was stopped. The
teacher is that of ``experiments.digits``, and is found there if both are run with the same
``--runs``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.digits import folders
from experiments.filling import Fillings
from experiments.harness import Content, Options, Rows, main, place, with_ends
from fewjump.api import distill
from fewjump.data import Dataset, load_data
from fewjump.demo.digits import Sizes
from fewjump.demo.parts import JOINT, TEACHER, Clock, made_once, teacher_for
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.image import ImageMeter
from fewjump.objective import JointConditionalMatching
from fewjump.sampler import run as draw

#: Heads beside the mixture of pictures, with their options.
HEADS: dict[str, dict[str, Any]] = {
    "any-order": {"width": 64, "neighbours": (1, 8), "columns": 8},
    "shared-chain": {"states": 256, "length": 64, "table_rate": 30.0},
}
HIDDEN = ("lower half",)
REPLICATES = 1000


@dataclass
class Config(Options):
    """The lower half of a digit given the upper.

    Attributes:
        seeds: how many trainings of everything.
        steps: optimiser steps of every student.
        sizes: of the teacher and of the training.
    """

    seeds: int = 1
    steps: int = 600
    sizes: Sizes = field(default_factory=Sizes)


def student(
    kind: str,
    head: dict[str, Any],
    teacher: Denoiser,
    data: Dataset,
    sizes: Sizes,
    steps: int,
    seed: int,
    out: Path,
) -> Denoiser:
    """One student of the teacher by joint matching, distilled or loaded."""
    return made_once(
        out,
        lambda folder: distill(
            teacher,
            data,
            student=kind,
            objective=JointConditionalMatching(near=sizes.near, steps=4),
            head=head,
            steps=steps,
            batch_size=sizes.batch_size,
            lr=3e-3,
            ema=0.99,
            seed=seed,
            out=folder,
            save_every=200,
        ),
    )


def measure(config: Config) -> Content:
    """Exact scores and draws of every model, over seeds."""
    data, sizes, clock = load_data("digits"), config.sizes, Clock()
    meter = ImageMeter(data)
    x0, labels = data.all("test"), data.labels["test"]
    rows: Rows = []

    def measured(model: Denoiser, steps: int, hole: Tensor) -> dict[str, Any]:
        drawn = draw(model, len(x0), steps, "ancestral", generator=0, prompt=x0, fixed=~hole)
        found = {**meter.measure(drawn.samples), **meter.of_classes(drawn.samples, labels)}
        ends = [with_ends(name, interval) for name, interval in found.items()]
        return {"nfe": drawn.nfe, **{k: v for part in ends for k, v in part.items()}}

    for seed in range(config.seed, config.seed + config.seeds):
        base = folders(sizes, seed, config.runs)[TEACHER]

        def folder(name: str, seed: int = seed, base: Path = base) -> Path:
            if name == TEACHER:
                return base
            label = f"digits-infilling-{name}-{seed}"
            return place(config.runs, label, asdict(sizes), config.steps, HEADS.get(name, {}))

        fillings = Fillings(
            x0, HIDDEN, measured, folder, seed, REPLICATES, (asdict(sizes),), clock, "digits"
        )
        with clock.part("training the teacher"):
            teacher = teacher_for(data, sizes, seed, base)
        rows += fillings.rows(TEACHER, teacher)
        kinds = {kind: (kind, head) for kind, head in HEADS.items()}
        kinds[JOINT] = sizes.joint, sizes.head(data.length)
        for name, kind in kinds.items():
            with clock.part(f"distilling {name}"):
                model = student(*kind, teacher, data, sizes, config.steps, seed, folder(name))
            rows += fillings.rows(name, model)
    reference = {k: v.value for k, v in meter.measure(x0).items()}
    reference |= {k: v.value for k, v in meter.of_classes(x0, labels).items()}
    return {
        "data": data.description,
        "sizes": asdict(sizes),
        "heads": HEADS,
        "steps": config.steps,
        "reference": reference,
        "fillings": rows,
    }


if __name__ == "__main__":
    main("digits_infilling", Config, measure)
