"""Two students of one teacher: one starts at its weights, one at random."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import ConditionalMatching, CrossEntropyELBO, freeze
from fewjump.objective.conditional import Intermediate
from fewjump.problem import MarkovChain
from fewjump.process import Uniform
from fewjump.random import fold_seed, generator_for
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train
from fewjump.verify.verdicts import half_width

_VOCAB, _LENGTH, _SAMPLES = 8, 8, 128
_TIMES = tuple(k / 8 for k in range(1, 9))


class Subject(NamedTuple):
    """What is distilled.

    Attributes:
        teacher: frozen.
        cold: makes a student of the teacher's sizes with random weights.
        data: (N, L) clean tokens to train on.
        judge: quality of a denoiser; less is better.
        unit: of the judgement.
        batch_size, lr: of the students' training.
    """

    teacher: Denoiser
    cold: Callable[[], Denoiser]
    data: Tensor
    judge: Callable[[Denoiser], float]
    unit: str
    batch_size: int = 64
    lr: float = 1e-3


def chain_subject(seed: int, teacher_steps: int) -> Subject:
    """A small transformer trained on a Markov chain of 8 tokens and 8 positions."""
    chain = MarkovChain.random(_VOCAB, _LENGTH, concentration=0.4, generator=generator_for(seed, 1))
    process = Uniform(_VOCAB, LogLinear())
    described = {
        "process": process.config(),
        "trunk": {"hidden": 32, "blocks": 2, "heads": 2, "conv_kernel": 3},
        "length": _LENGTH,
    }

    def fresh(part: int) -> NetworkDenoiser:
        torch.manual_seed(fold_seed(seed, part))
        model = NetworkDenoiser.from_config(described)
        model.process = process
        return model

    data = chain.sample(20_000, generator_for(seed, 2))
    config = TrainConfig(
        steps=teacher_steps,
        batch_size=64,
        lr=3e-3,
        ema=0.98,
        seed=seed,
        log_every=teacher_steps,
        progress=False,
    )
    teacher = freeze(train(fresh(5), CrossEntropyELBO(), data, config).averaged())
    exact = chain.denoiser(process)
    judged = [
        (t, process.corrupt(chain.sample(_SAMPLES, g), 0.0, t, g))
        for t, g in ((t, generator_for(seed, 30 + k)) for k, t in enumerate(_TIMES))
    ]
    truths = [exact(x_t, t).marginals() for t, x_t in judged]

    def judge(denoiser: Denoiser) -> float:
        total = 0.0
        for (t, x_t), truth in zip(judged, truths):
            guess = denoiser(x_t, t).marginals().double().clamp(min=1e-30)
            total += float((torch.xlogy(truth, truth) - truth * guess.log()).sum(-1).mean())
        return total / len(judged)

    unit = "KL from the exact posterior, nats per position"
    return Subject(teacher, lambda: fresh(6), data, judge, unit)


def saved_subject(
    path: Path, source: str | None, seed: int, reading: Mapping[str, Any] | None = None
) -> Subject:
    """A user's model, on its own data or samples; ``reading`` as for ``open_saved``.

    Raises:
        ValueError: if its kind cannot be built afresh from its description.
    """
    from fewjump.verify.saved_model import open_saved, surprise, tokens_for

    saved = open_saved(path, reading)
    model = saved.denoiser
    warm = model.as_student()
    build = getattr(type(warm), "from_config", None)
    describe = getattr(warm, "config", None)
    if build is None or describe is None:
        raise ValueError(
            f"a {type(model).__name__} cannot be built with random weights from its description"
        )
    data = tokens_for(saved, source, count=1024, seed=seed)
    held_out, training = data[: len(data) // 4], data[len(data) // 4 :]

    def cold() -> Denoiser:
        torch.manual_seed(fold_seed(seed, 6))
        fresh = build(describe())
        fresh.process = model.process
        return fresh

    return Subject(
        freeze(copy.deepcopy(model)),
        cold,
        training,
        lambda denoiser: surprise(denoiser, held_out, seed),
        "nats per position, of true tokens",
        lr=3e-4,
    )


def checkpoints(steps: int) -> list[int]:
    """When quality is judged: 0, and doubling from 5 to the last step."""
    found, step = [0], 5
    while step < steps:
        found.append(step)
        step *= 2
    return [*found, steps]


def measure(
    subject: Subject, matching: Intermediate, steps: int, seed: int
) -> list[dict[str, Any]]:
    """Rows of both students at each checkpoint: the loss since the last one, and the quality.

    Both see the same batches, times and noise, at a constant learning rate after a warm-up.
    """
    rows: list[dict[str, Any]] = [
        {"start": "teacher itself", "seed": seed, "step": 0, "loss": None}
        | {"quality": _judge(subject, subject.teacher), "unit": subject.unit}
    ]
    for start in ("teacher", "random"):
        student = subject.teacher.as_student() if start == "teacher" else subject.cold()
        student.train()
        optimiser = torch.optim.Adam(student.parameters(), subject.lr)
        objective, generator = ConditionalMatching(matching), generator_for(seed, 40)
        marks, losses = checkpoints(steps), []
        for step in range(steps + 1):
            if step in marks:
                rows.append(
                    {"start": start, "seed": seed, "step": step}
                    | {"loss": math.fsum(losses) / len(losses) if losses else None}
                    | {"quality": _judge(subject, student), "unit": subject.unit}
                )
                losses = []
            if step == steps:
                break
            for group in optimiser.param_groups:
                group["lr"] = subject.lr * min(1.0, (step + 1) / 20)
            index = torch.randint(len(subject.data), (subject.batch_size,), generator=generator)
            optimiser.zero_grad(set_to_none=True)
            loss, _ = objective(student, subject.teacher, subject.data[index], generator)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
    return rows


@torch.no_grad()
def _judge(subject: Subject, denoiser: Denoiser) -> float:
    training = denoiser.training
    value = subject.judge(denoiser.eval())
    denoiser.train(training)
    return value


class Curve(NamedTuple):
    """A student's number against the step: means, ends of Student's 95% intervals over seeds."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(rows: Sequence[Mapping[str, Any]], start: str, key: str) -> Curve:
    """Averages of ``key`` over the seeds, at the steps that have it."""
    mine = [r for r in rows if r["start"] == start and r[key] is not None]
    steps = sorted({r["step"] for r in mine})
    values = [[r[key] for r in mine if r["step"] == s] for s in steps]
    means, halves = [math.fsum(v) / len(v) for v in values], [half_width(v) for v in values]
    return Curve(
        steps,
        means,
        [m - h for m, h in zip(means, halves)],
        [m + h for m, h in zip(means, halves)],
    )


def steps_to_reach(rows: Sequence[Mapping[str, Any]], start: str, target: float) -> int | None:
    """The first checkpoint at which the mean quality is at most the target; None if none is."""
    found = curve(rows, start, "quality")
    return next((s for s, m in zip(found.steps, found.mean) if m <= target), None)
