"""In which order an any-order student of pictures draws its pixels: row by row, or coarse to fine.

Run as ``python -m experiments.position_orders``; each training resumes where it was stopped. The
teacher is that of ``experiments.digits``, and is found there if both are run with the same
``--runs``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from experiments.digits import folders
from experiments.digits_infilling import student
from experiments.filling import filling, holes
from experiments.harness import Content, Options, Rows, kept, main, place, with_ends
from fewjump.data import load_data
from fewjump.demo.digits import Sizes
from fewjump.demo.parts import TEACHER, Clock, teacher_for
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.evaluate.image import ImageMeter
from fewjump.evaluate.meter import quality
from fewjump.random import generator_for

#: Options of the head beside those that all have.
ORDERS: dict[str, dict[str, Any]] = {
    "row by row": {"order": "ascending"},
    "coarse to fine": {"order": "coarse-to-fine"},
}
HIDDEN = ("everything", "lower half", "scattered")


@dataclass
class Config(Options):
    """Orders in which an any-order student draws pixels.

    Attributes:
        seeds: how many trainings of everything.
        steps: optimiser steps of every student.
        evaluations: at which its pictures are judged.
        sizes: of the teacher and of the training.
    """

    seeds: int = 3
    steps: int = 600
    evaluations: tuple[int, ...] = (1, 2, 4, 16)
    sizes: Sizes = field(default_factory=Sizes)


def measure(config: Config) -> Content:
    """Exact scores of test pictures, and what is drawn, of every order and seed."""
    data, sizes, clock = load_data("digits"), config.sizes, Clock()
    meter, x0 = ImageMeter(data), data.all("test")
    rows: Rows = []
    for seed in range(config.seed, config.seed + config.seeds):
        with clock.part("training the teacher"):
            teacher = teacher_for(data, sizes, seed, folders(sizes, seed, config.runs)[TEACHER])
        for order, options in ORDERS.items():
            head = {"width": 64, "columns": 8, **options}
            label = f"position-orders-{options['order']}-{seed}"
            folder = place(config.runs, label, asdict(sizes), config.steps, head)
            with clock.part(f"distilling, {order}"):
                model = student("any-order", head, teacher, data, sizes, config.steps, seed, folder)
            about = {"order": order, "seed": seed}

            def judged(model=model, seed=seed) -> Rows:
                out = []
                for hidden in HIDDEN:
                    nll = filling(model, x0, holes(hidden, (len(x0), x0.shape[1]), 1))
                    found = with_ends("nll", bootstrap(nll, mean, generator_for(1)))
                    out.append({"hidden": hidden, **found})
                found = quality(
                    model, meter, config.evaluations, num_samples=sizes.samples, seeds=(seed,)
                )
                return [*out, *(vars(row) for row in found)]

            with clock.part(f"judging, {order}"):
                rows += [{**about, **row} for row in kept(folder / "rows.json", judged)]
    return {
        "data": data.description,
        "sizes": asdict(sizes),
        "steps": config.steps,
        "orders": ORDERS,
        "rows": rows,
    }


if __name__ == "__main__":
    main("position_orders", Config, measure)
