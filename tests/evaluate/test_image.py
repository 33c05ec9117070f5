from __future__ import annotations

import pytest
import torch

from fewjump.evaluate import (
    frechet_distance,
    gaussian_frechet,
    manifold_scores,
    nearest_neighbour_accuracy,
)
from fewjump.random import generator_for


def random_covariance(size: int, seed: int) -> torch.Tensor:
    root = torch.randn(size, size, generator=generator_for(seed), dtype=torch.float64)
    return root @ root.mT


def test_diagonal_gaussians():
    # Commuting covariances: |Δμ|² + Σ (√a − √b)².
    a, b = torch.tensor([4.0, 9.0, 0.0]), torch.tensor([1.0, 16.0, 0.25])
    mean = torch.tensor([1.0, -2.0, 0.5])
    value = gaussian_frechet(mean, a.diag(), torch.zeros(3), b.diag())
    assert value == pytest.approx(5.25 + 1 + 1 + 0.25, abs=1e-12)


def test_two_dimensions_in_closed_form():
    # For 2 × 2 matrices tr √M = √(tr M + 2 √det M).
    a, b = random_covariance(2, 1), random_covariance(2, 2)
    m = a @ b
    cross = (m.trace() + 2 * m.det().sqrt()).sqrt()
    zero = torch.zeros(2)
    expected = float(a.trace() + b.trace() - 2 * cross)
    assert gaussian_frechet(zero, a, zero, b) == pytest.approx(expected, abs=1e-12)


def test_symmetric_and_zero_on_itself():
    a, b, zero = random_covariance(6, 3), random_covariance(6, 4), torch.zeros(6)
    assert gaussian_frechet(zero, a, zero, a) == pytest.approx(0.0, abs=1e-12)
    assert gaussian_frechet(zero, a, zero, b) == pytest.approx(gaussian_frechet(zero, b, zero, a))
    # A rank-one covariance: the cross term is √(vᵀ a v).
    v = torch.randn(6, generator=generator_for(5), dtype=torch.float64)
    expected = float(a.trace() + v @ v - 2 * (v @ a @ v).sqrt())
    assert gaussian_frechet(zero, a, zero, torch.outer(v, v)) == pytest.approx(expected)


def test_distance_of_sets_is_that_of_their_moments(generator):
    real = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    generated = 2 * torch.randn(50, 3, generator=generator, dtype=torch.float64) + 1
    interval = frechet_distance(real, generated, generator)
    expected = gaussian_frechet(real.mean(0), real.mT.cov(), generated.mean(0), generated.mT.cov())
    assert interval.value == pytest.approx(expected, abs=1e-12)
    assert interval.low < interval.value < interval.high
    assert frechet_distance(real, real, generator).value == pytest.approx(0, abs=1e-12)


def test_the_interval_covers_the_distance_of_the_laws():
    covered = 0
    for trial in range(60):
        source = generator_for(7, trial)
        real = torch.randn(4000, 2, generator=source, dtype=torch.float64)
        generated = torch.randn(400, 2, generator=source, dtype=torch.float64) + 1
        interval = frechet_distance(real, generated, source)
        covered += interval.low <= 2.0 <= interval.high
    assert covered >= 48


def test_manifolds_by_hand(generator):
    real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])  # radii 1, 1, 2, 7
    generated = torch.tensor([[0.5], [2.5], [3.5], [20.0], [22.0]])  # radii 2, 1, 1, 2, 2
    scores = manifold_scores(real, generated, 1, generator)
    # Balls: [−1,1] [0,2] [1,5] [3,17]. 0.5 lies in 2, 2.5 in 1, 3.5 in 2, 20 and 22 in none.
    assert scores.precision.value == pytest.approx(3 / 5)
    assert scores.density.value == pytest.approx(5 / 5)
    # All four balls hold a generated point.
    assert scores.coverage.value == pytest.approx(1.0)
    # Balls of the generated: [−1.5,2.5] [1.5,3.5] [2.5,4.5] [18,22] [20,24]: 0, 1 and 3 are inside.
    assert scores.recall.value == pytest.approx(3 / 4)


def test_k_is_counted_without_the_point_itself(generator):
    real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    # Second neighbours: radii 3, 2, 3, 9. 5.9 lies in the third's ball [0, 6] and the last's.
    scores = manifold_scores(real, torch.tensor([[5.9], [-3.5], [60.0]]), 2, generator)
    assert scores.precision.value == pytest.approx(1 / 3)
    assert scores.density.value == pytest.approx(2 / (2 * 3))
    assert scores.coverage.value == pytest.approx(2 / 4)


def test_collapse_costs_recall_and_noise_costs_precision(generator):
    real = torch.randn(300, 4, generator=generator)
    collapsed = 0.1 * torch.randn(300, 4, generator=generator)
    noisy = 4 * torch.randn(300, 4, generator=generator)
    same = torch.randn(300, 4, generator=generator)
    narrow, wide, good = (
        manifold_scores(real, g, generator=generator) for g in (collapsed, noisy, same)
    )
    assert narrow.precision.value > 0.95
    assert narrow.recall.value < 0.2
    assert wide.precision.value < 0.4
    assert min(good.precision.value, good.recall.value) > 0.8
    assert good.density.value == pytest.approx(1.0, abs=0.15)


def test_chunks_do_not_change_anything(generator, monkeypatch):
    import fewjump.evaluate.image as module

    real, generated = torch.randn(50, 3, generator=generator), torch.randn(40, 3)
    whole = manifold_scores(real, generated, generator=generator_for(1))
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 120)
    assert manifold_scores(real, generated, generator=generator_for(1)) == whole


def test_errors(generator):
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(torch.full((3, 2), torch.nan), torch.zeros(3, 2), generator)
    with pytest.raises(ValueError, match=r"\(M, D\)"):
        frechet_distance(torch.zeros(3, 2), torch.zeros(3, 4), generator)
    with pytest.raises(ValueError, match="the smaller has 3"):
        manifold_scores(torch.zeros(9, 2), torch.zeros(3, 2), 3, generator)


def test_a_nearest_neighbour_tells_two_laws_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fresh = torch.randn(2, 600, 2, generator=generator)
    same = nearest_neighbour_accuracy(real, fresh, torch.Generator().manual_seed(1))
    # Each of 1,200 answers is right half of the time; neighbours' answers go together in pairs.
    assert abs(same.value - 0.5) < 4 * 0.5 / 600**0.5
    assert nearest_neighbour_accuracy(real, fresh + 100).value == pytest.approx(1)
    assert nearest_neighbour_accuracy(real, real + 1e-9).value == 0
    shifted = nearest_neighbour_accuracy(real, fresh + 1).value
    assert same.value < shifted < 1
    with pytest.raises(ValueError, match="equally many"):
        nearest_neighbour_accuracy(real, fresh[:-1])


def test_a_nearest_neighbour_by_hand() -> None:
    real, generated = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[1.4], [5.1], [9.0]])
    # 0 → 1 (own), 1 → 1.4, 5 → 5.1, 1.4 → 1, 5.1 → 5, 9 → 5.1 (own).
    assert nearest_neighbour_accuracy(real, generated).value == pytest.approx(2 / 6)
