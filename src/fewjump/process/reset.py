"""Processes that redraw positions from a law that stands still: uniform noise, masks, any prior.

Q = 1πᵀ − I gives P_{t|s} = α·I + (1−α)·1πᵀ with α = exp(−σ̄(s,t)) (METHOD section 1). Uniform noise
is π = 1/V, masking is π = e_mask. The algebra, O(V) throughout, is that of
:class:`~fewjump.process.rank_one.RankOne`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewjump.process.base import check_dense
from fewjump.process.kept import KeepsTokens, kept_in_range
from fewjump.random import Generator, uniform
from fewjump.schedule import Schedule, Time


class ResetToPrior(KeepsTokens):
    """Redraw each position from a fixed prior at rate σ(t).

    Args:
        prior: (V,) non-negative, summing to 1 within 1e-6 (normalised in float64).
        schedule: the noise schedule.
        kept: tokens that are never noised, such as padding; their prior must be 0.

    Raises:
        ValueError: if ``prior`` is not a probability vector, or is positive at a kept token.
    """

    def __init__(self, prior: Tensor, schedule: Schedule, kept: Iterable[int] = ()) -> None:
        prior = torch.as_tensor(prior).detach().cpu().double()
        if prior.dim() != 1 or prior.numel() < 2:
            raise ValueError(f"prior must be a vector of at least 2 entries, got {prior.shape}")
        total = float(prior.sum())
        if bool((prior < 0).any()) or not abs(total - 1) < 1e-6:
            raise ValueError(f"prior must be non-negative and sum to 1; its sum is {total:.6g}")
        self.vocab_size = prior.numel()
        self.schedule = schedule
        # A vector that is normalised already is kept to the last bit: config round trips.
        self._prior = prior if abs(total - 1) < 1e-12 else prior / total
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._keep_tokens(kept)
        if bool((self._prior[list(self.kept)] > 0).any()):
            raise ValueError(f"the prior must be 0 at the kept tokens {self.kept}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, schedule={self.schedule})"

    def config(self) -> dict[str, Any]:
        return {
            "name": "ResetToPrior",
            "prior": self._prior.tolist(),
            "schedule": self.schedule.config(),
            **self._kept_config(),
        }

    def _kept_config(self) -> dict[str, Any]:
        """The option, where it says something."""
        return {"kept": list(self.kept)} if self.kept else {}

    def prior(self) -> Tensor:
        return self._prior

    def _prior_on(self, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
        """The prior on a device, copied there once."""
        if (device, dtype) not in self._copies:
            # A copy made under inference mode could not take part in a later backward pass.
            with torch.inference_mode(False):
                self._copies[device, dtype] = self._prior.to(device, dtype)
        return self._copies[device, dtype]

    def prior_on(self, device: torch.device | str | None = None) -> Tensor:
        return self._prior if device is None else self._prior_on(torch.device(device))

    def redrawn(
        self,
        s: Time,
        t: Time,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        return self._prior_on(torch.device("cpu" if device is None else device), dtype)

    def redraws_from(self, t: Time, device: torch.device | str | None = None) -> Tensor:
        return self.prior_on(device)

    def base_rate(self) -> Tensor:
        check_dense(self.vocab_size)
        eye = torch.eye(self.vocab_size, dtype=torch.float64)
        rate = self._prior.expand(self.vocab_size, -1) - eye
        rate[list(self.kept)] = 0
        return rate

    def _draw_redrawn(
        self, s: Time, t: Time, shape: torch.Size, generator: Generator, device: torch.device
    ) -> Tensor:
        return self.prior_sample(shape, generator, device)


class Uniform(ResetToPrior):
    """Uniform noise: each position is redrawn uniformly from all V tokens, the kept ones excepted.

    Args:
        vocab_size: number of tokens V, kept ones included.
        schedule: the noise schedule.
        kept: tokens that are never noised, such as padding.
    """

    def __init__(self, vocab_size: int, schedule: Schedule, kept: Iterable[int] = ()) -> None:
        _check_vocab(vocab_size)
        kept = kept_in_range(kept, vocab_size)
        prior = torch.full((vocab_size,), 1 / max(1, vocab_size - len(kept)), dtype=torch.float64)
        prior[list(kept)] = 0
        super().__init__(prior, schedule, kept)

    def config(self) -> dict[str, Any]:
        return {
            "name": "Uniform",
            "vocab_size": self.vocab_size,
            "schedule": self.schedule.config(),
            **self._kept_config(),
        }

    def prior_sample(
        self,
        shape: Sequence[int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        if self.kept:
            return super().prior_sample(shape, generator, device)
        draw = uniform(shape, generator, device) * self.vocab_size
        return draw.long().clamp_(max=self.vocab_size - 1)


class Absorbing(ResetToPrior):
    """Masking: each position is replaced by the mask token and stays there.

    Args:
        vocab_size: number of states, the mask included.
        schedule: the noise schedule.
        mask: index of the mask token; the last one by default.
        kept: tokens that are never masked, and that a masked position never was.
    """

    absorbing = True

    def __init__(
        self,
        vocab_size: int,
        schedule: Schedule,
        mask: int | None = None,
        kept: Iterable[int] = (),
    ) -> None:
        _check_vocab(vocab_size)
        mask = vocab_size - 1 if mask is None else mask
        if not 0 <= mask < vocab_size:
            raise ValueError(f"mask must lie in [0, {vocab_size}), got {mask}")
        prior = torch.zeros(vocab_size, dtype=torch.float64)
        prior[mask] = 1
        kept = kept_in_range(kept, vocab_size)
        if mask in kept:
            raise ValueError(f"the mask {mask} is among the kept tokens; it must be one of its own")
        super().__init__(prior, schedule, kept)
        self.mask: int = mask  # pyright: ignore[reportIncompatibleVariableOverride]

    def config(self) -> dict[str, Any]:
        return {
            "name": "Absorbing",
            "vocab_size": self.vocab_size,
            "mask": self.mask,
            "schedule": self.schedule.config(),
            **self._kept_config(),
        }

    def prior_sample(
        self,
        shape: Sequence[int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return torch.full(tuple(shape), self.mask, dtype=torch.int64, device=device)


def _check_vocab(vocab_size: int) -> None:
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
