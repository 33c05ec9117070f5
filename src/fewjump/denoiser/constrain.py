"""What a process makes certain of x₀, imposed on what a network says.

A network's logits become a law here: tokens that no clean sequence holds are impossible, what is
clean for certain is certain, and networks that leave a position's own token out of what they say
about it are told it. Logits onto a large vocabulary are left to be computed as they are read.

**Leave-one-out** networks (UDLM, Duo) are trained through the step

    p(x_s | x_t) ∝ P_{t|s}[x_s, x_t] · Σ_a P_{s|0}[a, x_s]·p(a),

which is the exact reverse step under uniform noise (METHOD section 2.3) with the network's p in the
place of the weights w(a) = p(x₀=a|x_t)/P_{t|0}[a, x_t]: p is what the other positions know. The law
of x₀ is therefore p(a)·P_{t|0}[a, x_tⁱ], normalised. Only one logit per position changes, by
log(1 + V·α/(1−α)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fewjump.law.logits import DenseLogits, LinearLogits, pin_logits
from fewjump.law.product import ProductLaw
from fewjump.process import Process

# Below this the logits of a batch are small beside what the network keeps for its backward pass.
DEFER_FROM = 8192


class LeftOneOut:
    """A uniform process, with the noise level of a batch of states whose own tokens were left out.

    Heads pass their process on to the functions of this module, which find here what x_t says about
    its own position. To everyone else it is the process.

    Args:
        process: a uniform process.
        level: (B,) noise level σ̄ of the states.
    """

    # Above this a float32 softmax knows no other token.
    MOST = 200.0

    def __init__(self, process: Process, level: Tensor) -> None:
        self.process, self.level = process, level

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    def own_evidence(self) -> Tensor:
        """log(1 + V·α/(1−α)) = log1p(V/(e^σ̄ − 1)), at most :attr:`MOST`: (B,) float64."""
        odds = (self.process.vocab_size - len(self.process.kept)) / torch.expm1(self.level.double())
        return torch.log1p(odds).clamp(max=self.MOST)


def _own_gain(x_t: Tensor, process: Process) -> Tensor | None:
    """What x_t (B, L) adds to the logit of its own token: (B, L) float64, or None."""
    evidence = getattr(process, "own_evidence", None)
    return None if evidence is None else evidence()[:, None].expand(x_t.shape)


def never_clean(process: Process) -> list[int]:
    """Tokens that a position is not, unless it is for certain."""
    return [*(() if process.mask is None else (process.mask,)), *process.kept]


def _certain(x_t: Tensor, process: Process) -> Tensor | None:
    """:func:`certain_positions`, or None for nowhere."""
    masked = process.masked(x_t)
    if masked is not None:
        return ~masked
    return process.is_kept(x_t) if process.kept else None


def certain_positions(x_t: Tensor, process: Process) -> Tensor:
    """Where x_t is clean for certain: visible positions of an absorbing process, kept tokens.

    (B, L) boolean.
    """
    certain = _certain(x_t, process)
    return torch.zeros_like(x_t, dtype=torch.bool) if certain is None else certain


def constrain_logits(
    logits: Tensor, x_t: Tensor, process: Process, in_place: bool = False
) -> Tensor:
    """Impose what the process makes certain on (B, L, V) logits.

    Absorbing: a clean token is never the mask, and a visible position is its own clean token.
    A process of which a network left a position's own token out: that token's evidence.
    Another process with a mask: a clean token is never the mask. Kept tokens: certain where they
    are visible, impossible elsewhere. Otherwise unchanged.

    Args:
        logits: (B, L, V), overwritten when no gradient is recorded, so that nothing of that size
            is allocated.
        x_t: (B, L) int64.
        process: the forward process.
        in_place: overwrite them with gradients too. Only right where no backward pass reads
            ``logits``, as for the output of a linear layer.
    """
    recorded = torch.is_grad_enabled() and logits.requires_grad
    overwrite = in_place or not recorded
    gain = _own_gain(x_t, process)
    if gain is not None:
        add = logits.scatter_add_ if overwrite else logits.scatter_add
        logits = add(-1, x_t[..., None], gain[..., None].to(logits.dtype))
    # With gradients the mask of an absorbing process is forbidden below, in a pass that is made.
    known = recorded and process.absorbing
    logits = _forbid(logits, process.kept if known else never_clean(process), overwrite)
    certain = _certain(x_t, process)
    if certain is None:
        return logits
    if not recorded:
        return DenseLogits(logits, certain, x_t).dense()
    if not known:
        return pin_logits(logits, x_t, certain)
    visible, index = certain[..., None], x_t[..., None]
    # At x_t: certainty where it is visible; where it is the mask, that is the impossible token.
    at = torch.zeros_like(visible, dtype=logits.dtype).masked_fill_(~visible, -torch.inf)
    if in_place:
        return logits.masked_fill_(visible, -torch.inf).scatter_(-1, index, at)
    return logits.masked_fill(visible, -torch.inf).scatter(-1, index, at)


def _forbid(logits: Tensor, tokens: Sequence[int], overwrite: bool) -> Tensor:
    """Logits with −inf at some tokens of every position."""
    if not tokens:
        return logits
    index = torch.tensor(tokens, device=logits.device)
    return (logits.index_fill_ if overwrite else logits.index_fill)(-1, index, -torch.inf)


def constrained_law(logits: Tensor, x_t: Tensor, process: Process) -> ProductLaw:
    """The product law of a network's logits (B, L, V), which are overwritten.

    Only right where no backward pass reads ``logits``, as for the output of a linear layer.
    """
    if process.absorbing and not (torch.is_grad_enabled() and logits.requires_grad):
        never = _forbid(logits, never_clean(process), overwrite=True)
        return ProductLaw(DenseLogits(never, _certain(x_t, process), x_t))
    return ProductLaw(constrain_logits(logits, x_t, process, in_place=True))


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


def linear_law(layer: nn.Module, features: Tensor, x_t: Tensor, process: Process) -> ProductLaw:
    """The law of a linear layer's logits, in the autocast of this call; deferred where they are
    many (:func:`defers`).

    Args:
        layer: (D → V), with its ``weight`` and ``bias``, or what was made of it.
        features: (B, L, D).
        x_t: (B, L) int64.
        process: the forward process.
    """
    if not defers(layer):
        # The backward pass of a linear layer does not read its output: it may be overwritten.
        return constrained_law(layer(features), x_t, process)
    return ProductLaw(linear_logits(layer, features, x_t, process))


def linear_logits(layer: Any, features: Tensor, x_t: Tensor, process: Process) -> LinearLogits:
    """The deferred logits of :func:`linear_law`."""
    logits = unconstrained_logits(layer, features)
    certain, gain = _certain(x_t, process), _own_gain(x_t, process)
    return replace(
        logits,
        bias=_forbid(logits.bias, never_clean(process), overwrite=False),
        visible=certain,
        tokens=None if certain is None else x_t,
        raised=None if gain is None else x_t,
        gain=None if gain is None else gain.to(features.dtype),
    )


def unconstrained_logits(layer: Any, features: Tensor) -> LinearLogits:
    """A linear layer's output, (B, L, V), as it is read, in the autocast of this call."""
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
    return LinearLogits(features, weight, bias, compute=compute)
