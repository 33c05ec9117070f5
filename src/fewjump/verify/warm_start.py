"""``fewjump verify warm-start``: what starting the student at the teacher is worth."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewjump.options.matching import Intermediate
from fewjump.report import KeyNumber, Role, Series, short
from fewjump.verify.checks import (
    CheckResult,
    ModelCheck,
    Rows,
    chart,
    distinct,
    interval,
    line,
    mean,
    of_seeds,
    pick,
    pivot,
    plus_minus,
)

if TYPE_CHECKING:
    from fewjump.denoiser import Denoiser
    from fewjump.verify.subjects import Subject

STARTS: dict[str, tuple[str, Role]] = {
    "teacher": ("from the teacher's weights", "student"),
    "random": ("from random weights", "other"),
}


@dataclass
class WarmStart(ModelCheck):
    """Distil from the teacher's weights and from random ones: loss and quality as they train.

    A small transformer teacher is trained on a Markov chain whose posterior is known, then
    distilled twice with the same data and noise. With --model, a saved teacher is distilled
    instead, judged by how surprised its student is by true tokens.

    Attributes:
        matching: how x_s is drawn.
        steps: optimiser steps of the students.
        teacher_steps: optimiser steps of the teacher.
    """

    name = "warm-start"
    about = "what starting the student at the teacher is worth"
    question = "What is starting the student at the teacher worth?"

    matching: Intermediate = "forward"
    steps: int = 320
    teacher_steps: int = 400

    def validate(self) -> None:
        super().validate()
        if self.steps < 8 or self.teacher_steps < 1:
            raise ValueError("--steps must be at least 8, --teacher-steps at least 1")

    def measure(self) -> list[dict[str, Any]]:
        from fewjump.verify.subjects import chain_subject, saved_subject

        rows: list[dict[str, Any]] = []
        for seed in self.all_seeds():
            subject = (
                chain_subject(seed, self.teacher_steps)
                if self.model is None
                else saved_subject(self, seed)
            )
            rows += both_starts(subject, self.matching, self.steps, seed)
        return rows

    def answer(self, rows: Rows) -> CheckResult:
        unit, last = rows[0]["unit"], max(row["step"] for row in rows)
        teacher = mean(row["quality"] for row in pick(rows, start="teacher itself"))
        warm, cold = (curve(rows, start, "quality") for start in STARTS)
        reached = steps_to_reach(rows, "random", teacher)
        behind, half = lead(rows, last)
        many = len(distinct(rows, "seed")) > 1
        told = (
            "one seed tells no difference"
            if not many
            else "the warm start is better"
            if behind > half
            else "the random start is better"
            if behind < -half
            else "no difference can be told"
        )
        ahead = [s for s in warm.x if many and lead(rows, int(s))[0] > lead(rows, int(s))[1]]
        verdict = [
            f"**Started at the teacher** ({short(teacher)}) the student is at {short(warm.y[-1])} "
            f"after {last} steps (best: {short(min(warm.y))}); **started at random**, which is "
            f"{short(cold.y[0])}, at {short(cold.y[-1])} ({unit}).",
            f"The random start is where the warm one begins after {reached} steps."
            if reached is not None
            else f"In {last} steps the random start does not get to where the warm one begins.",
            f"After {last} steps it is behind by {short(behind)}"
            + (f" ± {short(half)}" if many else "")
            + f": {told}."
            + (
                f" The lead is beyond the seeds' differences up to step {ahead[-1]}."
                if ahead
                else ""
            ),
        ]
        charts = []
        for key, y_label in (("quality", unit), ("loss", "cross-entropy, nats")):
            series = []
            for start in STARTS:
                found = curve(rows, start, key)
                # A logarithmic axis has no 0; half the first checkpoint stands for the start.
                xs = [step or 2.5 for step in found.x]
                series.append(replace(found, x=xs, low=[max(0.0, v) for v in found.low or ()]))
            marks = {"the teacher itself": teacher} if key == "quality" else {}
            title = f"{key.capitalize()} as the students train"
            x_label = "optimiser steps (leftmost: before the first)" if marks else "optimiser steps"
            charts.append(chart(title, series, x_label, y_label, "xy", marks))
        table = pivot(
            f"Quality ({unit})",
            rows,
            "start",
            {start: label for start, (label, _) in STARTS.items()},
            {f"step {step}": {"step": step} for step in warm.x},
            lambda cell: plus_minus([row["quality"] for row in cell]),
            "student",
        )
        return self.result(
            rows,
            verdict,
            charts,
            tables=[table],
            key_numbers=[
                KeyNumber(short(warm.y[-1]), "the warm start, in the end"),
                KeyNumber(short(cold.y[-1]), "the random start, in the end"),
            ],
        )


def checkpoints(steps: int) -> list[int]:
    """When quality is judged: 0, and doubling from 5 to the last step."""
    found, step = [0], 5
    while step < steps:
        found.append(step)
        step *= 2
    return [*found, steps]


def both_starts(
    subject: Subject, matching: Intermediate, steps: int, seed: int
) -> list[dict[str, Any]]:
    """Rows of both students at each checkpoint: the loss since the last one, and the quality.

    Both see the same batches, times and noise, at a constant learning rate after a warm-up.
    """
    import torch

    from fewjump.objective import ConditionalMatching
    from fewjump.random import generator_for

    def row(start: str, step: int, loss: float | None, denoiser: Denoiser) -> dict[str, Any]:
        with torch.no_grad():
            quality = subject.judge(denoiser.eval(), seed)
        denoiser.train(start in STARTS)
        about = {"start": start, "seed": seed, "step": step, "unit": subject.unit}
        return {**about, "loss": loss, "quality": quality}

    students = {"teacher": subject.warm(), "random": subject.cold()}
    rows = [row("teacher itself", 0, None, subject.teacher)]
    for start, student in students.items():
        rows.append(row(start, 0, None, student))
        losses: list[float] = []
        training = subject.distil(
            student,
            ConditionalMatching(matching),
            generator_for(seed, 40),
            steps,
            lr=lambda step: min(1.0, (step + 1) / 20),
            clip=1.0,
        )
        for step, (loss, _) in enumerate(training, 1):
            losses.append(loss)
            if step in checkpoints(steps):
                rows.append(row(start, step, statistics.fmean(losses), student))
                losses = []
    return rows


def curve(rows: Rows, start: str, key: str) -> Series:
    """A student's number against the step, over the seeds, at the steps that have it."""
    label, role = STARTS[start]
    mine = [row for row in pick(rows, start=start) if row[key] is not None]
    return line(mine, "step", of_seeds(key), label, role)


def steps_to_reach(rows: Rows, start: str, target: float) -> int | None:
    """The first checkpoint at which the mean quality is at most the target; None if none is."""
    found = curve(rows, start, "quality")
    return next((int(s) for s, m in zip(found.x, found.y) if m <= target), None)


def lead(rows: Rows, step: int) -> tuple[float, float]:
    """By how much the random start is behind at a step: mean over seeds and half-width."""
    at = {(row["start"], row["seed"]): row["quality"] for row in pick(rows, step=step)}
    return interval([at["random", s] - at["teacher", s] for s in distinct(rows, "seed")])
