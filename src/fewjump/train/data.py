"""Which sequences a step reads: a stateless function of (seed, step)."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fewjump.random import fold_seed

Tokens: TypeAlias = Tensor | np.ndarray

_ROUNDS = 6
_CHECK_ELEMENTS = 1 << 26
_SAMPLE_ROWS = 256


def permute(index: Tensor, size: int, seed: int, epoch: int) -> Tensor:
    """Where ``index`` goes under the permutation of {0..size−1} that (seed, epoch) selects.

    A Feistel network on the smallest even number of bits that holds ``size``, walked until it
    lands inside (Black & Rogaway 2002): constant memory for any data set, no state to save.

    Args:
        index: (N,) int64 in [0, size).
        size: number of items.
        seed, epoch: select the permutation.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low_bits = np.uint64((1 << int(half)) - 1)
    keys = _round_keys(seed, epoch)

    def once(value: np.ndarray) -> np.ndarray:
        left, right = value >> half, value & low_bits
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & low_bits)
        return (left << half) | right

    out = once(index.numpy().astype(np.uint64))
    outside = out >= size
    while outside.any():
        out[outside] = once(out[outside])
        outside = out >= size
    return torch.from_numpy(out.astype(np.int64))


@lru_cache(maxsize=8)
def _round_keys(seed: int, epoch: int) -> np.ndarray:
    return np.array([fold_seed(seed, epoch, k) for k in range(_ROUNDS)], dtype=np.uint64)


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): each output bit depends on every input."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class TokenData:
    """(N, L) clean tokens, in memory or memory-mapped, read in an order fixed by the seed.

    Args:
        tokens: (N, L) integer tensor or NumPy array (a ``numpy.memmap`` stays on disk).
        vocab_size: tokens must lie in [0, vocab_size).
        seed: of the order.
        mask: a token below vocab_size that data may not hold, or None.

    Raises:
        ValueError: for a wrong shape or type, no rows, or a token out of range.
    """

    def __init__(self, tokens: Tokens, vocab_size: int, seed: int, mask: int | None = None) -> None:
        if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 1:
            raise ValueError(
                f"data must be an (N, L) array of tokens with N, L ≥ 1, got {tuple(tokens.shape)}"
            )
        integral = (
            not (tokens.is_floating_point() or tokens.is_complex())
            if isinstance(tokens, Tensor)
            else tokens.dtype.kind in "iu"
        )
        if not integral:
            raise ValueError(f"data must hold integer tokens, got dtype {tokens.dtype}")
        self.tokens, self.vocab_size, self.seed = tokens, vocab_size, seed
        self.mask = mask
        self.rows, self.length = int(tokens.shape[0]), int(tokens.shape[1])
        first = max(1, _CHECK_ELEMENTS // self.length)
        self._check(self._read(slice(0, first)))

    def numbers(self, positions: Tensor) -> Tensor:
        """Which rows stand at global ``positions`` (B,) of the endless, reshuffled stream: (B,)."""
        epoch = positions // self.rows
        row = torch.empty_like(positions)
        for number in epoch.unique().tolist():
            here = epoch == number
            row[here] = permute(positions[here] % self.rows, self.rows, self.seed, number)
        return row

    def batch(self, positions: Tensor) -> Tensor:
        """The sequences at global ``positions`` (B,) of the stream: (B, L)."""
        batch = self._read(self.numbers(positions))
        self._check(batch)
        return batch

    def fingerprint(self) -> list[int]:
        """Shape and a checksum of rows spread over the data: two data sets rarely share it."""
        step = max(1, self.rows // _SAMPLE_ROWS)
        rows = self._read(torch.arange(0, self.rows, step)[:_SAMPLE_ROWS])
        mixed = (rows + 1) * torch.arange(1, rows.numel() + 1).reshape(rows.shape)
        return [self.rows, self.length, int(mixed.sum() % (1 << 61))]

    def _read(self, rows: slice | Tensor) -> Tensor:
        if isinstance(self.tokens, Tensor):
            chosen = rows if isinstance(rows, slice) else rows.to(self.tokens.device)
            return self.tokens[chosen].to("cpu", torch.int64)
        chosen = rows if isinstance(rows, slice) else rows.numpy()
        return torch.from_numpy(np.asarray(self.tokens[chosen]).astype(np.int64))

    def _check(self, tokens: Tensor) -> None:
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(
                f"data holds token {wrong}, but the model's tokens are 0..{self.vocab_size - 1}; "
                "use a process with a larger vocab_size (the mask needs a token of its own)"
            )
        if self.mask is not None and bool((tokens == self.mask).any()):
            raise ValueError(
                f"data hold token {self.mask}, which is the mask: no clean sequence holds it; "
                "remove it from the data"
            )
