"""Rotary positions (arXiv 2104.09864), along a sequence or along the two axes of a grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROTARY_BASE = 10_000.0


def rotary_table(
    length: int,
    head_dim: int,
    columns: int | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Rotation angles' (cos, sin) of each position: (2, L, 1, 1, head_dim/2).

    Frequencies base^(−2i/d). In 2-D the first half of them turns with the row, the second half
    with the column (axial rotary), each half with the full range of frequencies.
    """
    position = torch.arange(length, dtype=dtype, device=device)
    axes = [position] if columns is None else [position // columns, position % columns]
    count = head_dim // (2 * len(axes))
    step = torch.arange(count, dtype=dtype, device=device) / count
    angle = torch.cat([axis[:, None] * ROTARY_BASE**-step for axis in axes], -1)
    return torch.stack([angle.cos(), angle.sin()])[:, :, None, None]


def rotate(vectors: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair (i, i + d/2) of (B, L, ..., d) vectors by its position's angle."""
    cos, sin = rotation
    if torch.compiler.is_compiling():
        first, second = vectors.chunk(2, -1)
        turned = [first * cos - second * sin, second * cos + first * sin]
        return torch.cat(turned, -1).to(vectors.dtype)
    return _Rotation.apply(vectors, cos, sin)


class _Rotation(torch.autograd.Function):
    """:func:`rotate` in two passes each way; what autograd records by itself takes twice as long.

    The gradient of a rotation is the rotation by the opposite angle.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(vectors, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, -sin), None, None


def _turn(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty_like(vectors)
    first, second = vectors.chunk(2, -1)
    out_first, out_second = out.chunk(2, -1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    return out
