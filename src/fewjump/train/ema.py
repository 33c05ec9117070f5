"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fewjump.train.distributed import local, whole


class ExponentialMovingAverage:
    """Shadow weights: shadow ← d·shadow + (1−d)·weight, after each optimiser step.

    The n-th update (from 1) uses d = min(decay, n/(n+9)), so that early, fast-moving weights are
    forgotten quickly. Buffers and integer tensors are copied as they are. The average of weights
    that are split over processes is split in the same way. Frozen weights are their own average and
    are not copied.

    Args:
        module: the model to follow; its current weights are the start.
        decay: the limit of d, in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.frozen = {n for n, p in module.named_parameters() if not p.requires_grad}
        self.shadow: dict[str, Tensor] = {
            name: value.detach() if name in self.frozen else value.detach().clone()
            for name, value in module.state_dict().items()
        }

    def gather(self) -> None:
        """Make an average that is split over processes whole; every process must call this."""
        self.shadow = {name: whole(value) for name, value in self.shadow.items()}

    def decay_at(self, update: int) -> float:
        """d of the given update, counted from 1."""
        return min(self.decay, update / (update + 9))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's current weights."""
        self.updates += 1
        keep = self.decay_at(self.updates)
        parameters = dict(module.named_parameters())
        for name, value in module.state_dict().items():
            if name in self.frozen:
                continue
            mine, now = local(self.shadow[name]), local(value)
            if name in parameters and value.is_floating_point():
                mine.lerp_(now, 1 - keep)
            else:
                mine.copy_(now)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's weights with the average."""
        module.load_state_dict(self.shadow)

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        shadow, updates = state["shadow"], state["updates"]
        assert isinstance(shadow, Mapping)
        assert isinstance(updates, int)
        for name, value in shadow.items():
            self.shadow[name].copy_(value)
        self.updates = updates
