"""Processor time and peak memory of recovery and of a distillation step, by vocabulary."""

from __future__ import annotations

import copy
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
_TIME, _LONG_ENOUGH = 0.5, 0.2


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
