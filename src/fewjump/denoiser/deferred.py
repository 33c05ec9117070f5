"""When a head's logits are not computed at once, and the law that takes their place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewjump.denoiser.evidence import SeenThrough
from fewjump.law.linear import LinearLaw
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
