"""Shared test set-up: one torch thread per xdist worker, and seeded generators."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20251212)
