"""The search for the cheapest grid, against exhaustion."""

from __future__ import annotations

from itertools import combinations, pairwise

import torch

from fewjump.sampler.fitted_grid import cheapest_path


def test_search_equals_exhaustion() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        costs = torch.randn(8, 8, generator=generator, dtype=torch.float64)
        costs = torch.where(torch.ones(8, 8).triu(1) > 0, costs, torch.inf)
        for steps in range(1, 8):
            paths = [(7, *sorted(c, reverse=True), 0) for c in combinations(range(1, 7), steps - 1)]
            totals = [sum(float(costs[s, t]) for t, s in pairwise(path)) for path in paths]
            found = cheapest_path(costs, steps).tolist()
            assert tuple(found) == paths[totals.index(min(totals))]
