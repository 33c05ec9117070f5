"""The perfect class-conditional network: an enumerated joint law of (class, sequence)."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.denoiser.base import Condition, Denoiser
from fewjump.law import ProductLaw
from fewjump.problem import EnumeratedJoint
from fewjump.process import Process


class ByClass(Denoiser):
    """Exact posteriors p(x₀|x_t, y), and p(x₀|x_t) for no class, as product laws.

    Args:
        tables: (K, V, ..., V) float64, p(x|y).
        weights: (K,) p(y).
    """

    def __init__(self, tables: Tensor, weights: Tensor, process: Process) -> None:
        laws = [*tables, torch.einsum("k...,k->...", tables, weights)]
        self_of = [EnumeratedJoint(law).denoiser(process) for law in laws]
        super().__init__(process, self_of[0].length)
        self.each = torch.nn.ModuleList(self_of)
        self.classes = tables.shape[0]
        self.time_conditioned = not process.absorbing

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        return self.each[-1].law(x_t, t)  # type: ignore[operator, return-value]

    def conditional_law(self, x_t: Tensor, t: Tensor, condition: Condition) -> ProductLaw:
        found = torch.stack([one.law(x_t, t).logits for one in self.each])  # type: ignore[operator]
        return ProductLaw(found[condition.labels, torch.arange(x_t.shape[0])])


def by_class(process: Process, vocab_size: int = 3, length: int = 2, classes: int = 2) -> ByClass:
    """With random p(x|y), positive everywhere, and unequal p(y)."""
    generator = torch.Generator().manual_seed(5)
    shape = (classes, vocab_size**length)
    tables = torch.rand(shape, generator=generator, dtype=torch.float64) ** 2 + 0.05
    tables = (tables / tables.sum(-1, keepdim=True)).reshape(classes, *(vocab_size,) * length)
    weights = torch.arange(1, classes + 1, dtype=torch.float64)
    return ByClass(tables, weights / weights.sum(), process)
