"""What the sequences of a training are conditioned on: a function of seed, step and place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewjump.denoiser.base import Condition, Denoiser
from fewjump.denoiser.condition import can_guide
from fewjump.law.guided import JOINT
from fewjump.random import SampleStreams, uniform

Numbers = Tensor | np.ndarray


@dataclass(frozen=True, eq=False)
class Conditions:
    """Classes and guidance scales of a training's sequences.

    Attributes:
        classes: K.
        labels: (N,) class of each sequence of the data; None draws classes evenly.
        scales: (N,) guidance scale that each sequence of the data was drawn with; None draws scales
            uniformly from ``guidance``.
        label_dropout: probability that a sequence is shown without its class, in [0, 1).
        guidance: least and largest scale that the teacher is guided by; None for no guidance.

    Raises:
        ValueError: for values out of range, or labels that are none of the classes.
    """

    classes: int
    labels: Tensor | None = None
    scales: Tensor | None = None
    label_dropout: float = 0.1
    guidance: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must lie in [0, 1), got {self.label_dropout}")
        if self.labels is not None:
            check_labels(self.labels, self.classes)
            object.__setattr__(self, "labels", self.labels.long())
        if self.scales is not None and self.guidance is not None:
            (low, high), scales = self.guidance, self.scales
            if not low <= float(scales.min()) <= float(scales.max()) <= high:
                raise ValueError(
                    f"the data were drawn with guidance from {float(scales.min()):g} to "
                    f"{float(scales.max()):g}, outside guidance from {low:g} to {high:g}"
                )

    def draw(self, seed: int, index: Tensor, rows: Tensor | None) -> Condition:
        """The condition of a part of a batch.

        Args:
            seed: of the step.
            index: (B,) int64 places in the whole batch.
            rows: (B,) int64 rows of the data; None without data.
        """
        streams, shape = SampleStreams(seed, index), index.shape
        dropped = uniform(shape, streams) < self.label_dropout
        evenly, between = uniform(shape, streams), uniform(shape, streams)
        if self.labels is not None and rows is not None:
            labels = self.labels[rows]
        else:
            labels = (evenly * self.classes).long().clamp(max=self.classes - 1)
        labels = torch.where(dropped, self.classes, labels)
        if self.guidance is None:
            return Condition(labels)
        low, high = self.guidance
        scale = low + (high - low) * between
        if self.scales is not None and rows is not None:
            scale = self.scales[rows]
        return Condition(labels, scale)

    def watched(self) -> Condition | None:
        """What monitors ask for, one for all rows: no class, where that is trained."""
        if not self.label_dropout:
            return None
        scale = None if self.guidance is None else torch.tensor([self.guidance[0]]).double()
        return Condition(torch.tensor([self.classes]), scale)

    def describe(self) -> dict[str, Any]:
        """Plain data that identify them."""
        return {
            "classes": self.classes,
            "label_dropout": self.label_dropout,
            "guidance": None if self.guidance is None else list(self.guidance),
            "labels": _fingerprint(self.labels),
            "scales": _fingerprint(self.scales),
        }

    def check(self, student: Denoiser, teacher: Denoiser | None, rows: int | None) -> None:
        """Raise ValueError if these models, or data of so many rows, do not go with them."""
        for name, model in (("student", student), ("teacher", teacher)):
            if model is not None and model.classes != self.classes:
                raise ValueError(
                    f"the {name} has {model.classes or 'no'} classes, the training {self.classes}"
                )
        for name, values in (("labels", self.labels), ("guidance scales", self.scales)):
            if values is not None and rows is not None and values.shape[0] != rows:
                raise ValueError(f"{values.shape[0]} {name} do not fit {rows} sequences")
        if teacher is None or self.guidance is None:
            return
        low, high = self.guidance
        if not can_guide(teacher, torch.tensor([low, high])):
            raise ValueError(JOINT)
        taken = teacher.guidance_range
        if taken is None:
            return
        if not taken[0] <= low <= high <= taken[1]:
            raise ValueError(
                f"the teacher takes guidance from {taken[0]:g} to {taken[1]:g} only, got "
                f"{low:g} to {high:g}"
            )


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise ValueError unless these are (N,) whole numbers in {0..classes−1}."""
    if labels.dim() != 1 or labels.is_floating_point() or not labels.numel():
        raise ValueError(
            f"labels must be (N,) whole numbers, one a sequence; got shape {tuple(labels.shape)} "
            f"of {labels.dtype}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"the data hold label {low if low < 0 else high}, but classes are 0..{classes - 1}; "
            f"give classes={high + 1} (--classes), or other labels"
        )


def conditions_for(
    classes: int | None,
    labels: Numbers | None,
    scales: Numbers | None = None,
    **options: Any,
) -> Conditions | None:
    """The conditions of a verb's training; None without classes.

    Args:
        classes: of the model; None for one without.
        labels, scales: (N,) of the data, or None.
        **options: of :class:`Conditions`.

    Raises:
        ValueError: as :class:`Conditions`, and for guidance without classes.
    """
    if classes is None:
        if options.get("guidance") is not None:
            raise ValueError(
                "guidance is for teachers with classes, and this one has none; train one with "
                "classes=… (--classes)"
            )
        return None
    own = None if labels is None else torch.as_tensor(labels).cpu()
    drawn = None if scales is None else torch.as_tensor(scales).cpu().double()
    return Conditions(classes, own, drawn, **options)


def _fingerprint(values: Tensor | None) -> Any:
    if values is None:
        return None
    mixed = values.double() @ torch.arange(1, values.shape[0] + 1).double()
    return [values.shape[0], float(mixed)]
