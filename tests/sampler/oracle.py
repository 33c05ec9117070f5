"""What the sampler tests compare with: frequencies, slopes, and joints that can be enumerated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewjump.law import ProductLaw
from fewjump.law.base import ravel
from fewjump.problem import EnumeratedJoint
from fewjump.process import Process


def random_joint(
    vocab_size: int, length: int, roughness: float = 1.0, seed: int = 3, without: int | None = None
) -> EnumeratedJoint:
    """exp(roughness·N(0,1)) over V^L sequences, with no mass on those that hold ``without``."""
    source = torch.Generator().manual_seed(seed)
    shape = (vocab_size,) * length
    weights = (roughness * torch.randn(shape, generator=source, dtype=torch.float64)).exp()
    if without is not None:
        for axis in range(length):
            weights.select(axis, without).zero_()
    return EnumeratedJoint(weights / weights.sum())


def problem_for(process: Process, length: int, roughness: float = 1.0) -> EnumeratedJoint:
    """A random joint over the process's states, never on its mask."""
    return random_joint(process.vocab_size, length, roughness, without=process.mask)


def total_variation(p: Tensor, q: Tensor) -> float:
    return 0.5 * float((p - q).abs().sum())


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Least-squares slope of −log error against log steps."""
    x = torch.tensor([math.log(k) for k in steps], dtype=torch.float64)
    y = torch.tensor([math.log(e) for e in errors], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


def chi_square_p(samples: Tensor, probabilities: Tensor, vocab_size: int) -> float:
    """p-value of Pearson's test of sequences (N, L) against probabilities over V^L states.

    0 if a state of no probability was drawn. Cells expecting fewer than 5 draws are merged.
    """
    expected = probabilities.flatten().double() * samples.shape[0]
    counts = torch.bincount(ravel(samples, vocab_size), minlength=expected.numel()).double()
    if bool((counts[expected < 1e-12] > 0).any()):
        return 0.0
    small = expected < 5
    if bool(small.any()):
        merged = torch.stack([expected[small].sum(), counts[small].sum()])
        expected, counts = expected[~small], counts[~small]
        if merged[0] >= 5:
            expected = torch.cat([expected, merged[:1]])
            counts = torch.cat([counts, merged[1:]])
    if expected.numel() < 2:
        return 1.0
    statistic = ((counts - expected) ** 2 / expected).sum()
    degrees = torch.tensor((expected.numel() - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, statistic / 2))


def random_law(batch: int, length: int, vocab_size: int, seed: int = 5) -> ProductLaw:
    """A product law of random float64 logits."""
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, length, vocab_size, generator=source, dtype=torch.float64)
    return ProductLaw(logits)
