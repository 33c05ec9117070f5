"""Which positions a position attends to, and how it knows where they are.

None that is padding, and none of another document. Documents that share a row are told apart by a
separator, which ends the document it stands in. A process that keeps the separator shows it in
every x_t, so that teacher, student, loss and sampler cut a row in the same places.

Rotary positions (arXiv 2104.09864) run along a sequence or along the two axes of a grid. They are
relative: a document has the same features wherever in a row it stands.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


class AttentionMask(NamedTuple):
    """Which positions of a batch a position sees; None means all.

    Attributes:
        real: (B, L) positions that are not padding; all of a row that is nothing else.
        mask: for attention, (B, 1, 1, L) or (B, 1, L, L): whether a query sees a key.
        near: (B, L, k) whether position i sees position i + j − ⌊k/2⌋, for local mixing; only with
            documents.
    """

    real: Tensor | None = None
    mask: Tensor | None = None
    near: Tensor | None = None


def seen(x_t: Tensor, padding: int) -> Tensor:
    """Positions (B, L) that are not padding; all of a row that is nothing else."""
    real = x_t != padding
    return real | ~real.any(-1, keepdim=True)


def attention_mask(
    x_t: Tensor, padding: int | None, separator: int | None, width: int = 0
) -> AttentionMask:
    """What each position of a batch sees.

    Args:
        x_t: (B, L) int64.
        padding: token of positions that nobody sees, or None.
        separator: token that ends a document, or None for rows of one document.
        width: k of the local mixing, 0 for none.
    """
    real = None if padding is None else seen(x_t, padding)
    if separator is None:
        return AttentionMask(real, None if real is None else real[:, None, None, :])
    number = document_numbers(x_t, separator)
    same = number[:, :, None] == number[:, None, :]
    if real is not None:
        # Padding behind a last separator has nobody to see but itself, and no key at all is NaN.
        own = torch.eye(x_t.shape[1], dtype=torch.bool, device=x_t.device)
        same = same & real[:, None, :] | own
    near = None
    if width:
        around = F.pad(number, (width // 2, width // 2), value=-1).unfold(1, width, 1)
        near = around == number[..., None]
    return AttentionMask(real, same[:, None], near)


def document_numbers(x: Tensor, separator: int) -> Tensor:
    """Which document of its row a position belongs to, from 0: (B, L) int64 → (B, L) int64."""
    ends = (x == separator).long()
    return ends.cumsum(-1) - ends


def mix_near(h: Tensor, weight: Tensor, near: Tensor | None = None) -> Tensor:
    """Depthwise convolution over the positions that are seen: (B, L, D), (D, k) → (B, L, D)."""
    width = weight.shape[-1]
    wide = F.pad(h, (0, 0, width // 2, width // 2))
    total = torch.zeros_like(h)
    for offset in range(width):
        part = wide[:, offset : offset + h.shape[1]] * weight[:, offset]
        total = total + (part if near is None else part * near[..., offset, None])
    return total


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of (B, H, L, d) heads, in their precision.

    On a CPU bfloat16 is computed in float32: the backward pass of the fused kernel is up to three
    times as slow in bfloat16 there, for sequences below 500 tokens.
    """
    if q.dtype != torch.bfloat16 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask)
    with torch.autocast("cpu", enabled=False):
        wide = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask)
    return wide.to(q.dtype)


ROTARY_BASE = 10_000.0


def rotary_table(
    length: int,
    head_dim: int,
    columns: int | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What :func:`rotate` turns each position by: (2, L, 1, 1, head_dim).

    The cosines of the angles, for both halves of a head, and their sines, −sin for the first half.
    Frequencies base^(−2i/d). In 2-D the first half of them turns with the row, the second half
    with the column (axial rotary), each half with the full range of frequencies.
    """
    position = torch.arange(length, dtype=dtype, device=device)
    axes = [position] if columns is None else [position // columns, position % columns]
    count = head_dim // (2 * len(axes))
    step = torch.arange(count, dtype=dtype, device=device) / count
    angle = torch.cat([axis[:, None] * ROTARY_BASE**-step for axis in axes], -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])[:, :, None, None]


def rotate(vectors: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair (i, i + d/2) of (B, L, ..., d) vectors by its position's angle."""
    cos, sin = rotation
    if torch.compiler.is_compiling():
        swapped = torch.cat(vectors.chunk(2, -1)[::-1], -1)
        return (vectors * cos + swapped * sin).to(vectors.dtype)
    turn = _Rotation.apply if torch.is_grad_enabled() else _turn
    return turn(vectors, cos, sin)


class _Rotation(torch.autograd.Function):
    """:func:`rotate` in three passes each way; what autograd records by itself takes twice as long.

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
    return vectors.roll(vectors.shape[-1] // 2, -1).mul_(sin).addcmul_(vectors, cos)
