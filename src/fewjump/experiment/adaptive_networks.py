"""Times and weights that adapt, with trained networks on names and digits, over three seeds.

``grids``: fitted, cosine and log-linear times against uniform ones at equal evaluations, for masked
teachers of names and digits, and for teachers of names under uniform noise. ``training``: product
students of the masked teachers by the paper's Algorithm 1, whose times are drawn or weighed in each
way, after equal optimiser steps, judged at 1, 4 and 8 sampling steps. Run as

    python -m fewjump.experiment.adaptive_networks --names names.txt

after :mod:`fewjump.experiment.text_students` and :mod:`fewjump.experiment.digits`, whose models in
``--teachers`` are read. Finished rows are kept in ``--runs`` and not computed again;
``--only grids`` or ``--only training`` does one part and writes no result.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fewjump.api import distill
from fewjump.denoiser.base import Denoiser
from fewjump.experiment.adaptive_judges import (
    Bench,
    DigitsBench,
    Judged,
    NamesBench,
    uniform_teacher,
)
from fewjump.experiment.adaptive_times import against_uniform, ways
from fewjump.experiment.results import Experiment, remembered
from fewjump.experiment.text_sizes import SIZES, load_corpus
from fewjump.objective import ConditionalMatching
from fewjump.sampler import GRIDS, interval_costs
from fewjump.sampler.grid import time_grid

CHOICES = (*GRIDS, "fitted")
CANDIDATES = 32
PARTS = ("grids", "training")


@dataclass(frozen=True)
class Budget:
    """How much is fitted, trained and judged.

    Attributes:
        seeds: of teachers, trainings and draws.
        grid_steps: evaluations of the sampler; each divides 32, the candidate intervals.
        judged_steps: the same, for students.
        sampled_steps: those of them at which samples are judged too.
        fitted_to: training sequences that a grid is fitted to.
        unseen: test sequences of the bound, at most.
        training: optimiser steps by corpus.
        batch_size: the same, sequences a step.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    grid_steps: tuple[int, ...] = (2, 4, 8)
    judged_steps: tuple[int, ...] = (1, 4, 8)
    sampled_steps: tuple[int, ...] = (4,)
    fitted_to: int = 512
    unseen: int = 1000
    training: tuple[tuple[str, int], ...] = (("names", 150), ("digits", 100))
    batch_size: tuple[tuple[str, int], ...] = (("names", 64), ("digits", 16))

    def of(self, part: str) -> dict[str, Any]:
        """What the rows of one part depend on, as JSON gives it back."""
        own = {"grids": ("grid_steps", "fitted_to"), "training": ("training", "batch_size")}[part]
        own = (*own, "unseen", *(("judged_steps", "sampled_steps") if part == "training" else ()))
        return json.loads(json.dumps({name: getattr(self, name) for name in own}))


def grid_rows(
    bench: Bench, model: Denoiser, what: str, seed: int, budget: Budget
) -> list[dict[str, Any]]:
    """Every grid at every number of steps.

    Rows of the fitted grid hold its ``times`` and ``promised``: nats per token by which its path
    KL lies below the uniform grid's, as the network sees it on the data that it was fitted to.
    """
    judged = Judged({"problem": what}, bench.data.all("test", budget.unseen), seed)
    x0 = bench.data.all("train", budget.fitted_to)
    table = interval_costs(model, x0, [k / CANDIDATES for k in range(CANDIDATES + 1)], seed)
    for steps in budget.grid_steps:
        grids = {name: time_grid(name, steps, model.process.schedule) for name in GRIDS}
        for name, grid in grids.items():
            judged.add(bench, model, name, grid)
        times = table.best(steps)
        begin = len(judged.rows)
        judged.add(bench, model, "fitted", times)
        promised = float((table.total(grids["uniform"]) - table.total(times)).mean())
        for row in judged.rows[begin:]:
            row |= {"times": times.tolist(), "promised": promised / x0.shape[1]}
    return judged.rows


def training_rows(
    bench: Bench, teacher: Denoiser, what: str, seed: int, budget: Budget
) -> list[dict[str, Any]]:
    """A product student for each way to draw and weigh times, judged on uniform grids."""
    steps = dict(budget.training)[bench.name]
    judged = Judged({"problem": what}, bench.data.all("test", budget.unseen), seed)
    for name, times in ways(steps).items():
        student = distill(
            teacher,
            bench.data,
            student="product",
            objective=ConditionalMatching("student-euler", times=times),
            steps=steps,
            batch_size=dict(budget.batch_size)[bench.name],
            lr=5e-4,
            ema=0.99,
            seed=seed,
            monitor=False,
        )
        for count in budget.judged_steps:
            grid = time_grid("uniform", count, student.process.schedule)
            judged.add(bench, student, name, grid, count in budget.sampled_steps)
    return judged.rows


@dataclass
class Plan:
    """What is compared, and where models and rows are.

    Attributes:
        names, digits: the benches.
        teachers: folder of the models of the other experiments.
        runs: folder of this one's models and rows.
        budget: see :class:`Budget`.
    """

    names: NamesBench
    digits: Bench
    teachers: Path
    runs: Path
    budget: Budget

    def blocks(self, part: str, seed: int) -> list[tuple[str, Callable[[], list[dict[str, Any]]]]]:
        """Name of each block of rows of a part and seed, and what computes it."""
        budget, names, digits = self.budget, self.names, self.digits

        def masked(bench: Bench) -> Denoiser:
            return bench.masked_teacher(seed, self.teachers)

        def grids(bench: Bench, what: str, model: Callable[[], Denoiser]):
            return what, lambda: grid_rows(bench, model(), what, seed, budget)

        def trained(bench: Bench, what: str):
            return what, lambda: training_rows(bench, masked(bench), what, seed, budget)

        if part == "training":
            return [trained(names, "names, warm"), trained(digits, "digits, warm")]
        own = self.runs / f"names-uniform-teacher-{seed}"
        return [
            grids(names, "names, masked", lambda: masked(names)),
            grids(names, "names, uniform", lambda: uniform_teacher(names, seed, own)),
            grids(digits, "digits, masked", lambda: masked(digits)),
        ]

    def rows(self, part: str) -> list[dict[str, Any]]:
        """All rows of a part, those that are finished from :attr:`runs`."""
        out = []
        for seed in self.budget.seeds:
            for what, compute in self.blocks(part, seed):
                begin = time.perf_counter()
                path = self.runs / f"{part}-{what}-{seed}".replace(", ", "-").replace(" ", "-")
                out += remembered(path / "rows.json", self.budget.of(part), compute)
                print(
                    f"{part}: {what}, seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True
                )
        return out


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment alone."""
    parser.add_argument("--names", type=Path, required=True, help="file with one name a line")
    parser.add_argument("--teachers", type=Path, default=Path("runs"), help="models that are read")
    parser.add_argument("--runs", type=Path, default=Path("runs/adaptive-networks"))
    parser.add_argument("--only", choices=PARTS, help="one part, and no result")


def main() -> None:
    run = Experiment("adaptive_networks", add=add_options)
    # Fewer samples than the students' experiment has: many more sets are drawn here.
    options, sizes = run.options, replace(SIZES["names"], samples=1000, replicates=100)
    names = NamesBench(load_corpus("names", sizes, options.names, None), sizes)
    plan = Plan(names, DigitsBench(), options.teachers, options.runs, Budget())
    rows = {part: plan.rows(part) for part in PARTS if options.only in (None, part)}
    if options.only is None:
        found = {f"{part}_against_uniform": against_uniform(rows[part]) for part in PARTS}
        facts = {"budget": asdict(plan.budget), "matched_entropy": names.target}
        run.save({**facts, "uniform_teacher_steps": names.teacher_steps, **found, **rows})


if __name__ == "__main__":
    main()
