"""What the students of a comparison ask of their teacher: a trial, a budget, and the cost."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fewjump.commands import distill

if TYPE_CHECKING:
    from fewjump.denoiser import Denoiser


def tried(
    student: distill.Options,
    known: dict[str, float],
    about: Any,
    given: distill.Given | None = None,
    started: Denoiser | None = None,
) -> float | None:
    """What one optimiser step asks of the teacher, in evaluations for each sequence of its batch.

    Found by a trial of a few steps. None for a student that asks nothing, or all before it trains.

    Args:
        student, given, started: as for :func:`~fewjump.commands.compare_training.check_student`,
            and refused alike.
        known: what trials found; this one is added.
        about: the teacher and the data, by what they hold.
    """
    from fewjump.train import read_metrics

    objective, training = distill.objective_of(student), student.training
    if not objective.needs_teacher or objective.coupled:
        return None
    rounds = len(objective.in_rounds())
    # How long, where and how visibly it is trained changes nothing.
    short = replace(training, steps=rounds, warmup=0, progress=False, monitor=False)
    training = replace(short, device=None)
    same = replace(student, out=Path(), start=student.start and Path(), training=training)
    key = hashlib.sha256(repr([same, about]).encode()).hexdigest()[:12]
    if key not in known:
        with TemporaryDirectory() as folder:
            trial = replace(student, out=Path(folder), training=short)
            if getattr(objective, "warmup", 0):
                # Its second network learns alone at first; what a step asks is the same then.
                trial = replace(trial, anchor=replace(student.anchor, warmup=0))
            with redirect_stdout(io.StringIO()):
                distill.run(trial, given=given, started=started)
            lines = [line for line in read_metrics(folder) if "loss" in line]
        known[key] = lines[-1]["teacher_evaluations"]
    return known[key]


def asks(student: distill.Options, asked: float | None) -> int:
    """What a student's training asks of the teacher, in evaluations of one sequence."""
    if distill.objective_of(student).coupled:
        # It asks before it trains, and then no more.
        rounds = len(distill.objective_of(student).in_rounds())
        return rounds * student.coupling.pairs * student.coupling.pair_steps
    return round((asked or 0.0) * student.training.batch_size * student.training.steps)


def steps_within(
    budget: int, student: distill.Options, asked: float | None, before: int = 0
) -> int:
    """As many optimiser steps of a student as its teacher evaluations allow.

    Args:
        budget: in evaluations of one sequence.
        student: its own steps where they ask nothing.
        asked: what a step does, of each sequence of its batch (:func:`tried`).
        before: of the budget, what the student that it starts at asked.

    Raises:
        ValueError: for a budget that is less than one step of each round.
    """
    from fewjump.progress import tell

    training = student.training
    objective = distill.objective_of(student)
    if not objective.needs_teacher:
        tell(
            f"{student.out}: --method {student.method} asks nothing of the teacher, so "
            f"teacher_evaluations sets no bound: it is trained for its own {training.steps:,} steps"
        )
        return training.steps
    rounds = len(objective.in_rounds())
    if objective.coupled:
        drawn = asks(student, None)
        if drawn + before > budget:
            raise ValueError(
                f"{student.out}: pairs: {student.coupling.pairs} take {drawn} evaluations of the "
                f"teacher, more than teacher_evaluations: {budget}{_after(before)}"
            )
        return training.steps
    if not asked:
        return training.steps
    steps = int((budget - before) / (asked * training.batch_size))
    if steps < rounds:
        raise ValueError(
            f"{student.out}: teacher_evaluations: {budget}{_after(before)} is less than the "
            f"{asked * training.batch_size * rounds:.0f} of its first steps"
        )
    return steps


def _after(before: int) -> str:
    """What the student that one starts at left of a budget."""
    if not before:
        return ""
    return (
        f" without the {before} that the student it starts at asks (give that one fewer "
        "teacher_evaluations of its own)"
    )


def cost_of(folder: Path) -> dict[str, Any]:
    """What a student took, all rounds together: optimiser steps, teacher evaluations, seconds.

    An evaluation is that of one sequence.
    """
    from fewjump.checkpoint import read_config
    from fewjump.runs import ROUNDS

    parts = [*sorted((folder / ROUNDS).glob("*")), folder]
    trainings = [read_config(part / "model")["training"] for part in parts]
    batch = trainings[-1]["batch_size"]
    return {
        "steps": sum(one["steps"] for one in trainings),
        "batch_size": batch,
        "teacher_evaluations": round(batch * sum(map(_asked, parts)) + sum(map(_drawn, trainings))),
        "seconds": round(sum(one["seconds"] or 0.0 for one in trainings), 1),
    }


def sum_of(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Costs (:func:`cost_of`) of a student and of what it started at, the student's first."""
    total = {key: sum(one[key] for one in costs) for key in ("steps", "teacher_evaluations")}
    seconds = round(sum(one["seconds"] for one in costs), 1)
    return {**costs[0], **total, "seconds": seconds}


def _drawn(training: Mapping[str, Any]) -> int:
    """How often a round asked its teacher before it trained: for the pairs that it learned."""
    objective = training["objective"]
    return objective.get("pairs", 0) * objective.get("pair_steps", 0)


def _asked(folder: Path) -> float:
    """How often a training asked its teacher for each sequence of a batch, over all steps."""
    from fewjump.train import read_metrics

    total, before = 0.0, 0
    for line in read_metrics(folder):
        if "loss" in line:
            # A line holds the mean over the steps since the last one.
            total += line.get("teacher_evaluations", 0.0) * (line["step"] - before)
            before = line["step"]
    return total
