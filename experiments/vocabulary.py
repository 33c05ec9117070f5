"""What recovery and a distillation step cost as the vocabulary grows.

``python -m experiments.checks vocabulary``, as for the checks of ``fewjump verify``.
"""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import ConditionalMatching, freeze
from fewjump.process import (
    Absorbing,
    LowRankDiagonalRate,
    LowRankRate,
    Process,
    ResetToPrior,
    SummedRates,
    TimeVaryingRate,
    Uniform,
    discretised_gaussian_rate,
)
from fewjump.random import SampleStreams, generator_for
from fewjump.report import KeyNumber, Role, Series, Table, short
from fewjump.schedule import LogLinear
from fewjump.verify.checks import Check, CheckResult, Rows, chart, distinct, pick, pivot

FAMILIES = (
    "uniform",
    "absorbing",
    "random prior",
    "low-rank rate",
    "low-rank and diagonal",
    "sparse rate",
    "sparse rate, near targets",
)
ROLES: tuple[Role, ...] = ("teacher", "student", "data", "other", "teacher", "student", "data")
#: Key of the rows → what is measured, of what, unit, positions.
MEASURES = {
    "recovery_seconds": ("time", "recovery", "processor seconds", "16"),
    "step_seconds": ("time", "a distillation step", "processor seconds", "2×8"),
    "recovery_bytes": ("memory", "recovery", "bytes", "16"),
    "step_bytes": ("memory", "a distillation step", "bytes", "2×8"),
}
RANK, TARGETS = 8, 8
_BATCH, _LENGTH, _HIDDEN = 2, 8, 32
_TIME, _LONG_ENOUGH = 0.5, 0.2


@dataclass
class Vocabulary(Check):
    """Time and memory of recovery and of a distillation step, from V = 2⁸ to 2¹⁷.

    Structured processes, low-rank rates (8 clusters) with equal exit rates and with any, and sparse
    rates (8 targets a token, anywhere or near). Time is the processor's, the least of several runs
    after a first; memory is the most that was allocated at once. The slope is that of the
    logarithms over the upper half of the sizes, where fixed costs no longer show. The dense route
    must refuse what would not fit.

    Attributes:
        families: which processes.
        smallest: smallest vocabulary, as a power of two.
        largest: largest vocabulary, as a power of two.
        repeats: times that everything is measured, of which the quickest counts.
        limit: largest slope that counts as linear.
    """

    name = "vocabulary"
    about = "what recovery and a distillation step cost as the vocabulary grows"
    question = "What do recovery and a distillation step cost as the vocabulary grows?"

    families: list[str] = field(default_factory=lambda: list(FAMILIES))
    smallest: int = 8
    largest: int = 17
    repeats: int = 3
    limit: float = 1.1

    def validate(self) -> None:
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown:
            raise ValueError(f"unknown family {unknown[0]!r}; known: {', '.join(FAMILIES)}")
        if not 2 <= self.smallest < self.largest <= 20 or self.repeats < 1:
            raise ValueError(
                "2 ≤ smallest < largest ≤ 20 and repeats at least 1 are needed; got "
                f"{self.smallest}, {self.largest}, {self.repeats}"
            )

    def measure(self) -> list[dict[str, Any]]:
        sizes = [2**k for k in range(self.smallest, self.largest + 1)]
        rows = measure(self.families, sizes, self.repeats, self.seed)
        return [*rows, *refusals(2 ** max(17, self.largest))]

    def answer(self, rows: Rows) -> CheckResult:
        costs, refused = [r for r in rows if "family" in r], [r for r in rows if "asked" in r]
        families, largest = distinct(costs, "family"), max(distinct(costs, "vocab_size"))
        slopes = {
            (family, key): upper_slope(pick(costs, family=family), key)
            for family in families
            for key in MEASURES
        }
        words = {
            (family, key): f"the {MEASURES[key][0]} of {MEASURES[key][1]} ({family})"
            for family, key in slopes
        }
        worst = max(slopes, key=lambda pair: slopes[pair])
        over = {pair: value for pair, value in slopes.items() if value > self.limit}
        silent = [row["asked"] for row in refused if row["said"] is None]
        charts = []
        for key, (what, of, unit, positions) in MEASURES.items():
            series = []
            for family, role in zip(families, ROLES):
                mine = sorted((r["vocab_size"], r[key]) for r in pick(costs, family=family))
                series.append(Series(family, [v for v, _ in mine], [y for _, y in mine], role=role))
            title = f"{what.capitalize()} of {of}, {positions} positions"
            charts.append(chart(title, series, "vocabulary", unit, "xy"))
        names = {family: family for family in families}
        exponents = [
            {"family": family, "measure": key, "slope": round(value, 4)}
            for (family, key), value in slopes.items()
        ]
        at_largest = pick(costs, vocab_size=largest)
        tables = [
            pivot(
                "Exponents of V",
                [{**row, "slope": slopes[row["family"], row["measure"]]} for row in exponents],
                "family",
                names,
                {
                    f"{of.split()[-1]}, {what}": {"measure": key}
                    for key, (what, of, _, _) in MEASURES.items()
                },
                lambda cell: f"{cell[0]['slope']:.2f}",
                "process",
            ),
            Table(
                f"At V = {largest:,}",
                ("process", "recovery, s", "step, s", "recovery, MB", "step, MB"),
                [
                    (
                        row["family"],
                        *(float(f"{row[key]:.3g}") for key in ("recovery_seconds", "step_seconds")),
                        *(round(row[key] / 1e6, 1) for key in ("recovery_bytes", "step_bytes")),
                    )
                    for row in at_largest
                ],
            ),
            Table(
                "What the dense route says where it would not fit",
                ("asked for", "said"),
                [(row["asked"], row["said"] or "nothing: it tried") for row in refused],
            ),
        ]
        failures = [
            f"{words[pair]} grows as V to the power {value:.2f}, above {self.limit}"
            for pair, value in over.items()
        ]
        verdict = [
            f"From V = {min(distinct(costs, 'vocab_size')):,} to {largest:,} the steepest growth "
            f"is that of {words[worst]}: V to the power {slopes[worst]:.2f}; {len(over)} of "
            f"{len(slopes)} exponents are above {self.limit}.",
            f"Recovery of 16 posteriors at V = {largest:,}: "
            + ", ".join(f"{short(r['recovery_seconds'])} s ({r['family']})" for r in at_largest)
            + ".",
            *_sparse(costs, slopes, self.limit),
            f"The dense route was asked for {len(refused)} things that would not fit and refused "
            f"{len(refused) - len(silent)}.",
        ]
        return self.result(
            [*costs, *exponents, *refused],
            verdict,
            charts,
            tables=tables,
            key_numbers=[KeyNumber(f"{slopes[worst]:.2f}", f"steepest slope: {words[worst]}")],
            failures=failures
            + [f"{name} was not refused where it would not fit" for name in silent],
        )


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Least-squares exponent of a power law in V."""
    xs, ys = [math.log(v) for v in sizes], [math.log(max(v, 1e-12)) for v in values]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mx) ** 2 for x in xs)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / spread


def upper_slope(rows: Rows, key: str) -> float:
    """Exponent of V over the upper half of the vocabularies."""
    found = sorted((r["vocab_size"], r[key]) for r in rows)
    upper = found[len(found) // 2 :] if len(found) > 3 else found
    return slope([v for v, _ in upper], [y for _, y in upper])


def _sparse(rows: Rows, slopes: Mapping[tuple[str, str], float], limit: float) -> list[str]:
    """How much of the cost of sparse products is where they read, if both kinds were measured."""
    keys = ("recovery_seconds", "step_seconds")
    kinds = ("sparse rate", "sparse rate, near targets")
    if not all((kind, key) in slopes for kind in kinds for key in keys):
        return []
    far, near = ([slopes[kind, key] for key in keys] for kind in kinds)
    said = (
        f"Sparse rates to 8 tokens anywhere: exponents {far[0]:.2f} (recovery) and {far[1]:.2f} "
        f"(step); to 8 tokens near by: {near[0]:.2f} and {near[1]:.2f}."
    )
    sizes = sorted(distinct(rows, "vocab_size"))
    ends = (sizes[len(sizes) // 2], sizes[-1])
    costs = [[pick(rows, family=k, vocab_size=v)[0][keys[0]] for k in kinds] for v in ends]
    times = [other / next_to for other, next_to in costs]
    if far[0] > limit and times[1] > times[0]:
        # Operations are as many: what grows is the cost of reading beyond the processor's caches.
        said += (
            f" Reading at random makes recovery {times[0]:.1f} times as slow at V = {ends[0]:,} "
            f"and {times[1]:.1f} times at V = {ends[1]:,}, beyond the processor's caches."
        )
    return [said]


def make_process(family: str, vocab_size: int, seed: int) -> Process:
    """A process of a family; nothing of size V×V is made.

    Raises:
        ValueError: for an unknown family.
    """
    schedule, source = LogLinear(), generator_for(seed, vocab_size)
    if family == "uniform":
        return Uniform(vocab_size, schedule)
    if family == "absorbing":
        return Absorbing(vocab_size, schedule)
    if family == "random prior":
        prior = torch.rand(vocab_size, generator=source, dtype=torch.float64) ** 2
        return ResetToPrior(prior / prior.sum(), schedule)
    if family == "low-rank rate":
        members = torch.rand(vocab_size, RANK, generator=source, dtype=torch.float64) ** 4
        priors = torch.rand(RANK, vocab_size, generator=source, dtype=torch.float64)
        members, priors = (m / m.sum(-1, keepdim=True) for m in (members, priors))
        return LowRankRate(members, priors, schedule)
    if family == "low-rank and diagonal":
        left = torch.rand(vocab_size, RANK, generator=source, dtype=torch.float64) ** 2
        right = torch.rand(RANK, vocab_size, generator=source, dtype=torch.float64)
        right = right / right.sum(-1, keepdim=True)
        # Exit rates of 1 on average.
        return LowRankDiagonalRate(left / left.sum(-1).mean(), right, schedule)
    if family in ("sparse rate", "sparse rate, near targets"):
        near = family != "sparse rate"
        rate = near_rate(vocab_size) if near else sparse_rate(vocab_size, source)
        return TimeVaryingRate(
            SummedRates([rate], [0, 1], [[1], [1]]),
            schedule,
            mask=vocab_size - 1 if near else None,
            tolerance=1e-8,
            route="action",
        )
    raise ValueError(f"unknown family {family!r}")


def sparse_rate(vocab_size: int, source: torch.Generator) -> Tensor:
    """Rate 1 in all from every token to 8 others, drawn at random, one of them the next: (V, V)."""
    state = torch.arange(vocab_size)
    steps = torch.randint(1, vocab_size, (TARGETS, vocab_size), generator=source)
    steps[0] = 1
    columns = ((state + steps) % vocab_size).reshape(-1)
    return _equal_rates(state.repeat(TARGETS), columns, vocab_size)


def near_rate(vocab_size: int) -> Tensor:
    """Rate 1 in all from every token to the 7 next and the mask, which is the last: (V, V).

    As many entries as :func:`sparse_rate` has, but what a product reads lies side by side.
    """
    state = torch.arange(vocab_size - 1)
    steps = torch.arange(1, TARGETS)[:, None]
    mask = torch.full_like(state, vocab_size - 1)
    columns = torch.cat([((state + steps) % (vocab_size - 1)).reshape(-1), mask])
    return _equal_rates(state.repeat(TARGETS), columns, vocab_size)


def _equal_rates(rows: Tensor, columns: Tensor, vocab_size: int) -> Tensor:
    """The sparse generator of rates 1/8 from ``rows`` to ``columns``."""
    size = (vocab_size, vocab_size)
    indices = torch.stack([torch.cat([rows, rows]), torch.cat([columns, rows])])
    values = torch.full((rows.shape[0],), 1 / TARGETS, dtype=torch.float64)
    return torch.sparse_coo_tensor(indices, torch.cat([values, -values]), size).coalesce()


def measure(
    families: Sequence[str], sizes: Sequence[int], repeats: int, seed: int
) -> list[dict[str, Any]]:
    """A row per family and vocabulary: ``recovery`` and ``step``, seconds and bytes of each.

    Recovery: 16 positions by the closed form, at t = ½. Step: loss, gradients and AdamW of a
    transformer of width 32 on 2×8 positions, forward pairs, with a teacher of its size. The first
    call of each, which fills caches and has the system map memory, does not count. All is measured
    ``repeats`` times, one sweep after another, and the quickest counts: other load comes and goes.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for _ in range(repeats):
        for family in families:
            for size in sizes:
                found = _measure_one(family, size, seed)
                before = rows.setdefault((family, size), found)
                for key in ("recovery_seconds", "step_seconds"):
                    before[key] = min(before[key], found[key])
                # The profiler loses events now and then, and with them memory.
                for key in ("recovery_bytes", "step_bytes"):
                    before[key] = max(before[key], found[key])
    return list(rows.values())


def _measure_one(family: str, size: int, seed: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process = make_process(family, size, seed)
    row: dict[str, Any] = {"family": family, "vocab_size": size}
    for name, make in (("recovery", recovery_of), ("step", step_of)):
        call = make(process, seed)
        call()
        row[f"{name}_seconds"] = quickest(call, 1)
        row[f"{name}_bytes"] = peak_bytes(call)
    return row


def recovery_of(process: Process, seed: int) -> Callable[[], object]:
    """Recovery of the posteriors of 16 positions, ready to be called."""
    size, source = process.vocab_size, generator_for(seed, 1)
    law = torch.rand(size, generator=source, dtype=torch.float64) ** 4
    if process.mask is not None:
        law[process.mask] = 0
    noised = process.kernel(0.0, _TIME).push((law / law.sum())[None, None])[0, 0]
    x_t = torch.multinomial(noised, _BATCH * _LENGTH, True, generator=source)[None]
    ratios = noised / noised[x_t][..., None]
    x_t_time = torch.tensor(_TIME, dtype=torch.float64)

    return lambda: process.posterior_from_ratios(ratios, x_t, x_t_time)


def step_of(process: Process, seed: int) -> Callable[[], object]:
    """One optimiser step of conditional matching, ready to be called."""
    torch.manual_seed(seed)
    teacher = NetworkDenoiser.from_config(
        {
            "process": Uniform(process.vocab_size, LogLinear()).config(),
            "trunk": {"hidden": _HIDDEN, "blocks": 1, "heads": 2},
            "length": _LENGTH,
        }
    )
    teacher.process = process
    student = copy.deepcopy(teacher)
    student.process = process
    freeze(teacher)
    optimiser = torch.optim.AdamW(student.parameters())
    clean = process.vocab_size - (process.mask is not None)
    batch = torch.randint(clean, (_BATCH, _LENGTH), generator=generator_for(seed, 2))
    objective = ConditionalMatching("forward")

    def call() -> object:
        optimiser.zero_grad(set_to_none=True)
        streams = SampleStreams(seed, torch.arange(_BATCH))
        loss, _ = objective(student, teacher, batch, streams)
        loss.backward()
        optimiser.step()
        return loss

    return call


def quickest(call: Callable[[], object], repeats: int) -> float:
    """Least processor seconds of a call, of ``repeats`` at least and of 0.2 seconds' worth."""
    found: list[float] = []
    while len(found) < repeats or sum(found) < _LONG_ENOUGH:
        begin = time.process_time()
        call()
        found.append(time.process_time() - begin)
    return min(found)


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that were allocated at once during a call, above what was there before."""
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    assert record.profiler is not None
    results = record.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, current)
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler's own chatter, which it writes past Python, goes nowhere."""
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, saved in zip((1, 2), kept):
            os.dup2(saved, number)
            os.close(saved)
        os.close(nowhere)


def refusals(vocab_size: int) -> list[dict[str, Any]]:
    """What the dense route says where V×V entries would not fit: a row per thing asked for."""
    schedule, time_ = LogLinear(), 0.5
    sparse = make_process("sparse rate", 512, 0)
    asked: dict[str, Callable[[], object]] = {
        "Uniform.kernel": lambda: Uniform(vocab_size, schedule).kernel(0.0, time_).dense(),
        "LowRankRate.kernel": lambda: (
            make_process("low-rank rate", vocab_size, 0).kernel(0, time_).dense()
        ),
        "Absorbing.base_rate": lambda: Absorbing(vocab_size, schedule).base_rate(),
        "discretised_gaussian_rate": lambda: discretised_gaussian_rate(vocab_size),
        "batched sparse kernel": lambda: sparse.kernel(
            torch.zeros(2048, dtype=torch.float64), torch.full((2048,), time_).double()
        ).dense(),
    }
    rows = []
    for name, call in asked.items():
        said = None
        try:
            call()
        except ValueError as error:
            said = str(error)
        rows.append({"asked": name, "vocab_size": vocab_size, "said": said})
    return rows
