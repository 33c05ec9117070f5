"""Fréchet distance between two sets of features, taken as Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap
from fewjump.random import Generator


def gaussian_frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Fréchet distance of two Gaussian laws (Dowson and Landau 1982).

    |μ_a − μ_b|² + tr(C_a + C_b − 2·(C_a^½ C_b C_a^½)^½), by symmetric eigenvalues in float64, so
    that singular covariances are no trouble.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D), symmetric and positive semidefinite.
    """
    mean_a, mean_b = mean_a.double(), mean_b.double()
    cov_a, cov_b = cov_a.double(), cov_b.double()
    eigenvalues, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.mT
    product = root @ cov_b @ root
    cross = torch.linalg.eigvalsh((product + product.mT) / 2).clamp(min=0).sqrt().sum()
    squared = ((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    # Rounding can leave −1e-13 where the laws agree.
    return max(0.0, float(squared))


def frechet_distance(
    real: Tensor,
    generated: Tensor,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Fréchet distance between features, taken as Gaussian (FID: Heusel et al. 2017).

    Biased upwards by about tr(C)/N and more for few samples: compare sets of equal size. The
    interval resamples the generated features, with the real ones fixed.

    Args:
        real: (M, D) features, M ≥ 2.
        generated: (N, D) features, N ≥ 2.
        generator, replicates: of the bootstrap.

    Raises:
        ValueError: for features of different widths, or that are not finite.
    """
    real, generated = checked_features(real, generated)
    equal = torch.full((real.shape[0],), 1 / real.shape[0], dtype=torch.float64)
    moments = _moments(real, equal)

    def statistic(values: Tensor, weights: Tensor) -> Tensor:
        distances = [gaussian_frechet(*moments, *_moments(values, w)) for w in weights]
        return torch.tensor(distances, dtype=torch.float64)

    return bootstrap(generated, statistic, generator, replicates)


def checked_features(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 on the CPU; ValueError for features of different widths, or not finite."""
    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"features must be (M, D) and (N, D), got {tuple(real.shape)} and "
            f"{tuple(generated.shape)}"
        )
    if min(real.shape[0], generated.shape[0]) < 2:
        raise ValueError("at least 2 real and 2 generated items are needed")
    real, generated = real.detach().cpu().double(), generated.detach().cpu().double()
    if not bool(real.isfinite().all() and generated.isfinite().all()):
        raise ValueError("features hold NaN or infinity; check the network that made them")
    return real, generated


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of rows (N, D) with weights (N,) summing to 1."""
    centre = weights @ values
    offset = values - centre
    items = values.shape[0]
    return centre, (offset.mT * weights) @ offset * (items / (items - 1))
