"""Laws of heads that do not write everything down at once.

Logits onto a large vocabulary are computed as they are read; and what is certain of a masked state
is written when it is read, which samplers hardly ever do.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from fewjump.denoiser.base import constrain_logits
from fewjump.denoiser.evidence import SeenThrough
from fewjump.law.linear import LinearLaw
from fewjump.law.product import ProductLaw
from fewjump.process import Absorbing, Process

# Below this the logits of a batch are small beside what the network keeps for its backward pass.
DEFER_FROM = 8192


def defers(layer: nn.Module) -> bool:
    """Whether the logits of this layer are left to be computed in chunks.

    They are for a plain linear layer onto a large vocabulary. A layer that something else was
    wrapped around or hooked into is called as it is.
    """
    return (
        type(layer) is nn.Linear
        and layer.out_features >= DEFER_FROM
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
    )


def deferred_law(layer: nn.Linear, features: Tensor, x_t: Tensor, process: Process) -> LinearLaw:
    """The law of ``constrained_law(layer(features), x_t, process)``, in the autocast of this call.

    Args:
        layer: (D → V).
        features: (B, L, D).
        x_t: (B, L) int64.
        process: the forward process.
    """
    device = features.device.type
    compute = features.dtype
    if torch.is_autocast_enabled(device):
        compute = torch.get_autocast_dtype(device)
    weight, bias = layer.weight, layer.bias
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    if not torch.is_grad_enabled():
        # The law may be asked where gradients are recorded, and must not have any then.
        weight, bias = weight.detach(), bias.detach()
    never = [*(() if process.mask is None else (process.mask,)), *process.kept]
    if never:
        bias = bias.index_fill(0, torch.tensor(never, device=bias.device), -torch.inf)
    if isinstance(process, Absorbing):
        return LinearLaw(features, weight, bias, x_t != process.mask, x_t, compute=compute)
    shown = (process.is_kept(x_t), x_t) if process.kept else (None, None)
    gain = None
    if isinstance(process, SeenThrough):
        gain = process.evidence().to(features.dtype)[:, None].expand(x_t.shape)
    raised = None if gain is None else x_t
    return LinearLaw(features, weight, bias, *shown, raised, gain, compute)


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
    def open_rows(self) -> Tensor:
        return self._raw.flatten(0, 1)

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
