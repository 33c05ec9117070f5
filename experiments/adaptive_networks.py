"""Times and weights that adapt, with trained networks on names, text and digits, three seeds each.

``grids``: fitted, cosine and log-linear times against uniform ones at equal evaluations, for masked
teachers of names, text and digits, and for teachers of names under uniform noise. ``training``:
product students of the masked teachers by the paper's Algorithm 1, whose times are drawn or weighed
in each way, after equal optimiser steps, judged at 1, 4 and 8 sampling steps. ``joint``: students
of names with a shared chain, in each way that they have, judged at 1 and 4 steps. Run as

    python -m experiments.adaptive_networks --names names.txt --text shakespeare.txt

after :mod:`experiments.text_students` and :mod:`experiments.digits`, whose models are read from the
same ``--runs``. Text has one teacher: its three seeds are of trainings, draws and bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from experiments.adaptive_judges import Bench, DigitsBench, TextBench, uniform_teacher
from experiments.adaptive_rows import (
    TEXT_BUDGET,
    Budget,
    grid_rows,
    joint_rows,
    training_rows,
)
from experiments.adaptive_times import against_uniform
from experiments.harness import Content, Options, Rows, kept, main, place
from experiments.text_sizes import SIZES, load_corpus
from fewjump.data import load_data
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.image import classifier_for

PARTS = ("grids", "training", "joint")


class Block(NamedTuple):
    """Rows of one problem and seed: its name, their budget, and what computes them."""

    what: str
    budget: Budget
    compute: Callable[[], Rows]


@dataclass
class Plan:
    """What is compared, and where models and rows are.

    Attributes:
        names, text, digits: the benches.
        teachers: folder of the models of the other experiments.
        runs: folder of this one's models and rows.
        budget: of names and digits, see :class:`Budget`.
        text_budget: of text.
    """

    names: TextBench
    text: TextBench
    digits: Bench
    teachers: Path
    runs: Path
    budget: Budget
    text_budget: Budget

    def budget_of(self, bench: Bench) -> Budget:
        """The budget of a corpus."""
        return self.text_budget if bench is self.text else self.budget

    def blocks(self, part: str, seed: int) -> list[Block]:
        """The blocks of rows of a part and seed."""
        names = self.names

        def masked(bench: Bench) -> Denoiser:
            return bench.masked_teacher(seed, self.teachers)

        def block(bench: Bench, noun: str, rows: Callable[..., Rows], model=masked) -> Block:
            what, budget = f"{bench.name}, {noun}", self.budget_of(bench)
            return Block(what, budget, lambda: rows(bench, model(bench), what, seed, budget))

        def under_uniform_noise(bench: Bench) -> Denoiser:
            return uniform_teacher(bench, seed, self.runs / f"names-uniform-teacher-{seed}")

        if part == "joint":
            return [block(names, "joint", joint_rows)]
        corpora = (names, self.text, self.digits)
        if part == "training":
            return [block(bench, "warm", training_rows) for bench in corpora]
        own = block(names, "uniform", grid_rows, under_uniform_noise)
        return [*(block(bench, "masked", grid_rows) for bench in corpora), own]

    def rows(self, part: str) -> Rows:
        """All rows of a part, those that are finished from :attr:`runs`."""
        out = []
        for seed in self.budget.seeds:
            for block in self.blocks(part, seed):
                begin = time.perf_counter()
                label = f"{part}-{block.what}-{seed}"
                folder = place(self.runs, label, block.budget.of(part))
                out += kept(folder / "rows.json", block.compute)
                seconds = time.perf_counter() - begin
                print(f"{part}: {block.what}, seed {seed}: {seconds:.0f} s", flush=True)
        return out


@dataclass(kw_only=True)
class Config(Options):
    """Adaptive grids and training times against uniform ones, with trained networks.

    Attributes:
        names: file with one name of a–z per line.
        text: text file; built-in text without it.
    """

    names: Path
    text: Path | None = None


def measure(config: Config) -> Content:
    """All parts, and each choice against the uniform one."""
    bench: dict[str, TextBench] = {}
    # Fewer samples than the students' experiment has: many more sets are drawn here.
    for corpus, samples, steps in (("names", 1000, 800), ("text", 400, 0)):
        sizes = replace(SIZES[corpus], samples=samples, replicates=100)
        data = load_corpus(corpus, sizes, config.names, config.text)
        bench[corpus] = TextBench(corpus, data, sizes, steps)
    names, text = bench["names"], bench["text"]
    images = load_data("digits")
    digits = DigitsBench(images, classifier_for(images))
    own, corpora = config.runs / "adaptive-networks", (names, text, digits)
    plan = Plan(names, text, digits, config.runs, own, Budget(), TEXT_BUDGET)
    rows = {part: plan.rows(part) for part in PARTS}
    return {
        "budget": asdict(plan.budget),
        "text_budget": asdict(plan.text_budget),
        "teachers": {b.name: min(b.teachers, len(plan.budget.seeds)) for b in corpora},
        "data": {b.name: b.data.description for b in corpora},
        "samples": {b.name: b.sizes.samples for b in corpora},
        "matched_entropy": {b.name: b.target for b in (names, text)},
        "uniform_teacher_steps": names.teacher_steps,
        **{f"{part}_against_uniform": against_uniform(rows[part]) for part in PARTS},
        **rows,
    }


if __name__ == "__main__":
    main("adaptive_networks", Config, measure)
