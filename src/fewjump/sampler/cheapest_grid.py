"""The grid of K intervals that costs least, from what every interval costs: a dynamic programme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class IntervalCosts:
    """The cost of every interval between candidate times.

    Attributes:
        times: (M,) float64, increasing from 0 to 1.
        costs: (G, M, M) float64, nats per sequence: [g, s, t] is TC(x_s|x_t) + H(x_s) − H(x_t) as
            group g of the samples has it; +inf unless s < t.
    """

    times: Tensor
    costs: Tensor

    def total(self, grid: Sequence[float] | Tensor) -> Tensor:
        """The cost of a grid of candidate times, by group of samples: (G,).

        Path KLs of two grids that both run from 1 to 0 differ as these do.

        Raises:
            ValueError: for a time that is not a candidate.
        """
        times = torch.as_tensor(grid, dtype=torch.float64)
        distance, place = (times[:, None] - self.times).abs().min(-1)
        if bool((distance > 1e-12).any()):
            raise ValueError(f"{times.tolist()} are not all among the candidate times")
        return self.costs[:, place[1:], place[:-1]].sum(-1)

    def best(self, steps: int) -> Tensor:
        """The cheapest grid of ``steps`` intervals from 1 to 0: (steps + 1,) float64.

        Raises:
            ValueError: if there are not as many candidate intervals.
        """
        if not 1 <= steps < len(self.times):
            raise ValueError(
                f"{len(self.times)} candidate times have no grid of {steps} steps; give more "
                "candidates, or ask for 1 step or more"
            )
        return self.times[cheapest_path(self.costs.mean(0), steps)]


def cheapest_path(costs: Tensor, steps: int) -> Tensor:
    """Indices from M − 1 down to 0 in ``steps`` jumps of least total cost: (steps + 1,) int64.

    Args:
        costs: (M, M), [s, t] for the jump from t to s; +inf where there is none.
        steps: number of jumps.
    """
    reached = torch.full_like(costs[0], torch.inf)
    reached[0] = 0.0
    choices: list[Tensor] = []
    for _ in range(steps):
        reached, before = (reached[:, None] + costs).min(0)
        choices.append(before)
    path = [costs.shape[0] - 1]
    for before in reversed(choices):
        path.append(int(before[path[-1]]))
    return torch.tensor(path)
