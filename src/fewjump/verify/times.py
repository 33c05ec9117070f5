"""``fewjump verify times``: do times that adapt beat uniform ones, in sampling and in training?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from fewjump.report import Chart, KeyNumber, Role, Series, Table, short
from fewjump.verify.checks import (
    CheckResult,
    Measure,
    ModelCheck,
    Rows,
    chart,
    distinct,
    line,
    mean,
    pick,
    pivot,
)

if TYPE_CHECKING:
    from torch import Tensor

    from fewjump.denoiser import Denoiser
    from fewjump.objective import TimeSampling

CANDIDATES = 32  # intervals that a fitted grid joins
PARTS = {
    "grid": ("Grids, at equal evaluations", "--grid {} of sample and evaluate"),
    "training": ("Training times, at equal optimiser steps", "--times {} of distill"),
}
ROLES: dict[str, Role] = {"fitted": "student", "importance": "student"}


@dataclass
class Times(ModelCheck):
    """Compare time grids at equal evaluations, and ways to draw training times at equal steps.

    Grids: uniform, cosine, log-linear, and one that is fitted to the teacher (--grid fitted of
    sample). Training: product students whose times are drawn and weighed in each of the ways of
    distill --times. Both are judged by a bound on -log p of unseen sequences under the few-step
    sampler, on the same sequences and noise. A small transformer teacher is trained on a Markov
    chain; with --model, your own is taken.

    Attributes:
        steps: numbers of evaluations; each divides 32.
        training: optimiser steps of each student; 0 leaves the training out.
        sequences: sequences that a grid is fitted to, and as many unseen ones that all are judged
            on.
        teacher_steps: optimiser steps of the teacher.
    """

    name = "times"
    about = "whether times that adapt beat uniform ones, for sampling and for training"
    question = "Do times that adapt beat uniform ones?"

    steps: list[int] = field(default_factory=lambda: [2, 4, 8])
    training: int = 150
    sequences: int = 512
    teacher_steps: int = 400

    def validate(self) -> None:
        super().validate()
        if not self.steps or any(step < 1 or CANDIDATES % step for step in self.steps):
            raise ValueError(f"--steps must be divisors of {CANDIDATES}, got {self.steps}")
        if self.training < 0 or self.teacher_steps < 1:
            raise ValueError("--training must be at least 0, --teacher-steps at least 1")
        if self.sequences < 8:
            raise ValueError(f"--sequences must be at least 8, got {self.sequences}")

    def measure(self) -> list[dict[str, Any]]:
        steps = sorted(set(self.steps))
        rows: list[dict[str, Any]] = []
        for seed in self.all_seeds():
            bench = self.bench(seed)
            rows += grid_rows(bench, steps, seed)
            if self.training:
                rows += training_rows(bench, steps, self.training, seed)
        return rows

    def bench(self, seed: int) -> Bench:
        """The teacher of ``verify warm-start``, or the user's model with its data or samples.

        Raises:
            ValueError: for a model whose sampler has no bound, fewer than 8 sequences, and as
                :func:`fewjump.verify.subjects.open_saved` and ``tokens_for`` do.
        """
        from fewjump.objective import freeze
        from fewjump.verify.subjects import chain_subject, open_saved, tokens_for

        n = self.sequences
        if self.model is None:
            subject = chain_subject(seed, self.teacher_steps)
            # The teacher saw all of it; 8 tokens are not learned by heart from 20,000 sequences.
            data = subject.data
            return Bench(subject.teacher, data[n:-n], data[:n], data[-n:])
        saved = open_saved(self)
        teacher = _of_posteriors(saved.denoiser)
        data = tokens_for(saved, self.data, count=4 * n, seed=seed)
        if len(data) < 8:
            raise ValueError(f"{self.data} has {len(data)} unseen sequences; 8 are needed at least")
        n = len(data) // 4
        return Bench(freeze(teacher), data[2 * n :], data[:n], data[n : 2 * n])

    def answer(self, rows: Rows) -> CheckResult:
        from fewjump.evaluate.bootstrap import over_seeds

        difference = partial(over_seeds, metric="difference")
        by_part = {part: mine for part in PARTS if (mine := pick(rows, part=part))}
        most = max(distinct(rows, "steps"))
        key_numbers = []
        if most > 1:
            few = min(steps for steps in distinct(rows, "steps") if steps > 1)
            centre, low, _ = difference(pick(rows, part="grid", choice="fitted", steps=few))
            what = f"nats per token: the fitted grid against the uniform one, {few} evaluations"
            key_numbers.append(KeyNumber(f"{short(centre)} ± {short(centre - low)}", what))

        def curve(rows: Rows, choice: str) -> Series:
            role = ROLES.get(choice, "other")
            return line(pick(rows, choice=choice), "steps", difference, choice, role)

        charts = [
            chart(
                f"{PARTS[part][0]}: the bound, less that of uniform times",
                [curve(mine, choice) for choice in choices(mine)],
                "network evaluations per sample",
                "nats per token",
                "x",
                {"uniform times": 0.0},
            )
            for part, mine in by_part.items()
        ]
        numbers = list(range(most + 1))
        fitted = [
            Series(f"seed {row['seed']}", numbers, row["times"], role="student")
            for row in pick(rows, steps=most)
            if "times" in row
        ]
        even = Series("uniform", numbers, [1 - k / most for k in numbers], role="other")
        title = f"The fitted times of {most} evaluations"
        charts.append(Chart(title, [*fitted, even], (), "evaluations done", "t", log_x=False))
        return self.result(
            rows,
            [words for part, mine in by_part.items() for words in told(mine, part, difference)],
            charts,
            tables=[_table(mine, part, difference) for part, mine in by_part.items()],
            key_numbers=key_numbers,
        )


class Bench(NamedTuple):
    """A frozen teacher of product laws and (N, L) clean tokens: for students, for grids, unseen."""

    teacher: Denoiser
    training: Tensor
    fit: Tensor
    unseen: Tensor


def _of_posteriors(model: Denoiser) -> Denoiser:
    """The model itself, or the network of posteriors that a score network under a mask is."""
    from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser

    if isinstance(model, ScoreDenoiser):
        if model.process.absorbing:
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
    """A row for each grid and number of steps; see :func:`_row`. Fitted ones hold ``times``."""
    from fewjump.evaluate.likelihood import path_bound
    from fewjump.sampler import GRIDS, interval_costs
    from fewjump.sampler.time_grid import time_grid

    schedule = bench.teacher.process.schedule
    candidates = [k / CANDIDATES for k in range(CANDIDATES + 1)]
    table = interval_costs(bench.teacher, bench.fit, candidates, seed)
    rows = []
    for count in steps:
        grids = {name: time_grid(name, count, schedule) for name in GRIDS}
        grids["fitted"] = fitted = table.best(count)
        bounds = {
            name: path_bound(bench.teacher, bench.unseen, None, grid, seed)
            for name, grid in grids.items()
        }
        for name, bound in bounds.items():
            row = _row("grid", name, count, seed, bound, bounds["uniform"], bench)
            rows.append(row | ({"times": fitted.tolist()} if name == "fitted" else {}))
    return rows


def ways(steps: int) -> dict[str, TimeSampling | None]:
    """The choices of training times that are compared, for a training of ``steps``."""
    from fewjump.objective import TimeSampling

    return {
        "uniform": None,
        "importance": TimeSampling(importance=True),
        "importance pairs": TimeSampling(importance=True, gap_bins=4),
        "learned weight": TimeSampling(learned_weight=True),
        "gap doubling": TimeSampling(curriculum="doubling", curriculum_steps=steps),
        "gap halving": TimeSampling(curriculum="halving", curriculum_steps=steps),
    }


def training_rows(
    bench: Bench, steps: Sequence[int], training: int, seed: int
) -> list[dict[str, Any]]:
    """A row for each way to draw and weigh times and number of sampling steps."""
    from fewjump.evaluate.likelihood import path_bound
    from fewjump.objective import ConditionalMatching
    from fewjump.sampler.time_grid import time_grid
    from fewjump.train import TrainConfig, train

    config = TrainConfig(
        steps=training,
        batch_size=min(64, len(bench.training)),
        lr=1e-3,
        ema=0.95,
        seed=seed,
        monitor=False,
        log_every=training,
        progress=False,
    )
    rows, first = [], {}
    for name, times in ways(training).items():
        student = train(
            bench.teacher.as_student(),
            ConditionalMatching("forward", times=times),
            bench.training,
            config,
            teacher=bench.teacher,
        ).averaged()
        for count in steps:
            grid = time_grid("uniform", count, student.process.schedule)
            bound = path_bound(student, bench.unseen, None, grid, seed)
            standard = first.setdefault(count, bound)
            rows.append(_row("training", name, count, seed, bound, standard, bench))
    return rows


def _row(
    part: str, choice: str, steps: int, seed: int, bound: Tensor, standard: Tensor, bench: Bench
) -> dict[str, Any]:
    """``bound``, nats per token; ``difference`` to the standard's, sequence by sequence, with the
    ends of its 95% interval."""
    length = bench.unseen.shape[1]
    gap = (bound - standard) / length
    centre = float(gap.mean())
    half = 1.96 * float(gap.std()) / len(gap) ** 0.5 if len(gap) > 1 else 0.0
    return {
        "part": part,
        "choice": choice,
        "steps": steps,
        "seed": seed,
        "bound": float(bound.mean()) / length,
        "difference": centre,
        "difference_low": centre - half,
        "difference_high": centre + half,
    }


def choices(rows: Rows) -> list[str]:
    """What is compared with the uniform choice."""
    return [choice for choice in distinct(rows, "choice") if choice != "uniform"]


def told(rows: Rows, part: str, difference: Measure) -> list[str]:
    """Which choices are better than the uniform one everywhere, somewhere, or worse."""
    # At one evaluation all grids are the same.
    counts = [count for count in distinct(rows, "steps") if part == "training" or count > 1]
    if not counts:
        return []
    what, flag = PARTS[part]
    said, mixed = [], []
    for choice in choices(rows):
        found = {count: difference(pick(rows, choice=choice, steps=count)) for count in counts}
        better = [count for count, (_, _, high) in found.items() if high < 0]
        worse = [count for count, (_, low, _) in found.items() if low > 0]
        if len(better) == len(counts):
            gains = ", ".join(f"{short(-mid)} at {count}" for count, (mid, _, _) in found.items())
            said.append(
                f"**{what}: {choice} is better than uniform** at every number of evaluations, by "
                f"{gains} nats per token (`{flag.format(choice.replace(' ', '-'))}`)."
            )
            continue
        places = [
            f"{word} at {' and '.join(map(str, where))}"
            for word, where in (("better", better), ("worse", worse))
            if where
        ]
        mixed.append(f"{choice} ({', '.join(places) or 'no difference can be told'})")
    if mixed:
        lead = "" if said else f"**{what}:** "
        said.append(f"{lead}Against uniform: {', '.join(mixed)}.")
    return said


def _table(rows: Rows, part: str, difference: Measure) -> Table:
    def cell(found: Rows) -> str:
        if found[0]["choice"] == "uniform":
            return short(mean(row["bound"] for row in found))
        centre, low, _ = difference(found)
        return f"{centre:+.4f} ± {centre - low:.4f}"

    return pivot(
        f"{PARTS[part][0]} (nats per token, less that of uniform)",
        rows,
        "choice",
        {"uniform": "uniform: the bound"} | {choice: choice for choice in choices(rows)},
        {f"{n} evaluation{'s' * (n > 1)}": {"steps": n} for n in sorted(distinct(rows, "steps"))},
        cell,
        "times",
    )
