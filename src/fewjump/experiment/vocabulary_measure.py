"""Processor time and peak memory of recovery and of a distillation step, by vocabulary."""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from fewjump.schedule import LogLinear

RANK, TARGETS = 8, 8
_BATCH, _LENGTH, _HIDDEN = 2, 8, 32
_TIME, _QUICK = 0.5, 1 << 13


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
    if family == "sparse rate":
        return TimeVaryingRate(
            SummedRates([sparse_rate(vocab_size, source)], [0, 1], [[1], [1]]),
            schedule,
            tolerance=1e-8,
            route="action",
        )
    raise ValueError(f"unknown family {family!r}")


def sparse_rate(vocab_size: int, source: torch.Generator) -> Tensor:
    """Rate 1 in all from every token to 8 others, drawn at random, one of them the next: (V, V)."""
    state = torch.arange(vocab_size)
    steps = torch.randint(1, vocab_size, (TARGETS, vocab_size), generator=source)
    steps[0] = 1
    rows = state.repeat(TARGETS)
    columns = ((state + steps) % vocab_size).reshape(-1)
    values = torch.full((rows.shape[0],), 1 / TARGETS, dtype=torch.float64)
    indices = torch.stack([torch.cat([rows, state]), torch.cat([columns, state])])
    values = torch.cat([values, -torch.ones(vocab_size, dtype=torch.float64)])
    return torch.sparse_coo_tensor(indices, values, (vocab_size, vocab_size)).coalesce()


def measure(
    families: Sequence[str], sizes: Sequence[int], repeats: int, seed: int
) -> list[dict[str, Any]]:
    """A row per family and vocabulary: ``recovery`` and ``step``, seconds and bytes of each.

    Recovery: 16 positions by the closed form, at t = ½. Step: loss, gradients and AdamW of a
    transformer of width 32 on 2×8 positions, forward pairs, with a teacher of its size.
    """
    rows = []
    for family in families:
        for size in sizes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                process = make_process(family, size, seed)
            recover, step = recovery_of(process, seed), step_of(process, seed)
            row: dict[str, Any] = {"family": family, "vocab_size": size}
            for name, call in (("recovery", recover), ("step", step)):
                # What takes long is neither warmed up nor repeated.
                quick = size <= _QUICK
                if quick:
                    call()
                row[f"{name}_seconds"] = quickest(call, repeats if quick else 1)
                row[f"{name}_bytes"] = peak_bytes(call)
            rows.append(row)
    return rows


def recovery_of(process: Process, seed: int) -> Callable[[], object]:
    """Recovery of the posteriors of 16 positions, ready to be called."""
    size, source = process.vocab_size, generator_for(seed, 1)
    law = torch.rand(size, generator=source, dtype=torch.float64) ** 4
    if process.mask is not None:
        law[process.mask] = 0
    noised = process.push_weights((law / law.sum())[None, None], _TIME)[0, 0]
    x_t = torch.multinomial(noised, _BATCH * _LENGTH, True, generator=source)[None]
    ratios = noised / noised[x_t][..., None]
    x_t_time = torch.tensor(_TIME, dtype=torch.float64)

    def call() -> object:
        likelihood = process.likelihood(x_t, x_t_time)
        return likelihood * process.weights_from_ratios(ratios, x_t_time)

    return call


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
    """Least processor seconds of a call."""
    found = []
    for _ in range(repeats):
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


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Least-squares exponent of a power law in V."""
    xs, ys = [math.log(v) for v in sizes], [math.log(max(v, 1e-12)) for v in values]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mx) ** 2 for x in xs)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / spread


def refusals(vocab_size: int) -> list[dict[str, Any]]:
    """What the dense route says where V×V entries would not fit: a row per thing asked for."""
    schedule, time_ = LogLinear(), 0.5
    sparse = make_process("sparse rate", 512, 0)
    asked: dict[str, Callable[[], object]] = {
        "Uniform.kernel": lambda: Uniform(vocab_size, schedule).kernel(0.0, time_),
        "LowRankRate.kernel": lambda: make_process("low-rank rate", vocab_size, 0).kernel(0, time_),
        "Absorbing.base_rate": lambda: Absorbing(vocab_size, schedule).base_rate(),
        "discretised_gaussian_rate": lambda: discretised_gaussian_rate(vocab_size),
        "batched sparse kernel": lambda: sparse.kernel(
            torch.zeros(2048, dtype=torch.float64), torch.full((2048,), time_).double()
        ),
    }
    rows = []
    for name, call in asked.items():
        try:
            call()
        except ValueError as error:
            rows.append({"asked": name, "vocab_size": vocab_size, "said": str(error)})
        else:
            rows.append({"asked": name, "vocab_size": vocab_size, "said": None})
    return rows
