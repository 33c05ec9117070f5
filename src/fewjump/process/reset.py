"""Processes that redraw positions from a law that stands still: uniform noise, masks, any prior.

Q = 1πᵀ − I gives P_{t|s} = α·I + (1−α)·1πᵀ with α = exp(−σ̄(s,t)) (METHOD section 1). Uniform noise
is π = 1/V, masking is π = e_mask. All of it is O(V), by
:class:`~fewjump.process.rank_one.RankOneKernel`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor

from fewjump.process.base import check_laws, kept_in_range, mask_or_last
from fewjump.process.kernel import check_dense, check_states, expand_time
from fewjump.process.rank_one import RankOne
from fewjump.process.redraw_law import CertainLaw, RedrawLaw, UniformLaw
from fewjump.random import Generator, bernoulli
from fewjump.schedule import Schedule, Time


class ResetToPrior(RankOne):
    """Redraw each position from a fixed prior at rate σ(t).

    Args:
        prior: (V,) non-negative, summing to 1 within 1e-6 (normalised in float64).
        schedule: the noise schedule.
        kept: tokens that are never noised, such as padding; their prior must be 0.

    Raises:
        ValueError: if ``prior`` is not a probability vector, or is positive at a kept token.
    """

    straight = True

    def __init__(self, prior: Tensor, schedule: Schedule, kept: Iterable[int] = ()) -> None:
        law = check_laws(torch.as_tensor(prior, dtype=torch.float64)[None], "prior")[0]
        self.vocab_size = law.numel()
        self.schedule = schedule
        self._keep_tokens(kept)
        self._law = self._redraws(law)
        if bool((law[list(self.kept)] > 0).any()):
            raise ValueError(f"the prior must be 0 at the kept tokens {self.kept}")

    def _redraws(self, prior: Tensor) -> RedrawLaw:
        return RedrawLaw(prior)

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        return cls(torch.tensor([0.1, 0.2, 0.3, 0.4]), schedule)

    def config(self) -> dict[str, Any]:
        return self._described(prior=self.prior().tolist())

    def _described(self, **options: Any) -> dict[str, Any]:
        kept = {"kept": list(self.kept)} if self.kept else {}
        return {**super()._described(**options), **kept}

    def limit(self) -> RedrawLaw:
        return self._law

    def redrawn(self, s: Tensor, t: Tensor) -> RedrawLaw:
        return self._law

    def redraws_from(self, t: Time) -> RedrawLaw:
        return self._law

    def flow_step(
        self, x_t: Tensor, x0: Tensor, s: Time, t: Time, generator: Generator = None
    ) -> Tensor:
        # Only x₀ gains: what may be noise becomes x₀ with probability (α_s − α_t)/(1 − α_t).
        before, after = (self.schedule.one_minus_alpha(v).double() for v in (t, s))
        share = 1 - after / torch.where(before > 0, before, 1.0)
        noise = (self._law.at(x_t) > 0) & ~self.is_kept(x0)
        return torch.where(bernoulli(noise * expand_time(share, x_t), generator), x0, x_t)

    def base_rate(self) -> Tensor:
        check_dense(self.vocab_size)
        eye = torch.eye(self.vocab_size, dtype=torch.float64)
        rate = self.prior().expand(self.vocab_size, -1) - eye
        rate[list(self.kept)] = 0
        return rate


class Uniform(ResetToPrior):
    """Uniform noise: each position is redrawn uniformly from all V tokens, the kept ones excepted.

    Args:
        vocab_size: number of tokens V, kept ones included.
        schedule: the noise schedule.
        kept: tokens that are never noised, such as padding.
    """

    uniform = True

    def __init__(self, vocab_size: int, schedule: Schedule, kept: Iterable[int] = ()) -> None:
        check_states(vocab_size)
        kept = kept_in_range(kept, vocab_size)
        prior = torch.full((vocab_size,), 1 / max(1, vocab_size - len(kept)), dtype=torch.float64)
        prior[list(kept)] = 0
        super().__init__(prior, schedule, kept)

    def _redraws(self, prior: Tensor) -> RedrawLaw:
        return RedrawLaw(prior) if self.kept else UniformLaw(prior)

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        return cls(4, schedule)

    def config(self) -> dict[str, Any]:
        return self._described(vocab_size=self.vocab_size)


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
        check_states(vocab_size)
        mask = mask_or_last(mask, vocab_size)
        prior = torch.zeros(vocab_size, dtype=torch.float64)
        prior[mask] = 1
        kept = kept_in_range(kept, vocab_size)
        if mask in kept:
            raise ValueError(f"the mask {mask} is among the kept tokens; it must be one of its own")
        self.mask: int = mask  # pyright: ignore[reportIncompatibleVariableOverride]
        super().__init__(prior, schedule, kept)

    def _redraws(self, prior: Tensor) -> RedrawLaw:
        return CertainLaw(prior, self.mask)

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        return cls(4, schedule)

    def config(self) -> dict[str, Any]:
        return self._described(vocab_size=self.vocab_size, mask=self.mask)
