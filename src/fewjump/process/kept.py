"""Tokens that noise leaves alone: padding, and whatever frames a sequence.

A kept token is never redrawn, and no other token becomes it: its row of the generator is 0, and so
is its entry in the prior. It follows that it is seen clean at every time, carries no loss, and is
never generated at a position that shows another token.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fewjump.process.base import Process
from fewjump.process.rank_one import RankOne
from fewjump.random import Generator
from fewjump.schedule import Time


class KeepsTokens(RankOne):
    """A rank-one process on all tokens but the kept ones.

    P_{t|s} is the identity on :attr:`kept` and a rank-one kernel on the others; without kept tokens
    nothing is changed. Subclasses call :meth:`_keep_tokens` when they are made, and give no prior
    mass to what they keep.
    """

    def _keep_tokens(self, kept: Iterable[int]) -> None:
        """Set :attr:`kept`; ValueError if fewer than two tokens are left to noise."""
        tokens = kept_in_range(kept, self.vocab_size)
        if self.vocab_size - len(tokens) < 2:
            raise ValueError(
                f"{len(tokens)} of {self.vocab_size} tokens are kept; noise needs at least two"
            )
        self.kept = tokens

    def _kept_index(self, device: torch.device) -> Tensor:
        return torch.tensor(self.kept, dtype=torch.int64, device=device)

    def _noised_count(self) -> int:
        return self.vocab_size - len(self.kept)

    def _without_kept(self, rows: Tensor) -> Tensor:
        """(..., V) with 0 at kept tokens."""
        return rows.index_fill(-1, self._kept_index(rows.device), 0.0)

    def _with_kept(self, rows: Tensor, source: Tensor) -> Tensor:
        """(..., V) with the entries of ``source`` at kept tokens; overwrites ``rows``."""
        index = self._kept_index(rows.device)
        rows[..., index] = source[..., index].to(rows.dtype)
        return rows

    # -- forward ----------------------------------------------------------------------------

    def rate(self, t: Time) -> Tensor:
        rate = super().rate(t)
        if self.kept:
            rate[..., self._kept_index(rate.device), :] = 0
        return rate

    def kernel(self, s: Time, t: Time) -> Tensor:
        kernel = super().kernel(s, t)
        if self.kept:
            index = self._kept_index(kernel.device)
            kernel[..., index, :] = torch.eye(self.vocab_size).to(kernel)[index]
        return kernel

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        x_t = super().corrupt(x, s, t, generator)
        return torch.where(self.is_kept(x), x, x_t) if self.kept else x_t

    def likelihood(self, x_t: Tensor, t: Time) -> Tensor:
        likelihood = super().likelihood(x_t, t)
        if not self.kept:
            return likelihood
        likelihood = likelihood.index_fill_(-1, self._kept_index(x_t.device), 0.0)
        index = x_t[..., None]
        here = likelihood.gather(-1, index)
        return likelihood.scatter_(-1, index, torch.where(self.is_kept(index), 1.0, here))

    # -- ratios and posteriors --------------------------------------------------------------

    def reverse_rates(self, ratios: Tensor, x_t: Tensor, t: Time) -> Tensor:
        return super().reverse_rates(self._without_kept(ratios) if self.kept else ratios, x_t, t)

    def _times_kernel(self, rows: Tensor, t: Time, x: Tensor) -> Tensor:
        if not self.kept:
            return super()._times_kernel(rows, t, x)
        return self._with_kept(super()._times_kernel(self._without_kept(rows), t, x), rows)

    def pull_weights(self, ratios: Tensor, t: Time) -> Tensor:
        weights = super().pull_weights(ratios, t)
        return self._with_kept(weights, ratios) if self.kept else weights

    def weights_from_ratios(self, ratios: Tensor, t: Time) -> Tensor:
        if not self.kept:
            return super().weights_from_ratios(ratios, t)
        return self._with_kept(super().weights_from_ratios(self._without_kept(ratios), t), ratios)

    def closed_posterior(self, ratios: Tensor, x_t: Tensor, t: Time) -> Tensor:
        if not self.kept:
            return super().closed_posterior(ratios, x_t, t)
        return Process.closed_posterior(self, ratios, x_t, t)


def kept_in_range(kept: Iterable[int], vocab_size: int) -> tuple[int, ...]:
    """The tokens in order, each once; ValueError for one that does not exist."""
    tokens = sorted({int(token) for token in kept})
    if tokens and not 0 <= tokens[0] <= tokens[-1] < vocab_size:
        raise ValueError(f"kept tokens must lie in [0, {vocab_size}), got {tokens}")
    return tuple(tokens)
