"""What samples are told of real sequences: where padding begins, and what frames them."""

from __future__ import annotations

from typing import Any

import torch

from fewjump.data import Dataset
from fewjump.denoiser.base import Denoiser


def kept_positions(denoiser: Denoiser, dataset: Dataset, num_samples: int) -> dict[str, Any]:
    """Arguments of :func:`fewjump.sampler.run` that give the kept tokens of test sequences.

    A process never makes the tokens it keeps (:attr:`Process.kept`), so that samples
    take theirs from test sequences, one each, in order and over again: they have the same lengths
    and frames as what they are compared with.

    Returns:
        ``length``, and ``prompt`` and ``fixed`` where the process keeps tokens.
    """
    out: dict[str, Any] = {"length": dataset.length}
    if denoiser.process.kept:
        rows = dataset.batch(torch.arange(num_samples) % len(dataset.test), "test")
        out |= {"prompt": rows, "fixed": denoiser.process.is_kept(rows)}
    return out
