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
from fewjump.evaluate.frechet import checked_features, frechet_distance
from fewjump.evaluate.meter import DataMeter
from fewjump.random import Generator, generator_for

NEIGHBOURS = 3
_CHUNK_ELEMENTS = 1 << 22


class ImageMeter(DataMeter):
    """``frechet``, ``precision``, ``recall``, ``density`` and ``coverage`` against training images.

    Of images drawn by class also ``class_accuracy``, the share that the classifier gives theirs.

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

    def of_classes(self, samples: Tensor, labels: Tensor, seed: int = 0) -> dict[str, Interval]:
        right = (self.space.classes_of(samples) == labels).double()
        return {"class_accuracy": bootstrap(right, mean, generator_for(seed, 0xB007, 2))}


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
        ValueError: for too few points, or as
            :func:`~fewjump.evaluate.frechet.frechet_distance`.
    """
    real, generated = checked_features(real, generated)
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
