"""What watching a distillation costs, for three kinds of students.

Processor time, so that other programs on the machine do not count. The share is that of the
default settings: a look every 50 steps, and the first one, with the teacher's samples and its
calibration, spread over 2000 steps. Run as ``python -m experiments.monitor_overhead``; it writes
benchmarks/results/checks/monitor_overhead.json in under a minute.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from experiments.harness import Content, Options, main
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import ConditionalMatching, JointConditionalMatching, freeze
from fewjump.process import Absorbing
from fewjump.random import SampleStreams, fold_seed
from fewjump.report import Chart, KeyNumber, Reference, Role, Series, Table
from fewjump.schedule import LogLinear
from fewjump.train.diagnostics import Diagnostics
from fewjump.verify.checks import CheckResult

HIDDEN, LENGTH, VOCAB, REPEATS, BATCH = 64, 64, 27, 5, 128
KINDS: dict[str, Role] = {"product": "teacher", "chain": "student", "autoregressive": "data"}
LIMIT = 0.03


def timed(kind: str, seed: int, repeats: int = REPEATS) -> dict[str, Any]:
    """Median processor seconds of a training step, a look, and the first look."""
    torch.manual_seed(seed)
    process = Absorbing(VOCAB + 1, LogLinear())
    described = {
        "process": process.config(),
        "trunk": {"hidden": HIDDEN, "blocks": 3, "heads": 4, "conv_kernel": 5},
        "length": LENGTH,
    }
    teacher = NetworkDenoiser.from_config(described)
    student = NetworkDenoiser.from_config({**described, "head": {"kind": kind}})
    teacher.process = student.process = process
    student.train()
    freeze(teacher)
    joint = JointConditionalMatching(near="zero")
    objective = ConditionalMatching("forward") if kind == "product" else joint
    optimiser = torch.optim.AdamW(student.parameters())
    batch = torch.randint(VOCAB, (BATCH, LENGTH))

    def step(number: int) -> None:
        streams = SampleStreams(fold_seed(seed, number), torch.arange(BATCH))
        optimiser.zero_grad(set_to_none=True)
        objective(student, teacher, batch, streams)[0].backward()
        optimiser.step()

    def first(_: int) -> None:
        probe = Diagnostics(student, teacher, length=LENGTH, seed=1, data=copy.copy(batch))
        probe.look()
        probe.calibration()

    watching = Diagnostics(student, teacher, length=LENGTH, seed=1, data=batch)
    watching.look()
    step(0)
    return {
        "student": kind,
        "step": _median(step, repeats),
        "look": _median(lambda _: watching.look(), repeats),
        "first": _median(first, repeats),
    }


def _median(call: Callable[[int], object], repeats: int) -> float:
    seconds = []
    for number in range(repeats):
        begin = time.process_time()
        call(number + 1)
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds)


def share(row: Mapping[str, Any], log_every: int = 50, steps: int = 2000) -> float:
    """Time of the monitors over that of the training."""
    looks = steps / log_every * row["look"] + row["first"]
    return looks / (steps * row["step"])


def summarise(rows: Sequence[Mapping[str, Any]]) -> CheckResult:
    """The rows as a page's section; a share above 3% fails."""
    shares = {row["student"]: share(row) for row in rows}
    every = (5, 10, 20, 50, 100, 200)
    words = ", ".join(f"{value:.2%} ({kind} student)" for kind, value in shares.items())
    series = [
        Series(r["student"], every, [share(r, k) for k in every], role=KINDS[r["student"]])
        for r in rows
    ]
    chart = Chart(
        "Time of the monitors, as a share of the training's",
        series,
        [Reference("limit", LIMIT)],
        "steps between log lines",
        "share of the time",
        log_y=True,
        better="lower",
    )
    table = Table(
        "Processor seconds",
        ("student", "training step", "a look", "the first look", "share"),
        [
            (r["student"], r["step"], r["look"], r["first"], f"{shares[r['student']]:.2%}")
            for r in rows
        ],
    )
    return CheckResult(
        name="monitor-overhead",
        question="What does watching a distillation cost?",
        verdict=[
            f"With a line logged every 50 of 2000 steps the monitors take these shares of the "
            f"training's time: {words}; the limit is {LIMIT:.0%}."
        ],
        rows=[{**row, "share": shares[row["student"]]} for row in rows],
        charts=[chart],
        tables=[table],
        key_numbers=[KeyNumber(f"{max(shares.values()):.1%}", "the dearest of the three")],
        settings={"hidden": HIDDEN, "length": LENGTH, "vocab_size": VOCAB, "repeats": REPEATS},
        failures=[
            f"{kind} student: the monitors take {value:.1%}, above {LIMIT:.0%}"
            for kind, value in shares.items()
            if value > LIMIT
        ],
    )


def measure(config: Options) -> Content:
    """All kinds of students."""
    return summarise([timed(kind, config.seed) for kind in KINDS]).content()


if __name__ == "__main__":
    main("checks/monitor_overhead", Options, measure, __doc__)
