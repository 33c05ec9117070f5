"""The test of frequencies that the other tests rely on, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fewjump.random import categorical
from sampler.oracle import chi_square_p


def draws(*counts: int) -> Tensor:
    """Sequences of one token, each as often as its count says: (N, 1)."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))[:, None]


def test_by_hand_and_in_closed_form() -> None:
    # 1 degree of freedom: P(χ² ≥ s) = erfc(√(s/2)); 2 degrees: exp(−s/2).
    found = chi_square_p(draws(60, 40), torch.tensor([0.5, 0.5]), 2)
    assert found == pytest.approx(math.erfc(math.sqrt(2)), rel=1e-10)
    found = chi_square_p(draws(50, 30, 20), torch.full((3,), 1 / 3), 3)
    assert found == pytest.approx(math.exp(-7), rel=1e-4)


def test_rare_cells_are_pooled() -> None:
    pooled = chi_square_p(draws(85, 6, 5, 4), torch.tensor([0.9, 0.04, 0.04, 0.02]), 4)
    by_hand = chi_square_p(draws(85, 15), torch.tensor([0.9, 0.1]), 2)
    assert pooled == pytest.approx(by_hand, rel=1e-5)


def test_the_impossible_and_the_certain() -> None:
    assert chi_square_p(draws(9, 1), torch.tensor([1.0, 0.0]), 2) == 0
    assert chi_square_p(draws(10, 0), torch.tensor([1.0, 0.0]), 2) == 1


def test_p_values_are_uniform_under_the_truth(generator: torch.Generator) -> None:
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    sets = categorical(probs.expand(400, 500, 4), generator)
    p_values = [chi_square_p(row[:, None], probs, 4) for row in sets]
    below = torch.tensor([sum(p < q for p in p_values) / 400 for q in (0.1, 0.5, 0.9)])
    assert float((below - torch.tensor([0.1, 0.5, 0.9])).abs().max()) < 0.075
