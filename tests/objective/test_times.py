"""Times are uniform, evenly spread, and the same however the batch is split."""

from __future__ import annotations

import pytest
import torch

from fewjump.objective.time_sampling import draw_time_pair, spread_uniform, time_weight
from fewjump.process import Absorbing
from fewjump.random import SampleStreams
from fewjump.schedule import LogLinear


def test_spread_times_are_evenly_spread(generator):
    u = spread_uniform(1000, generator).sort().values
    even = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert (u - even).abs().max() < 0.005
    # Each draw alone is uniform: the mean over many calls of one fixed index is 1/2.
    first = torch.stack([spread_uniform(3, generator)[2] for _ in range(4000)])
    assert abs(float(first.mean()) - 0.5) < 5 * (1 / 12 / 4000) ** 0.5


def test_times_do_not_depend_on_the_batch_split():
    whole = draw_time_pair(8, SampleStreams(7, torch.arange(8)), None, None, 1e-3, 1.0)
    parts = [
        draw_time_pair(4, SampleStreams(7, torch.arange(4) + 4 * k), None, None, 1e-3, 1.0)
        for k in range(2)
    ]
    for i in range(2):
        assert torch.equal(whole[i], torch.cat([p[i] for p in parts]))
    other = draw_time_pair(8, SampleStreams(8, torch.arange(8)), None, None, 1e-3, 1.0)
    assert not torch.equal(whole[1], other[1])


@pytest.mark.parametrize("max_gap", [1.0, 0.1])
def test_pairs_stay_within_their_interval(max_gap, generator):
    s, t = draw_time_pair(5000, generator, None, (1.0, 0.6, 0.2, 0.0), 0.01, max_gap)
    assert set(t.tolist()) == {1.0, 0.6, 0.2}
    below = torch.tensor([{1.0: 0.6, 0.6: 0.2, 0.2: 0.01}[v] for v in t.tolist()])
    assert (s >= torch.maximum(below.double(), t - max_gap) - 1e-12).all()
    assert (s < t).all()
    s, t = draw_time_pair(5000, generator, None, None, 0.01, max_gap)
    assert s.min() >= 0.01
    assert t.max() <= 1
    assert (t - s).max() <= max_gap


def test_elbo_weight_is_one_over_t_for_log_linear_masking():
    process, t = Absorbing(4, LogLinear()), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(time_weight("elbo", process, t), 1 / t)
    torch.testing.assert_close(time_weight("sigma", process, t), process.schedule.sigma(t))
    assert (time_weight("uniform", process, t) == 1).all()
