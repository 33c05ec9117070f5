"""Arbitrary generators: checks, limit laws, exponentials, ordinal constructors."""

from __future__ import annotations

import pytest
import torch

from fewjump.process import (
    Absorbing,
    FixedRate,
    Uniform,
    birth_death_rate,
    discretised_gaussian_rate,
    rescale_to_gap,
)
from fewjump.process.exponential import exponential_from_series, exponential_from_spectrum
from fewjump.process.fixed_rate import ExponentialKernel
from fewjump.process.generators import close_rows, stationary_law
from fewjump.schedule import Linear, LogLinear
from laws.registry import jordan_rate, random_rate, reversible_rate

unmixed = pytest.mark.filterwarnings("ignore:at t = 1 the slowest mode:UserWarning")


def chain(*edges, size=4):
    rate = torch.zeros(size, size, dtype=torch.float64)
    for a, b, value in edges:
        rate[a, b] = value
    return close_rows(rate)


# -- checks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(3, 4), "shape"),
        (torch.zeros(1, 1), "shape"),
        (torch.zeros(3), "shape"),
        (torch.tensor([[-1.0, 1.0], [torch.nan, 0.0]]), "NaN"),
        (torch.tensor([[1.0, -1.0], [1.0, -1.0]]), r"entry \[0, 1\]"),
        (torch.tensor([[-1.0, 1.0], [1.0, -2.0]]), "row 1 sums to -1"),
        (torch.tensor([[-1.0, 2.0], [1.0, -2.0]]), "transpose"),
        (torch.zeros(3, 3), "no positive rate"),
    ],
)
def test_what_is_not_a_generator_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        FixedRate(matrix, LogLinear())


def test_two_closed_classes_are_refused():
    two_islands = chain((0, 1, 1.0), (1, 0, 1.0), (2, 3, 1.0), (3, 2, 1.0))
    with pytest.raises(ValueError, match="states 0 and 2"):
        FixedRate(two_islands, LogLinear())
    two_traps = chain((0, 1, 1.0), (0, 3, 1.0), (2, 1, 1.0))
    with pytest.raises(ValueError, match="states 1 and 3"):
        FixedRate(two_traps, LogLinear())


def test_transient_states_are_allowed_and_vanish():
    process = FixedRate(chain((0, 1, 1.0), (1, 0, 1.0), (2, 0, 1.0), (3, 2, 2.0)), LogLinear())
    assert process.prior().tolist() == [0.5, 0.5, 0.0, 0.0]
    assert bool((process.kernel(0.0, 0.5).dense()[:2, 2:] == 0).all())


def test_a_masking_generator_is_absorbing():
    rate = chain((0, 3, 1.0), (1, 3, 1.0), (2, 3, 1.0))
    process = FixedRate(rate, LogLinear())
    assert process.prior().tolist() == [0.0, 0.0, 0.0, 1.0]
    kernel = process.kernel(0.0, 0.5).dense()
    torch.testing.assert_close(kernel[:3, 3], torch.full((3,), 0.4995, dtype=torch.float64))


def test_rounding_of_a_float32_matrix_is_forgiven():
    process = FixedRate(random_rate(6).float(), LogLinear())
    assert process.base_rate().dtype == torch.float64
    # Rows add up in whatever order a sum takes them, to the last bits.
    assert float(process.base_rate().sum(-1).abs().max()) < 1e-15
    assert process.rate(0.3).shape == (6, 6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: birth_death_rate(50_257),
        lambda: discretised_gaussian_rate(50_257),
        lambda: Uniform(50_257, LogLinear()).kernel(0.0, 0.5).dense(),
        lambda: Uniform(50_257, LogLinear()).base_rate(),
        lambda: Uniform(50_257, LogLinear()).rate(0.5),
        lambda: Uniform(4096, LogLinear()).kernel(0.0, torch.full((32,), 0.5)).dense(),
    ],
)
def test_a_dense_matrix_that_would_not_fit_is_refused(call):
    with pytest.raises(ValueError, match="too large"):
        call()


@pytest.mark.parametrize(
    ("s", "t"), [(0.5, 0.4), (-0.1, 0.4), (0.5, 1.1), (0.0, torch.tensor([0.2, 1.5]))]
)
@pytest.mark.parametrize(
    "process", [Uniform(4, LogLinear()), FixedRate(random_rate(4), LogLinear())], ids=repr
)
def test_times_out_of_order_are_refused(process, s, t):
    x = torch.zeros(2, 3, dtype=torch.int64)
    for call in (
        lambda: process.kernel(s, t).dense(),
        lambda: process.corrupt(x, s, t),
        lambda: process.bridge(x, x, s, t),
        lambda: process.reverse_marginals(torch.full((2, 3, 4), 0.25), x, s, t),
    ):
        with pytest.raises(ValueError, match="0 <= s <= t <= 1"):
            call()


# -- limit law and exponential ------------------------------------------------------------------


def test_stationary_law_keeps_small_probabilities():
    # π_k ∝ 1e-3^k: detailed balance of a walk gives it exactly.
    law = stationary_law(birth_death_rate(9, up=1e-3, down=1.0))
    expected = 1e-3 ** torch.arange(9, dtype=torch.float64)
    torch.testing.assert_close(law, expected / expected.sum(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("rate", [random_rate(5), reversible_rate(5), birth_death_rate(9)])
@unmixed
def test_spectrum_and_series_agree(rate):
    process = FixedRate(rate, LogLinear())
    assert process._spectrum is not None
    gap = torch.tensor([0.0, 0.3, 2.0, 40.0], dtype=torch.float64)
    spectral = exponential_from_spectrum(process._spectrum, gap)
    series = exponential_from_series(rate, gap)
    torch.testing.assert_close(spectral, series, rtol=0, atol=1e-13)
    reference = torch.linalg.matrix_exp(gap[:, None, None] * rate)
    torch.testing.assert_close(series, reference, rtol=0, atol=1e-10)


def test_which_way_a_generator_is_decomposed():
    reversible = FixedRate(reversible_rate(5), LogLinear())
    assert reversible._spectrum is not None
    assert not reversible._spectrum.values.is_complex()
    general = FixedRate(random_rate(5), LogLinear())
    assert general._spectrum is not None
    assert general._spectrum.values.is_complex()
    assert FixedRate(jordan_rate(), LogLinear())._spectrum is None


def test_far_entries_keep_their_relative_precision():
    # A symmetric walk: P_τ[0, 12] = τ^12/12!·(1 + O(τ)), far below the rounding of a
    # spectral form; the posterior divides by it.
    process = FixedRate(rescale_to_gap(birth_death_rate(13)), Linear(sigma_max=10.0))
    rate, mp = process.base_rate(), pytest.importorskip("mpmath")
    smallest = 1.0
    for t in (1e-5, 1e-3, 0.02):
        with mp.workdps(60):
            exact = mp.expm(mp.matrix(rate.tolist()) * (mp.mpf(10) * mp.mpf(t)), method="taylor")
            values = [[float(exact[a, b]) for b in range(13)] for a in range(13)]
        expected = torch.tensor(values, dtype=torch.float64)
        kernel = process.kernel(0.0, t).dense()
        smallest = min(smallest, float(expected.min()))
        torch.testing.assert_close(kernel, expected, rtol=1e-9, atol=0)
    assert smallest < 1e-40


def test_posterior_on_tokens_that_cannot_have_led_here_does_no_harm():
    # A network puts mass on levels that are 200 steps away; at small t that has no likelihood.
    process = FixedRate(rescale_to_gap(birth_death_rate(256)), Linear(sigma_max=5.0))
    x_t = torch.tensor([[0, 128, 255]])
    posterior = torch.full((1, 3, 256), 1 / 256, dtype=torch.float32)
    for s, t in ((0.0, 1e-6), (1e-7, 1e-6), (0.0, 0.0), (0.01, 0.02)):
        reverse = process.reverse_marginals(posterior, x_t, s, t)
        assert reverse.dtype == torch.float32
        assert bool((reverse >= 0).all())
        torch.testing.assert_close(reverse.sum(-1), torch.ones(1, 3), rtol=0, atol=1e-5)
        bridge = process.bridge_marginals(x_t, 255 - x_t, s, t)
        torch.testing.assert_close(bridge.sum(-1), torch.ones(1, 3).double(), rtol=0, atol=1e-12)
        drawn = process.bridge(x_t, 255 - x_t, s, t, torch.Generator().manual_seed(0))
        if s == 0:
            assert torch.equal(drawn, 255 - x_t)


def test_batched_corruption_does_not_build_a_kernel_for_each_element(generator, monkeypatch):
    process = FixedRate(random_rate(8), LogLinear())
    x = torch.arange(8).repeat(5000)[:, None]
    t = torch.full((40_000,), 0.3, dtype=torch.float64)
    monkeypatch.setattr(ExponentialKernel, "dense", None)
    draws = process.corrupt(x, 0.0, t, generator).reshape(5000, 8)
    monkeypatch.undo()
    counts = torch.stack([torch.bincount(c, minlength=8) for c in draws.T]) / 5000
    assert float((counts - process.kernel(0.0, 0.3).dense()).abs().max()) < 0.03


@pytest.mark.parametrize(
    "make",
    [
        lambda schedule: FixedRate(reversible_rate(4), schedule),
        lambda schedule: Uniform(4, schedule),
        lambda schedule: Absorbing(4, schedule),
    ],
    ids=["rate", "uniform", "absorbing"],
)
def test_ratios_that_determine_nothing_are_refused(make):
    process = make(Linear(sigma_max=300.0))
    with pytest.raises(ValueError, match="singular"):
        process.posterior_from_ratios(torch.ones(1, 2, 4), torch.zeros(1, 2).long(), 1.0)


@pytest.mark.parametrize("make", [lambda s: Uniform(3, s), lambda s: Absorbing(3, s)])
@pytest.mark.parametrize("wrong", [-1, 3])
def test_states_that_there_are_not_are_not_noised(make, wrong):
    x = torch.tensor([[0, 1, wrong]])
    with pytest.raises(ValueError, match=r"states must lie in 0\.\.2"):
        make(LogLinear()).corrupt(x, 0.0, 0.5)


# -- ordinal constructors -----------------------------------------------------------------------


def test_birth_death():
    rate = birth_death_rate(4, up=[1.0, 2.0, 3.0], down=0.5)
    assert rate.diagonal(1).tolist() == [1.0, 2.0, 3.0]
    assert rate.diagonal(-1).tolist() == [0.5, 0.5, 0.5]
    assert rate.sum(-1).abs().max() == 0
    assert int((rate != 0).sum()) == 10
    torch.testing.assert_close(
        stationary_law(birth_death_rate(6)), torch.full((6,), 1 / 6).double()
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: birth_death_rate(1), "at least 2"),
        (lambda: birth_death_rate(4, up=0.0), "up must be positive"),
        (lambda: birth_death_rate(4, down=[1.0, 1.0]), "down must be one number or 3"),
        (lambda: discretised_gaussian_rate(1), "at least 2"),
        (lambda: discretised_gaussian_rate(4, width=0.0), "width must be positive"),
    ],
)
def test_impossible_ordinal_rates_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_discretised_gaussian():
    rate = discretised_gaussian_rate(17, width=2.0)
    assert torch.equal(rate, rate.mT)
    expected = torch.exp(torch.tensor(-(3**2) / 8 + 1 / 8)).double()
    torch.testing.assert_close(rate[5, 8] / rate[5, 6], expected, rtol=1e-6, atol=0)
    # 16 levels of a Gaussian of width 2 cover it: the middle is left at rate 1 in all.
    assert float(-rate[8, 8]) == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(stationary_law(rate), torch.full((17,), 1 / 17).double())
    narrow = discretised_gaussian_rate(5, width=0.01)
    torch.testing.assert_close(narrow, birth_death_rate(5, up=0.5, down=0.5))


def test_rescaling_sets_the_speed_of_forgetting():
    slow = birth_death_rate(17)
    with pytest.warns(UserWarning, match="rescale_to_gap"):
        FixedRate(slow, LogLinear())
    process = FixedRate(rescale_to_gap(slow), LogLinear())
    assert process.spectral_gap == pytest.approx(1.0, rel=1e-10)
    last = process.kernel(0.0, 1.0).dense()
    distance = (last - process.prior()).abs().sum(-1).max() / 2
    assert float(distance) < 2e-3
