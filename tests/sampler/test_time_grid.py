"""Grids: exact end points, the shapes they promise, and validation."""

from __future__ import annotations

import math

import pytest
import torch

from fewjump.sampler import GRIDS, time_grid
from fewjump.schedule import Cosine, Geometric, Linear, LogLinear

SCHEDULES = [LogLinear(), Geometric(), Cosine(), Linear()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("steps", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("name", GRIDS)
def test_runs_from_noise_to_data(name: str, steps: int, schedule) -> None:
    times = time_grid(name, steps, schedule)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert times[0] == 1
    assert times[-1] == 0
    assert bool((times[1:] < times[:-1]).all())


def test_shapes() -> None:
    assert time_grid(None, 4, LogLinear()).tolist() == [1, 0.75, 0.5, 0.25, 0]
    cosine = time_grid("cosine", 4, LogLinear())
    assert float(cosine[2]) == pytest.approx(math.cos(math.pi / 4))
    for schedule in SCHEDULES:
        times = time_grid("log-linear", 8, schedule)
        gaps = schedule.sigma_bar(times[:-1]).log().diff()
        assert torch.allclose(gaps, gaps[0].expand(7), atol=1e-9)
        assert float(times[-2]) == pytest.approx(1 / 8)


def test_given_times() -> None:
    given = [1.0, 0.3, 1e-5]
    assert time_grid(given, None, LogLinear()).tolist() == given
    assert time_grid(torch.tensor(given, dtype=torch.float64), 2, LogLinear()).tolist() == given


@pytest.mark.parametrize(
    "times", [[1.0], [0.5, 0.5], [0.0, 1.0], [1.5, 0.0], [1.0, -0.1], [1.0, float("nan"), 0.0]]
)
def test_bad_times(times: list[float]) -> None:
    with pytest.raises(ValueError, match=r"times|decrease"):
        time_grid(times, None, LogLinear())
