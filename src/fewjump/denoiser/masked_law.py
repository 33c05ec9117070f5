"""The product law of a masked state, without the cost of writing down what is certain."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from fewjump.denoiser.base import constrain_logits
from fewjump.law.linear_table import LinearTable
from fewjump.law.product import ProductLaw
from fewjump.process import Absorbing, Process


class MaskedLaw(ProductLaw):
    """A product law under an absorbing process whose visible rows are written when first read.

    Samplers draw at masked positions only. Writing certainty into the visible rows of a large
    vocabulary would cost them more than all their draws.

    Args:
        raw: (B, L, V) logits of a network; overwritten.
        x_t: (B, L) int64.
        process: the absorbing process.
    """

    def __init__(self, raw: Tensor, x_t: Tensor, process: Absorbing) -> None:
        raw[..., [process.mask, *process.kept]] = -torch.inf
        self.batch_size, self.length, self.vocab_size = raw.shape
        self._raw, self._x_t, self._process = raw, x_t, process

    @cached_property
    def logits(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(B, L, V), as :func:`fewjump.denoiser.base.constrain_logits` leaves them."""
        return constrain_logits(self._raw, self._x_t, self._process)

    @property
    def open_logits(self) -> Tensor:
        """(B, L, V) logits that hold at masked positions only; elsewhere they mean nothing."""
        return self._raw

    @property
    def device(self) -> torch.device:
        return self._raw.device


def constrained_law(logits: Tensor, x_t: Tensor, process: Process) -> ProductLaw:
    """The product law of a network's logits (B, L, V), which are overwritten.

    Only right where no backward pass reads ``logits``, as for the output of a linear layer.
    """
    if isinstance(process, Absorbing) and not (torch.is_grad_enabled() and logits.requires_grad):
        return MaskedLaw(logits, x_t, process)
    return ProductLaw(constrain_logits(logits, x_t, process, in_place=True))


def open_logits(law: ProductLaw) -> Tensor:
    """The law's logits (B, L, V), valid where the state is masked (everywhere for most laws)."""
    return law.open_logits if isinstance(law, MaskedLaw) else law.logits


def open_rows(law: ProductLaw) -> Tensor | LinearTable:
    """The law's logits as rows (B·L, V), valid where the state is masked."""
    return law.open_logits.flatten(0, 1) if isinstance(law, MaskedLaw) else law.rows
