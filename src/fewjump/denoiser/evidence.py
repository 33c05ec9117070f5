"""Networks that leave a position's own token out of what they say about it (UDLM, Duo).

Under uniform noise these are trained through the step

    p(x_s | x_t) ∝ P_{t|s}[x_s, x_t] · Σ_a P_{s|0}[a, x_s]·p(a),

which is the exact reverse step (METHOD section 2.3) with the network's p in the place of the
weights w(a) = p(x₀=a|x_t)/P_{t|0}[a, x_t]. The law of x₀ is therefore p(a)·P_{t|0}[a, x_tⁱ],
normalised: p is what the other positions know. The likelihood is α + (1−α)/V at a = x_tⁱ and
(1−α)/V elsewhere, so only one logit per position changes, by log(1 + V·α/(1−α)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewjump.process import Process


class SeenThrough:
    """A uniform process, with the noise level at which a batch of states was seen.

    Heads pass their process on to :func:`fewjump.denoiser.base.constrain_logits`, which finds here
    what x_t says about its own position. To everyone else it is the process.

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

    def evidence(self) -> Tensor:
        """log(1 + V·α/(1−α)) = log1p(V/(e^σ̄ − 1)), at most :attr:`MOST`: (B,) float64."""
        odds = (self.process.vocab_size - len(self.process.kept)) / torch.expm1(self.level.double())
        return torch.log1p(odds).clamp(max=self.MOST)

    def add_evidence(self, logits: Tensor, x_t: Tensor, in_place: bool) -> Tensor:
        """Logits (B, L, V) with the evidence of x_t (B, L) added at x_t.

        Args:
            logits: overwritten if ``in_place``.
            x_t: the states, one for each row of ``level``.
            in_place: whether they may be.
        """
        gain = self.evidence().to(logits.dtype)[:, None, None].expand(*x_t.shape, 1)
        add = logits.scatter_add_ if in_place else logits.scatter_add
        return add(-1, x_t[..., None], gain)
