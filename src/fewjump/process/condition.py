"""The condition of a kernel that is known only by its products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_POWER_STEPS = 40
_SETTLED = 1e-4


def largest_singular_value(square: Callable[[Tensor], Tensor], count: int, size: int) -> Tensor:
    """Largest singular value of A, approached from below by power iterations.

    Args:
        square: v ↦ v·A·Aᵀ for rows (N, V), or with the factors in the other order.
        count: N matrices at once.
        size: V.

    Returns:
        (N,) float64. At most 40 iterations, fewer once none changes by 1e-4 of itself.
    """
    source = torch.Generator().manual_seed(0)
    v = torch.rand(1, size, generator=source, dtype=torch.float64).expand(count, size) + 0.1
    length = torch.ones(count, dtype=torch.float64)
    for _ in range(_POWER_STEPS):
        v = square(v / v.norm(dim=-1, keepdim=True))
        before, length = length, v.norm(dim=-1)
        if bool(((length - before).abs() <= _SETTLED * length).all()):
            break
    return length.sqrt()
