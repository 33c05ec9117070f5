"""The law that a position is redrawn from, by processes that forget what it held."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewjump.inversion import invert_shared_cdf, search
from fewjump.random import Generator, uniform


class RedrawLaw:
    """m, or π: the law that a position is redrawn from.

    Args:
        weights: (V,) float64, or (B, V) of each element of the batch.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(
        self, device: torch.device | str | None = None, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """The weights on a device, copied there once: (V,) or (B, V)."""
        key = self.weights.device if device is None else torch.device(device), dtype
        if key not in self._copies:
            # A copy made under inference mode could not take part in a later backward pass.
            with torch.inference_mode(False):
                self._copies[key] = self.weights.to(*key)
        return self._copies[key]

    def at(self, x: Tensor) -> Tensor:
        """m[x]: float64, same shape as ``x``."""
        table = self.on(x.device)
        if table.dim() == 1:
            return table[x]
        return table.gather(1, x.reshape(x.shape[0], -1)).reshape(x.shape)

    def beside(self, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """The weights shaped to broadcast with rows (B, ..., V) for states (B, ...)."""
        table = self.on(x.device, dtype)
        return table if table.dim() == 1 else table.reshape(len(table), *[1] * (x.dim() - 1), -1)

    def sample(
        self, shape: Sequence[int], generator: Generator, device: torch.device | str | None
    ) -> Tensor:
        """Tokens of ``shape``, int64."""
        u = uniform(shape, generator, device)
        table = self.on(u.device)
        if table.dim() == 1:
            return invert_shared_cdf(table, u)
        return search(table.cumsum(-1), u.reshape(u.shape[0], -1)).reshape(u.shape)


class UniformLaw(RedrawLaw):
    """All V tokens alike: drawn without a search."""

    def sample(
        self, shape: Sequence[int], generator: Generator, device: torch.device | str | None
    ) -> Tensor:
        size = len(self.weights)
        return (uniform(shape, generator, device) * size).long().clamp_(max=size - 1)


class CertainLaw(RedrawLaw):
    """One token: drawn without randomness."""

    def __init__(self, weights: Tensor, token: int) -> None:
        super().__init__(weights)
        self.token = token

    def sample(
        self, shape: Sequence[int], generator: Generator, device: torch.device | str | None
    ) -> Tensor:
        return torch.full(tuple(shape), self.token, dtype=torch.int64, device=device)
