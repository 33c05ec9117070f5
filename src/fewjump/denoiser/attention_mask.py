"""Which positions a position sees: none that is padding, and none of another document.

Documents that share a row are told apart by a separator, which ends the document it stands in. A
process that keeps the separator shows it in every x_t, so that teacher, student, loss and sampler
cut a row in the same places. Rotary positions are relative: a document has the same features
wherever in a row it stands.
"""

from __future__ import annotations

from typing import NamedTuple

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
    real = None
    if padding is not None:
        real = x_t != padding
        real = real | ~real.any(-1, keepdim=True)
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


def mix_near(h: Tensor, weight: Tensor, near: Tensor) -> Tensor:
    """Depthwise convolution over the positions that are seen: (B, L, D), (D, k) → (B, L, D)."""
    width = weight.shape[-1]
    wide = F.pad(h, (0, 0, width // 2, width // 2))
    total = torch.zeros_like(h)
    for offset in range(width):
        part = wide[:, offset : offset + h.shape[1]] * weight[:, offset]
        total = total + part * near[..., offset, None]
    return total
