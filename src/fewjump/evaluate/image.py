"""How close generated images are to real ones, in a feature space.

The feature space is that of a small classifier (:mod:`fewjump.evaluate.classifier`), so numbers
compare with those of the same classifier and the same number of samples only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.data import Dataset
from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, mean
from fewjump.evaluate.classifier import ImageClassifier, classifier_for
from fewjump.evaluate.meter import DataMeter
from fewjump.random import Generator, generator_for

NEIGHBOURS = 3
_CHUNK_ELEMENTS = 1 << 22


class ImageMeter(DataMeter):
    """``frechet``, ``precision``, ``recall``, ``density`` and ``coverage`` against training images.

    Args:
        dataset: real images.
        classifier: the feature space; by default one trained on ``dataset`` (and remembered).
    """

    def __init__(self, dataset: Dataset, classifier: ImageClassifier | None = None) -> None:
        super().__init__(dataset)
        self.space = classifier_for(dataset) if classifier is None else classifier
        self._real = self.space.features(dataset.all("train"))

    def measure(self, samples: Tensor, seed: int = 0) -> dict[str, Interval]:
        features = self.space.features(samples)
        frechet = frechet_distance(self._real, features, generator_for(seed, 0xB007, 0))
        overlap = manifold_scores(self._real, features, generator=generator_for(seed, 0xB007, 1))
        return {"frechet": frechet, **vars(overlap)}


def gaussian_frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Fréchet distance of two Gaussian laws (Dowson and Landau 1982).

    |μ_a − μ_b|² + tr(C_a + C_b − 2·(C_a^½ C_b C_a^½)^½), by symmetric eigenvalues in float64, so
    that singular covariances are no trouble.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D), symmetric and positive semidefinite.
    """
    mean_a, mean_b = mean_a.double(), mean_b.double()
    return _frechet(mean_a, cov_a.double(), _root(cov_a.double()), mean_b, cov_b.double())


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
    real, generated = _features(real, generated)
    equal = torch.full((real.shape[0],), 1 / real.shape[0], dtype=torch.float64)
    centre, spread = _moments(real, equal)
    root = _root(spread)

    def statistic(values: Tensor, weights: Tensor) -> Tensor:
        distances = [_frechet(centre, spread, root, *_moments(values, w)) for w in weights]
        return torch.tensor(distances, dtype=torch.float64)

    return bootstrap(generated, statistic, generator, replicates)


@dataclass(frozen=True)
class ManifoldScores:
    """Overlap of two sets of features; see :func:`manifold_scores`. Higher is better."""

    precision: Interval
    recall: Interval
    density: Interval
    coverage: Interval


def manifold_scores(
    real: Tensor,
    generated: Tensor,
    neighbours: int = NEIGHBOURS,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> ManifoldScores:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The manifold of a set is the union of balls around its points that reach to their
    ``neighbours``-th nearest neighbour in the set.

    * precision: share of generated points in the real manifold;
    * recall: share of real points in the generated manifold;
    * density: real balls that a generated point lies in, on average, over ``neighbours``;
    * coverage: share of real balls that hold a generated point.

    Intervals resample the points that are averaged over (generated ones for precision and
    density, real ones for recall and coverage), with the manifolds fixed.

    Args:
        real, generated: (M, D) and (N, D) features, more than ``neighbours`` of each.

    Raises:
        ValueError: for too few points, or as :func:`frechet_distance`.
    """
    real, generated = _features(real, generated)
    fewest = min(real.shape[0], generated.shape[0])
    if not 1 <= neighbours < fewest:
        raise ValueError(
            f"{neighbours} neighbours need more points than that in both sets; the smaller has "
            f"{fewest}"
        )
    real_radius = _neighbour_distance(real, neighbours)
    generated_radius = _neighbour_distance(generated, neighbours)
    inside = torch.zeros(generated.shape[0], dtype=torch.float64)
    recalled = torch.zeros(real.shape[0], dtype=torch.float64)
    covered = torch.zeros(real.shape[0], dtype=torch.float64)
    step = max(1, _CHUNK_ELEMENTS // generated.shape[0])
    for start in range(0, real.shape[0], step):
        part = slice(start, start + step)
        distance = _distances(real[part], generated)
        in_real = distance <= real_radius[part, None]
        inside += in_real.sum(0)
        covered[part] = in_real.any(1).double()
        recalled[part] = (distance <= generated_radius).any(1).double()
    return ManifoldScores(
        precision=bootstrap((inside > 0).double(), mean, generator, replicates),
        recall=bootstrap(recalled, mean, generator, replicates),
        density=bootstrap(inside / neighbours, mean, generator, replicates),
        coverage=bootstrap(covered, mean, generator, replicates),
    )


def _features(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    if real.dim() != 2 or generated.dim() != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"features must be (M, D) and (N, D), got {tuple(real.shape)} and "
            f"{tuple(generated.shape)}"
        )
    if min(real.shape[0], generated.shape[0]) < 2:
        raise ValueError("at least 2 real and 2 generated images are needed")
    real, generated = real.detach().cpu().double(), generated.detach().cpu().double()
    if not bool(real.isfinite().all() and generated.isfinite().all()):
        raise ValueError("features hold NaN or infinity; check the classifier's weights")
    return real, generated


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of rows (N, D) with weights (N,) summing to 1."""
    centre = weights @ values
    offset = values - centre
    items = values.shape[0]
    return centre, (offset.mT * weights) @ offset * (items / (items - 1))


def _root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semidefinite matrix."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.mT


def _frechet(mean_a: Tensor, cov_a: Tensor, root_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    product = root_a @ cov_b @ root_a
    eigenvalues = torch.linalg.eigvalsh((product + product.mT) / 2)
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    squared = ((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    # Rounding can leave −1e-13 where the laws agree.
    return max(0.0, float(squared))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The product form loses half the digits where points nearly coincide, which is here.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _neighbour_distance(points: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th nearest other point: (N,)."""
    step = max(1, _CHUNK_ELEMENTS // points.shape[0])
    parts = [
        # A point's own distance, 0, is the first.
        _distances(part, points).kthvalue(neighbours + 1, dim=-1).values
        for part in points.split(step)
    ]
    return torch.cat(parts)
