"""What a law is asked for beside (x_t, t): a class, and how strongly it is to guide.

Classifier-free guidance (arXiv 2207.12598, for discrete states 2412.10193): a network is trained
with the class and, where it was dropped, without; the number after the last class stands for *no
class*. A denoiser that has classes is called with a :class:`~fewjump.denoiser.base.Condition` as a
third argument, or through :meth:`~fewjump.denoiser.Denoiser.conditioned`, whose result is a
denoiser like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewjump.denoiser.base import Condition, Denoiser
from fewjump.law.base import Law
from fewjump.law.guided import JOINT, guided
from fewjump.schedule import Time, as_time

# Beyond it guided logits run out of range.
LARGEST_SCALE = 1e6


class ConditionedDenoiser(Denoiser):
    """A denoiser with the classes of its rows: what samplers, objectives and meters are given.

    Args:
        inner: with classes.
        condition: of the batch it is asked about, or one for all rows.
    """

    def __init__(self, inner: Denoiser, condition: Condition) -> None:
        super().__init__(inner.process, inner.length, inner.clean_vocab_size)
        self.inner = inner
        self.condition = condition
        self.take_after(inner)
        self.training = inner.training

    @property
    def unconditioned(self) -> Denoiser:
        return self.inner

    def rows(self, index: Tensor) -> ConditionedDenoiser:
        assert self.condition is not None
        return ConditionedDenoiser(self.inner, self.condition.rows(index))

    def forward(self, x_t: Tensor, t: Time, condition: Condition | None = None) -> Law:
        if condition is not None:
            raise ValueError("this denoiser is conditioned already; condition its .unconditioned")
        before = self.inner.evaluations
        law = self.law(x_t, as_time(t, x_t.device).double().expand(x_t.shape[0]))
        self.evaluations += self.inner.evaluations - before
        return law

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        assert self.condition is not None
        return ask(self.inner, x_t, t, self.condition.expand(x_t.shape[0]))


def ask(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition | None) -> Law:
    """The law under a condition: two evaluations where it is guided, one where that is not needed.

    One is needed at scale 1 (the class's own law), at scale 0 (no class), and of a network that
    takes the scale as an input.

    Args:
        denoiser: evaluated.
        x_t: (B, L) int64.
        t: () or (B,).
        condition: of B rows; None for a denoiser without classes.
    """
    if condition is None:
        return denoiser(x_t, t)
    scale = condition.scale
    if scale is None or denoiser.guidance_range is not None:
        return denoiser(x_t, t, condition)
    own = Condition(condition.labels)
    if bool((scale == 1).all()):
        return denoiser(x_t, t, own)
    free = Condition(torch.full_like(condition.labels, denoiser.classes or 0))
    if bool((scale == 0).all()):
        return denoiser(x_t, t, free)
    return guided(denoiser(x_t, t, own), denoiser(x_t, t, free), scale)


def can_guide(denoiser: Denoiser, scale: Tensor) -> bool:
    """Whether scales may be asked of a denoiser, as far as it is known before it is evaluated.

    Laws that are known to be joint have no powers; at scales 1 and 0 none is taken.
    """
    takes = not denoiser.joint or denoiser.guidance_range is not None
    return takes or bool((scale == 1).all() or (scale == 0).all())


def conditioned(
    denoiser: Denoiser,
    label: Tensor | Sequence[int] | int,
    guidance: Tensor | Sequence[float] | float | None = None,
) -> ConditionedDenoiser:
    """See :meth:`fewjump.denoiser.Denoiser.conditioned`."""
    condition = make_condition(denoiser, label, guidance)
    assert condition is not None
    return ConditionedDenoiser(denoiser, condition)


def make_condition(
    denoiser: Denoiser,
    label: Tensor | Sequence[int] | int | None,
    guidance: Tensor | Sequence[float] | float | None = None,
    rows: int | None = None,
) -> Condition | None:
    """Validate labels and guidance; None for a denoiser without classes.

    Args:
        denoiser: whose classes are meant.
        label: a class, or (N,) classes, one a row; the number of classes stands for none.
        guidance: scale γ ≥ 0, or (N,) of them; None for 1.
        rows: N, where the condition is to have as many rows.

    Raises:
        ValueError: for labels out of range or of another number of rows, none for a denoiser that
            has classes, some for one that has not, and scales that are negative, that the network
            was not trained for, or that its joint laws cannot be guided by.
    """
    classes = denoiser.classes
    if classes is None:
        if label is not None or guidance is not None:
            name = "label" if label is not None else "guidance"
            raise ValueError(
                f"{name} is for models with classes, and this one has none; leave it out, or train "
                "one with classes=… (--classes)"
            )
        return None
    if label is None:
        raise ValueError(
            f"this model has {classes} classes: give label=0 to {classes - 1}, or {classes} for no "
            "class in particular"
        )
    labels = torch.as_tensor(label, device=denoiser.device)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers, got {labels.dtype}")
    labels = _column(labels.long(), "label", rows)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > classes:
        raise ValueError(
            f"label must lie in 0..{classes - 1} (or be {classes}, for no class), got "
            f"{low if low < 0 else high}"
        )
    trained = denoiser.guidance_range
    if guidance is None and trained is not None and not trained[0] <= 1 <= trained[1]:
        raise ValueError(
            f"this student takes a guidance scale from {trained[0]:g} to {trained[1]:g}: give "
            "guidance=… (--guidance)"
        )
    if guidance is None:
        return Condition(labels)
    scale = torch.as_tensor(guidance, dtype=torch.float64, device=denoiser.device)
    scale = _column(scale, "guidance", rows)
    if not bool(((scale >= 0) & (scale <= LARGEST_SCALE)).all()):
        raise ValueError(f"guidance must lie between 0 and {LARGEST_SCALE:g}, got {guidance}")
    if trained is not None and not bool(((trained[0] <= scale) & (scale <= trained[1])).all()):
        raise ValueError(
            f"this student was trained for guidance from {trained[0]:g} to {trained[1]:g}, got "
            f"{guidance}"
        )
    if not can_guide(denoiser, scale):
        raise ValueError(JOINT)
    count = max(labels.shape[0], scale.shape[0])
    return Condition(labels.expand(count), scale.expand(count))


def _column(values: Tensor, name: str, rows: int | None) -> Tensor:
    values = values.reshape(1) if values.dim() == 0 else values
    if values.dim() != 1 or not values.numel() or (rows and values.shape[0] not in (1, rows)):
        asked = "one number, or one a row" if rows is None else f"one number, or {rows}"
        raise ValueError(f"{name} must be {asked}; got shape {tuple(values.shape)}")
    return values if rows is None else values.expand(rows)
