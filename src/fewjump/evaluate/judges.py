"""Judges of sequences: models of the data that give each token a probability, left to right.

An interpolated n-gram model needs no training and no network, and takes seconds for any sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, mean
from fewjump.random import Generator

DEFAULT_ORDER = 6
_CHUNK_TOKENS = 1 << 20


class Judge(ABC):
    """A model of the data that gives each token a probability, left to right.

    Attributes:
        vocab_size: tokens it knows, {0..vocab_size−1}.
    """

    vocab_size: int

    @abstractmethod
    def log_prob(self, tokens: Tensor) -> Tensor:
        """log p(xⁱ | x^{<i}) in nats of (N, L) tokens: (N, L) float64 on the CPU."""

    def nll(
        self, tokens: Tensor, generator: Generator = None, replicates: int = REPLICATES
    ) -> Interval:
        """Negative log-likelihood in nats per token, with an interval over sequences.

        Lower than the data's own value means more predictable than the data, not better: read
        it beside an entropy, or at matched entropy (:func:`fewjump.evaluate.quality_at_entropy`).
        """
        per_sequence = -self.log_prob(tokens).mean(-1)
        return bootstrap(per_sequence, mean, generator, replicates)

    def check(self, tokens: Tensor) -> None:
        """Raise ValueError unless ``tokens`` are (N, L) and known."""
        if tokens.dim() != 2 or tokens.numel() == 0:
            raise ValueError(f"a judge reads (N, L) tokens, got shape {tuple(tokens.shape)}")
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise ValueError(
                f"the judge knows tokens 0..{self.vocab_size - 1}, found "
                f"{int(tokens.min())}..{int(tokens.max())}; was a mask left in a sample?"
            )


@dataclass(frozen=True)
class _Level:
    """Counts of one context length; all arrays sorted by key.

    A run is a context followed by a token.
    """

    runs: np.ndarray
    run_counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray


class NGramJudge(Judge):
    """p_k(w|c) = (n(c,w) + T(c)·p_{k−1}(w|c')) / (n(c) + T(c)), down to p = 1/V.

    T(c) is the number of different tokens seen after context c, and c' is c without its oldest
    token; an unseen context leaves p_{k−1} (Witten and Bell 1991, method C, interpolated). Every
    token has positive probability.

    Args:
        tokens: (N, L) training sequences. Contexts do not cross their ends.
        vocab_size: V.
        order: longest run, its context included; by default 6, or fewer where (V+1)^order would
            not fit 62 bits.
        begins: whether a sequence's start means something (lines, not windows): the judge then
            knows that a token is among the first.

    Raises:
        ValueError: for an order that does not fit, or tokens out of range.
    """

    def __init__(
        self, tokens: Tensor, vocab_size: int, order: int | None = None, begins: bool = False
    ) -> None:
        fits = int(62 / np.log2(vocab_size + 1))
        order = min(DEFAULT_ORDER, fits) if order is None else order
        if not 1 <= order <= fits:
            raise ValueError(f"order must lie in 1..{fits} for {vocab_size} tokens, got {order}")
        self.vocab_size, self.order, self.begins = vocab_size, order, begins
        self.check(tokens)
        array = tokens.cpu().numpy().astype(np.int64)
        self._levels = [self._count(array, k) for k in range(order)]

    def log_prob(self, tokens: Tensor) -> Tensor:
        self.check(tokens)
        array = tokens.cpu().numpy().astype(np.int64)
        rows = max(1, _CHUNK_TOKENS // array.shape[1])
        parts = [self._score(array[i : i + rows]) for i in range(0, array.shape[0], rows)]
        return torch.from_numpy(np.concatenate(parts))

    def _keys(self, tokens: np.ndarray, width: int) -> np.ndarray:
        """Runs of ``width`` tokens that end at each position where the context is complete.

        (N, L) tokens give (N, L) keys with ``begins``, and (N, L − width + 1) without.
        """
        base = self.vocab_size + 1
        if self.begins:
            tokens = np.pad(tokens, ((0, 0), (width - 1, 0)), constant_values=self.vocab_size)
        kept = tokens.shape[1] - width + 1
        keys = np.zeros((tokens.shape[0], max(0, kept)), np.int64)
        for i in range(width if kept > 0 else 0):
            keys = keys * base + tokens[:, i : i + kept]
        return keys

    def _count(self, tokens: np.ndarray, context: int) -> _Level:
        runs, run_counts = np.unique(self._keys(tokens, context + 1), return_counts=True)
        # Runs are sorted, so those of one context lie together.
        contexts, start = np.unique(runs // (self.vocab_size + 1), return_index=True)
        kinds = np.diff(start, append=runs.size)
        totals = np.add.reduceat(run_counts, start) if runs.size else run_counts
        return _Level(runs, run_counts, contexts, totals, kinds)

    def _score(self, tokens: np.ndarray) -> np.ndarray:
        """log p of each token: (n, L) float64."""
        p = np.full(tokens.shape, 1 / self.vocab_size)
        for k, level in enumerate(self._levels):
            keys = self._keys(tokens, k + 1)
            if not keys.size or not level.runs.size:
                break
            seen = _look_up(level.runs, level.run_counts, keys)
            total, kinds = _look_up(
                level.contexts,
                np.stack([level.totals, level.kinds], -1),
                keys // (self.vocab_size + 1),
            ).transpose(2, 0, 1)
            lower = p[:, tokens.shape[1] - keys.shape[1] :]
            known = total > 0
            mixed = (seen + kinds * lower) / np.where(known, total + kinds, 1)
            lower[...] = np.where(known, mixed, lower)
        return np.log(p)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values (keys, ...) at the wanted keys, 0 where there is none: (*wanted.shape, ...)."""
    place = np.searchsorted(keys, wanted).clip(max=keys.size - 1)
    found = keys[place] == wanted
    return values[place] * found.reshape(*found.shape, *(1,) * (values.ndim - 1))
