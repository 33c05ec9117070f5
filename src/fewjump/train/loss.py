"""An objective as a module, with what it returned checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewjump.denoiser.base import Condition, Denoiser
from fewjump.denoiser.condition import ConditionedDenoiser
from fewjump.objective.base import Metrics, Objective
from fewjump.random import SampleStreams


class Loss(nn.Module):
    """Student and objective as one module, which is what DDP wraps.

    Beside the objective's metrics it says how often the teacher was asked: ``teacher_evaluations``,
    for each sequence of the batch.
    """

    def __init__(self, student: Denoiser, teacher: Denoiser | None, objective: Objective) -> None:
        super().__init__()
        self.student = student
        # In a tuple the teacher is not a submodule: it is neither trained nor synchronised.
        self.fixed = (teacher, objective)

    def forward(
        self, batch: Tensor, generator: SampleStreams, condition: Condition | None = None
    ) -> tuple[Tensor, Metrics]:
        teacher, objective = self.fixed
        student, asked = self.student, teacher
        if condition is not None:
            student = ConditionedDenoiser(student, condition)
            asked = None if teacher is None else ConditionedDenoiser(teacher, condition)
        if teacher is None:
            return checked(objective, objective(student, None, batch, generator))
        rows = 0

        def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            nonlocal rows
            rows += given[0].shape[0]

        hook = teacher.register_forward_pre_hook(count)
        try:
            loss, metrics = checked(objective, objective(student, asked, batch, generator))
        finally:
            hook.remove()
        share = torch.tensor(rows / batch.shape[0], dtype=torch.float64, device=batch.device)
        return loss, {**metrics, "teacher_evaluations": share}


def checked(objective: Objective, found: Any) -> tuple[Tensor, Metrics]:
    """What an objective returned, if it is a loss to train by and metrics.

    Raises:
        TypeError: if it is not, with what it should be.
    """
    say = f"{type(objective).__name__} must return (loss, metrics)"
    if not (isinstance(found, tuple) and len(found) == 2):
        raise TypeError(f"{say}, got a {type(found).__name__}")
    loss, metrics = found
    if not isinstance(loss, Tensor) or loss.shape != () or not loss.requires_grad:
        raise TypeError(
            f"{say}: a loss of shape () with gradients to the student's parameters; average over "
            "the batch, and detach nothing on the way"
        )
    if not (isinstance(metrics, Mapping) and all(_is_number(one) for one in metrics.values())):
        raise TypeError(f"{say}: metrics by name, each a tensor of shape ()")
    return loss, dict(metrics)


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == ()
