from __future__ import annotations

import pytest
import torch

from fewjump.evaluate.bootstrap import Interval, bootstrap, combine, mean, ratio
from fewjump.random import generator_for


def test_the_value_is_the_statistic_of_the_whole_set(generator):
    values = torch.tensor([1.0, 2.0, 6.0])
    assert bootstrap(values, mean, generator).value == pytest.approx(3.0, abs=1e-15)
    pairs = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    assert bootstrap(pairs, ratio, generator).value == pytest.approx(4 / 6, abs=1e-15)
    assert bootstrap(torch.zeros(3, 2), ratio, generator).value == 0


def test_weights_are_counts_of_resampled_items(generator):
    seen = []

    def statistic(values, weights):
        seen.append(weights)
        return weights @ values

    bootstrap(torch.arange(5.0).double(), statistic, generator, n=50)
    counts = seen[1] * 5
    assert counts.shape == (50, 5)
    assert torch.equal(counts, counts.round())
    torch.testing.assert_close(counts.sum(1), torch.full((50,), 5.0, dtype=torch.float64))
    assert counts.max() >= 2, "with replacement"


def test_a_mean_has_its_normal_interval_and_coverage():
    source = generator_for(5)
    hits, widths = 0, []
    for trial in range(200):
        values = torch.randn(60, generator=source, dtype=torch.float64)
        interval = bootstrap(values, mean, generator_for(6, trial))
        hits += interval.low <= 0 <= interval.high
        widths.append(interval.high - interval.low)
    # 95% intervals: 190 ± 3 standard deviations of a binomial, less a little for n = 60.
    assert 176 <= hits <= 199
    assert sum(widths) / 200 == pytest.approx(2 * 1.96 / 60**0.5, rel=0.05)


def test_centring_removes_the_bias_of_resampling(generator):
    # The variance estimate loses the factor (N−1)/N once more on each resampled set.
    values = torch.randn(12, generator=generator, dtype=torch.float64)

    def variance(v, w):
        return w @ v**2 - (w @ v) ** 2

    interval = bootstrap(values, variance, generator, n=4000)
    plain = interval.replicates.mean()
    assert float(plain) < 0.96 * interval.value
    middle = interval.replicates - plain + interval.value
    assert interval.low == pytest.approx(float(middle.quantile(0.025)), abs=1e-12)


def test_same_generator_same_interval():
    values = torch.arange(9.0)
    first, second = (bootstrap(values, mean, generator_for(1)) for _ in range(2))
    assert first == second
    assert torch.equal(first.replicates, second.replicates)


def test_combining_runs_narrows_the_interval():
    values = torch.randn(4, 400, generator=generator_for(2), dtype=torch.float64)
    runs = [bootstrap(v, mean, generator_for(3, i), n=2000) for i, v in enumerate(values)]
    both = combine(runs)
    assert both.value == pytest.approx(float(values.mean()), abs=1e-12)
    width = sum(r.high - r.low for r in runs) / 4
    assert both.high - both.low == pytest.approx(width / 2, rel=0.1)


def test_errors(generator):
    with pytest.raises(ValueError, match="at least 2 items"):
        bootstrap(torch.zeros(1), mean, generator)
    with pytest.raises(ValueError, match="at least one"):
        combine([])
    with pytest.raises(ValueError, match="same number of replicates"):
        combine([Interval(0, 0, 0, torch.zeros(n)) for n in (2, 3)])
