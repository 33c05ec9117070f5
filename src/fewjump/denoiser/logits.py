"""Any network that returns logits, as a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.constrain import constrain_logits, constrained_law
from fewjump.law.product import ProductLaw
from fewjump.process import Process


class LogitDenoiser(Denoiser):
    """A network that returns (B, L, V) logits of p(x₀ⁱ|x_t), as a denoiser.

    Args:
        network: callable (x_t (B, L) int64, t (B,) float64), or (x_t) alone where it is not told
            the time, → (B, L, V) logits that are its own to be overwritten, or an object that has
            them as ``.logits``. An ``nn.Module`` is registered, so that its parameters train.
        process: the forward process. For an absorbing one the mask logit is removed and visible
            positions are certain (the SUBS parameterisation), whatever the network says there.
        length: default sequence length.
        time_conditioned: whether the network is told the time.
        shift: whether the output at a position speaks of the next one, as that of a network that
            was trained from left to right does (Dream). The first position uses its own.
        padding: a kept token that is not attended to: the network is then called with
            ``attention_mask=`` (B, L) too.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        process: Process,
        length: int | None = None,
        time_conditioned: bool = True,
        *,
        shift: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__(process, length)
        self.network = network
        self.time_conditioned, self.shift, self.padding = time_conditioned, shift, padding

    def logits(self, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network says of every position: (B, L), (B,) → (B, L, V)."""
        options = {}
        if self.padding is not None:
            real = x_t != self.padding
            options["attention_mask"] = (real | ~real.any(-1, keepdim=True)).long()
        out = self.network(*((x_t, t) if self.time_conditioned else (x_t,)), **options)
        logits = out if isinstance(out, Tensor) else out.logits
        expected = (*x_t.shape, self.process.vocab_size)
        if logits.shape != expected:
            raise ValueError(f"the network returned {tuple(logits.shape)} logits, not {expected}")
        if self.shift:
            return torch.cat([logits[:, :1], logits[:, :-1]], 1)
        # Rows that share memory, as an expanded table's, cannot be overwritten one by one.
        shared = any(n > 1 and step == 0 for n, step in zip(logits.shape, logits.stride()))
        return logits.contiguous() if shared else logits

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        logits = self.logits(x_t, t)
        if torch.is_grad_enabled() and logits.requires_grad:
            # What the last operation of the network needs for its backward pass is not known.
            return ProductLaw(constrain_logits(logits, x_t, self.process))
        return constrained_law(logits, x_t, self.process)
