"""Guidance: the logits of conditional^γ·unconditional^(1−γ), read row by row.

A class-conditional denoiser says p(x₀ⁱ|x_t, y) and, without the class, p(x₀ⁱ|x_t). Classifier-free
guidance by a scale γ draws from p_γ ∝ p(·|x_t, y)^γ·p(·|x_t)^(1−γ): the law of the class at γ = 1,
that without one at γ = 0, and beyond 1 sharper towards what tells the class apart
(arXiv 2412.10193, 2406.01572). For positions that are independent this is again a product law; what
it means for a step of a sampler is in :mod:`fewjump.sampler.guided_rates`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fewjump.law.base import Law
from fewjump.law.batched import SHARED
from fewjump.law.log_weights import nucleus, refuse_twice
from fewjump.law.logits import Clock, DenseLogits, Guidance, Logits
from fewjump.law.product import ProductLaw, as_product

JOINT = (
    "guidance combines laws position by position, and this model's is joint: leave it out (or at "
    "1), or take a student that was distilled with it, and has the scale as an input"
)


@dataclass(eq=False)
class GuidedLogits(Logits):
    """γ·conditional + (1−γ)·unconditional, computed as it is read.

    A token that either of the two excludes is impossible.

    Args:
        conditional, unconditional: of one shape, with the same positions visible.
        scale: (B,) floating point, γ ≥ 0 of each row.
        temperature, top_p: as in :meth:`fewjump.law.Law.tempered`, applied to the combination.
            Samplers then step by the combination, not by the two.
    """

    conditional: Logits
    unconditional: Logits
    scale: Tensor
    temperature: float = field(default=1.0, metadata=SHARED)
    top_p: float = field(default=1.0, metadata=SHARED)
    deferred = True

    def __post_init__(self) -> None:
        own = self.conditional
        self.batch_size, self.length, self.vocab_size = own.batch_size, own.length, own.vocab_size
        other = self.unconditional
        if (other.batch_size, other.length, other.vocab_size) != (
            self.batch_size,
            self.length,
            self.vocab_size,
        ):
            raise ValueError("conditional and unconditional laws must have one shape")
        self.visible, self.tokens = own.visible, own.tokens
        self.dtype = torch.promote_types(own.dtype, torch.promote_types(other.dtype, torch.float32))
        if not self._shaped:
            self.guidance = Guidance(own, other, self.scale)

    @property
    def recorded(self) -> bool:
        return self.conditional.recorded or self.unconditional.recorded

    @property
    def _shaped(self) -> bool:
        return self.temperature != 1 or self.top_p != 1

    def dense(self) -> Tensor:
        scale = self.scale[:, None, None]
        logits = self._combined(self.conditional.dense(), self.unconditional.dense(), scale)
        return nucleus(logits, self.temperature, self.top_p) if self._shaped else logits

    def read(self, index: Tensor | slice, out: Tensor | None = None) -> Tensor:
        if isinstance(index, slice):
            index = torch.arange(self.batch_size * self.length, device=self.device)[index]
        with torch.no_grad():
            rows = self._combined(
                self.conditional.read(index),
                self.unconditional.read(index),
                self.scale[index // self.length][:, None],
            )
            if self._shaped:
                rows = nucleus(rows, self.temperature, self.top_p)
        return rows if out is None else out.copy_(rows)

    def entries(self, index: Tensor, columns: Tensor) -> Tensor:
        if self._shaped:
            # What a nucleus holds depends on the whole row.
            return self.read(index).gather(1, columns)
        return self._combined(
            self.conditional.entries(index, columns),
            self.unconditional.entries(index, columns),
            self.scale[index // self.length][:, None],
        )

    def _combined(self, conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
        given, free = conditional.to(self.dtype), unconditional.to(self.dtype)
        impossible = (given == -torch.inf) | (free == -torch.inf)
        return torch.lerp(free, given, scale.to(self.dtype)).masked_fill(impossible, -torch.inf)

    def rows_at_once(self) -> int:
        return min(self.conditional.rows_at_once(), self.unconditional.rows_at_once())

    def plus(self, features: Tensor, weight: Tensor) -> GuidedLogits:
        return self._of_both("plus", features, weight)

    def tempered(self, temperature: float, top_p: float) -> GuidedLogits:
        refuse_twice(self.temperature, self.top_p)
        return replace(self, temperature=temperature, top_p=top_p)

    def given(self, x0: Tensor, known: Tensor) -> GuidedLogits:
        return self._of_both("given", x0, known)

    def detach(self) -> GuidedLogits:
        return self._of_both("detach")

    def timed(self, clock: Clock) -> GuidedLogits:
        return self._of_both("timed", clock)

    def _of_both(self, method: str, *arguments: object) -> GuidedLogits:
        parts = (self.conditional, self.unconditional)
        conditional, unconditional = (getattr(part, method)(*arguments) for part in parts)
        return replace(self, conditional=conditional, unconditional=unconditional)

    def replaced(self, rows: Tensor, other: Logits) -> Logits:
        # Rows whose scales are all 1, or all 0, come without the part that they do not need.
        return DenseLogits(self.dense().index_put((rows,), other.dense().to(self.dtype)))


def guided(conditional: Law, unconditional: Law, scale: Tensor) -> ProductLaw:
    """The product law ∝ conditional^γ·unconditional^(1−γ), position by position.

    Args:
        conditional, unconditional: product laws of one shape.
        scale: (B,) γ ≥ 0.

    Raises:
        ValueError: for joint laws, whose powers have no tractable normaliser.
    """
    if not (conditional.independent and unconditional.independent):
        raise ValueError(JOINT)
    parts = as_product(conditional).source, as_product(unconditional).source
    return ProductLaw(GuidedLogits(*parts, scale))
