"""``fewjump verify monitor-overhead``: what watching a distillation costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewjump.verify.checks import CheckOptions

if TYPE_CHECKING:
    from fewjump.verify.result import CheckResult


@dataclass
class Options(CheckOptions):
    """Time a distillation's steps and its monitors' looks, for three kinds of students.

    Processor time, so that other programs on the machine do not count. The share is that of the
    default settings: a look every 50 steps, and the first one, with the teacher's samples and its
    calibration, spread over 2000 steps.
    """

    hidden: int = 64
    """Width of the networks."""

    length: int = 64
    """Length of the sequences."""

    vocab_size: int = 27
    """Clean tokens."""

    repeats: int = 5
    """Times each is timed; the median counts."""


def run(options: Options) -> CheckResult:
    """Measure both and compare.

    Raises:
        ValueError: for sizes below 1.
    """
    if min(options.hidden, options.length, options.vocab_size, options.repeats) < 1:
        raise ValueError("--hidden, --length, --vocab-size and --repeats must be at least 1")
    rows = [_measure(kind, options) for kind in ("product", "chain", "autoregressive")]
    return _answer(rows, options)


def _measure(kind: str, options: Options) -> dict[str, Any]:
    import copy

    import torch

    from fewjump.denoiser.network import NetworkDenoiser
    from fewjump.objective import ConditionalMatching, JointConditionalMatching, freeze
    from fewjump.process import Absorbing
    from fewjump.random import SampleStreams, fold_seed
    from fewjump.schedule import LogLinear
    from fewjump.train.probe import Probe

    torch.manual_seed(options.seed)
    process = Absorbing(options.vocab_size + 1, LogLinear())
    described = {
        "process": process.config(),
        "trunk": {"hidden": options.hidden, "blocks": 3, "heads": 4, "conv_kernel": 5},
        "length": options.length,
    }
    teacher = NetworkDenoiser.from_config(described)
    student = NetworkDenoiser.from_config({**described, "head": {"kind": kind}})
    teacher.process = student.process = process
    student.train()
    freeze(teacher)
    objective = ConditionalMatching("forward") if kind == "product" else JointConditionalMatching()
    optimiser = torch.optim.AdamW(student.parameters())
    batch = torch.randint(options.vocab_size, (128, options.length))

    def step(number: int) -> None:
        streams = SampleStreams(fold_seed(options.seed, number), torch.arange(128))
        optimiser.zero_grad(set_to_none=True)
        objective(student, teacher, batch, streams)[0].backward()
        optimiser.step()

    def first(_: int) -> None:
        probe = Probe(student, teacher, length=options.length, seed=1, data=copy.copy(batch))
        probe.look()
        probe.calibration()

    watching = Probe(student, teacher, length=options.length, seed=1, data=batch)
    watching.look()
    step(0)
    return {
        "student": kind,
        "step": _median(step, options.repeats),
        "look": _median(lambda _: watching.look(), options.repeats),
        "first": _median(first, options.repeats),
    }


def _median(call: Any, repeats: int) -> float:
    """Median processor seconds of ``call(number)``."""
    import statistics
    import time

    seconds = []
    for number in range(repeats):
        begin = time.process_time()
        call(number + 1)
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds)


def share(row: dict[str, Any], log_every: int = 50, steps: int = 2000) -> float:
    """Time of the monitors over that of the training."""
    looks = steps / log_every * row["look"] + row["first"]
    return looks / (steps * row["step"])


def _answer(rows: list[dict[str, Any]], options: Options) -> CheckResult:
    from fewjump.report import Chart, KeyNumber, Reference, Series, Table
    from fewjump.verify.result import CheckResult

    limit = 0.03
    shares = {row["student"]: share(row) for row in rows}
    every = (5, 10, 20, 50, 100, 200)
    roles = ("teacher", "student", "data")
    largest = max(shares.values())
    words = ", ".join(f"{value:.2%} ({kind} student)" for kind, value in shares.items())
    return CheckResult(
        name="monitor-overhead",
        question="What does watching a distillation cost?",
        verdict=[
            f"With a line logged every 50 of 2000 steps the monitors take these shares of the "
            f"training's time: {words}; the limit is {limit:.0%}.",
            "Nearly all of it is the student's 32 draws at each log line, and once the teacher's "
            "32 samples of 32 steps. Log less often where that is dear, or give `monitor=False`.",
        ],
        rows=[row | {"share": shares[row["student"]]} for row in rows],
        charts=[
            Chart(
                "Time of the monitors, as a share of the training's",
                [
                    Series(row["student"], every, [share(row, k) for k in every], role=role)
                    for row, role in zip(rows, roles)
                ],
                [Reference("limit", limit)],
                "steps between log lines",
                "share of the time",
                log_y=True,
                better="lower",
            )
        ],
        tables=[
            Table(
                "Processor seconds",
                ("student", "training step", "a look", "the first look", "share"),
                [
                    (r["student"], r["step"], r["look"], r["first"], f"{shares[r['student']]:.2%}")
                    for r in rows
                ],
            )
        ],
        key_numbers=[KeyNumber(f"{largest:.1%}", "the dearest of the three")],
        settings={k: getattr(options, k) for k in ("hidden", "length", "vocab_size", "repeats")},
        failures=[
            f"{kind} student: the monitors take {value:.1%}, above {limit:.0%}"
            for kind, value in shares.items()
            if value > limit
        ],
    )


def main() -> None:
    """The committed result: ``python -m fewjump.verify.monitor_overhead``; under a minute."""
    from fewjump.verify.committed import commit_check

    commit_check("monitor-overhead", Options())


if __name__ == "__main__":
    main()
