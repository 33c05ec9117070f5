"""A data set: sequences of equal length in three parts, and what their tokens mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fewjump.config import check_count, one_of
from fewjump.data.vocabulary import Array, Vocabulary

SplitName: TypeAlias = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Dataset:
    """Clean sequences in three disjoint parts.

    Attributes:
        train, valid, test: (N, L) integer tokens, N may differ: an int64 tensor, or a read-only
            memory-mapped NumPy array when the data are large. :meth:`batch` reads either.
        vocabulary: what the tokens stand for; its ``size`` is V.
        description: one line for people.
        labels: class of each sequence by part, (N,) int64, where the data have classes.
        scales: guidance scale that each sequence was drawn with, by part, (N,) float64, where the
            data are guided samples of a model.
    """

    train: Array
    valid: Array
    test: Array
    vocabulary: Vocabulary
    description: str
    labels: dict[str, Tensor] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens in a sequence, L."""
        return int(self.train.shape[1])

    @property
    def vocab_size(self) -> int:
        """Number of clean tokens V; a mask, if the process has one, comes on top."""
        return self.vocabulary.size

    def __len__(self) -> int:
        """Sequences in the training part."""
        return int(self.train.shape[0])

    def split(self, name: SplitName) -> Array:
        """A part by name, as it is stored."""
        parts: dict[str, Array] = {"train": self.train, "valid": self.valid, "test": self.test}
        one_of("split", name, parts)
        return parts[name]

    def batch(self, indices: Tensor | Sequence[int] | slice, split: SplitName = "train") -> Tensor:
        """The given rows of a part: (B, L) int64 on the CPU.

        Raises:
            IndexError: for a row that is not there.
        """
        part = self.split(split)
        if isinstance(indices, slice):
            return as_tokens(part[indices])
        rows = torch.as_tensor(indices, dtype=torch.int64).cpu()
        if rows.numel() and not -len(part) <= int(rows.min()) <= int(rows.max()) < len(part):
            raise IndexError(
                f"the {split} part has rows 0..{len(part) - 1}, asked for "
                f"{int(rows.min())}..{int(rows.max())}"
            )
        return as_tokens(part[rows] if isinstance(part, Tensor) else part[rows.numpy()])

    def all(self, split: SplitName = "train", limit: int | None = None) -> Tensor:
        """A part, or ``limit`` rows spread evenly over it, in memory: (N, L) int64."""
        part = self.split(split)
        if limit is None or len(part) <= limit:
            return as_tokens(part[:])
        return self.batch(torch.arange(limit) * len(part) // limit, split)


def labels_of(data: Dataset | Array | None) -> Tensor | None:
    """Classes of the sequences that are trained on, where they are known."""
    return data.labels.get("train") if isinstance(data, Dataset) else None


def scales_of(data: Dataset | Array | None) -> Tensor | None:
    """Guidance scales of the sequences that are trained on, where they are known."""
    return data.scales.get("train") if isinstance(data, Dataset) else None


def as_tokens(rows: Array) -> Tensor:
    """(N, L) tokens of any integer type as an int64 tensor on the CPU."""
    if isinstance(rows, Tensor):
        return rows.to("cpu", torch.int64)
    return torch.from_numpy(np.asarray(rows).astype(np.int64))


def split_blocks(
    rows: Array, valid_fraction: float, test_fraction: float, what: str
) -> tuple[Array, Array, Array]:
    """Three contiguous blocks of (N, L) rows, in order; views, so nothing is copied.

    A part with a positive fraction gets at least one row.

    Raises:
        ValueError: for fractions that leave nothing to train on.
    """
    check_fractions(valid_fraction, test_fraction)
    total = int(rows.shape[0])
    valid = max(1, round(total * valid_fraction)) if valid_fraction else 0
    test = max(1, round(total * test_fraction)) if test_fraction else 0
    if total - valid - test < 1:
        raise ValueError(
            f"{what} has {total} sequence(s) of {int(rows.shape[1])} tokens: too few for a train, "
            "a valid and a test part; give more data, or a shorter length"
        )
    train = total - valid - test
    return rows[:train], rows[train : train + valid], rows[train + valid :]


def tokens_of(data: Dataset | Array) -> Array:
    """The training part of a data set, or the tokens themselves.

    Raises:
        ValueError: for what holds no tokens in rows.
    """
    tokens = data.train if isinstance(data, Dataset) else data
    if not hasattr(tokens, "shape"):
        raise ValueError(
            "data must be a fewjump.data.Dataset or (N, L) token numbers as an array or a tensor, "
            f"got a {type(data).__name__}"
        )
    kind = str(tokens.dtype).removeprefix("torch.")
    if not kind.startswith(("int", "uint")):
        raise ValueError(f"data must hold token numbers, and these are {kind}; give integers")
    return tokens


def check_fractions(valid_fraction: float, test_fraction: float) -> None:
    """Raise ValueError unless both are ≥ 0 and leave something for training."""
    if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
        raise ValueError(
            "valid_fraction and test_fraction must be ≥ 0 with a sum below 1, got "
            f"{valid_fraction} and {test_fraction}"
        )


def windows(stream: Array, length: int, what: str) -> Array:
    """A stream (n,) cut into (n // length, length) windows; the rest is dropped, no copy made.

    Raises:
        ValueError: if it is too short for one window.
    """
    check_count(length, "length")
    total = int(stream.shape[0])
    if total < length:
        raise ValueError(
            f"{what} has {total} tokens: too short for one window of length {length}; "
            "use a shorter length or more data"
        )
    return stream[: total // length * length].reshape(-1, length)
