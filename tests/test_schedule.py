"""Schedules: derivative, inverse, precision near both ends, and the originals' tables."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewjump.api import train_teacher
from fewjump.process import Uniform
from fewjump.registry import SCHEDULES as NAMED
from fewjump.schedule import (
    Cosine,
    Geometric,
    Linear,
    LogLinear,
    Schedule,
    as_time,
    schedule_from_config,
)
from laws.registry import SCHEDULES

GOLDEN = json.loads((Path(__file__).parent / "golden" / "schedules.json").read_text())
# Times that float32 holds exactly, close to both ends and to each other.
EDGES = [2.0**-20, 2.0**-12, 0.01, 0.25, 0.49999, 0.5, 0.75, 0.99, 1 - 2.0**-12, 1 - 2.0**-20, 1.0]


def exact_sigma_bar(schedule, t, mp):
    """σ̄(t) in 50 digits, from the formula in the paper that introduced it."""
    t = mp.mpf(t)
    if isinstance(schedule, LogLinear):
        return -mp.log(1 - (1 - mp.mpf(schedule.eps)) * t)
    if isinstance(schedule, Cosine):
        return -mp.log(1 - mp.cos(mp.pi / 2 * (1 - (1 - mp.mpf(schedule.eps)) * t)))
    if isinstance(schedule, Geometric):
        return mp.mpf(schedule.sigma_min) ** (1 - t) * mp.mpf(schedule.sigma_max) ** t
    return schedule.sigma_min + (mp.mpf(schedule.sigma_max) - mp.mpf(schedule.sigma_min)) * t


@pytest.fixture
def mp():
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        yield mpmath


def test_every_schedule_is_registered():
    assert SCHEDULES.missing() == set()


@pytest.mark.parametrize("make", SCHEDULES.params())
def test_rate_is_the_derivative_of_the_total(make):
    schedule, h = make(), 1e-4
    t = torch.linspace(0.01, 0.97, 33, dtype=torch.float64)
    f = schedule.sigma_bar
    slope = (f(t - 2 * h) - 8 * f(t - h) + 8 * f(t + h) - f(t + 2 * h)) / (12 * h)
    torch.testing.assert_close(schedule.sigma(t), slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", SCHEDULES.params())
def test_rate_near_the_noise_end(make, mp):
    schedule = make()
    for t in (0.999, 1 - 1e-6, 1.0):
        slope = float(mp.diff(lambda u: exact_sigma_bar(schedule, u, mp), t))
        for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
            value = torch.tensor(t, dtype=dtype)
            if float(value) == t or dtype == torch.float64:
                assert float(schedule.sigma(value)) == pytest.approx(slope, rel=rtol)


@pytest.mark.parametrize("make", SCHEDULES.params())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_totals_and_differences_keep_their_precision(make, dtype, mp):
    schedule = make()
    # exp(log-ratio · t) of the geometric schedule costs its log-ratio in digits.
    rtol = 1e-14 if dtype == torch.float64 else 6e-7
    if isinstance(schedule, Geometric):
        rtol *= 4
    times = [float(torch.tensor(t, dtype=dtype)) for t in EDGES]
    for t in times:
        total = exact_sigma_bar(schedule, t, mp)
        now = torch.tensor(t, dtype=dtype)
        assert schedule.sigma_bar(now).dtype == dtype
        assert float(schedule.sigma_bar(now)) == pytest.approx(float(total), rel=rtol)
        assert float(schedule.one_minus_alpha(now)) == pytest.approx(
            float(1 - mp.exp(-total)), rel=rtol
        )
        # α = exp(−σ̄) turns the relative error of σ̄ into one of σ̄ times that.
        assert float(schedule.alpha(now)) == pytest.approx(
            float(mp.exp(-total)), rel=rtol * max(1.0, float(total))
        )
        for s in times:
            if s < t:
                gap = float(total - exact_sigma_bar(schedule, s, mp))
                value = float(schedule.between(torch.tensor(s, dtype=dtype), now))
                assert value == pytest.approx(gap, rel=rtol), (s, t)


@pytest.mark.parametrize("make", SCHEDULES.params())
def test_clean_data_is_level_zero(make):
    schedule = make()
    assert float(schedule.level(0.0)) == 0.0
    assert float(schedule.alpha(0.0)) == 1.0
    assert float(schedule.one_minus_alpha(0.0)) == 0.0
    t = torch.tensor([0.0, 0.3, 1.0])
    assert schedule.between(0.0, t)[0] == 0
    torch.testing.assert_close(schedule.between(torch.zeros(3), t), schedule.level(t))
    assert torch.equal(schedule.between(t, t), torch.zeros(3))


@pytest.mark.parametrize("make", SCHEDULES.params())
def test_levels_add_up(make):
    schedule = make()
    s, t, u = (torch.tensor(v, dtype=torch.float64) for v in (0.2, 0.55, 0.9))
    torch.testing.assert_close(
        schedule.between(s, t) + schedule.between(t, u), schedule.between(s, u), rtol=1e-13, atol=0
    )
    torch.testing.assert_close(
        schedule.level(s) + schedule.between(s, u), schedule.level(u), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("make", SCHEDULES.params())
def test_inverses_round_trip(make):
    schedule = make()

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(st.floats(min_value=1e-6, max_value=1.0))
    def check(t):
        total = schedule.sigma_bar(t)
        assert float(schedule.time_of_sigma_bar(total)) == pytest.approx(t, rel=1e-9)
        # From α, digits of t are lost where α is 1 to rounding.
        again = float(schedule.time_of_alpha(schedule.alpha(t)))
        assert again == pytest.approx(t, rel=1e-9, abs=1e-11)

    check()
    assert float(schedule.time_of_sigma_bar(1e9)) == 1.0
    assert float(schedule.time_of_sigma_bar(0.0)) == 0.0


def test_inverse_of_the_geometric_schedule_is_flat_below_its_offset():
    assert float(Geometric(sigma_min=1e-2).time_of_sigma_bar(1e-3)) == 0.0


@pytest.mark.parametrize("make", SCHEDULES.params())
def test_shape_and_type_follow_the_time(make):
    schedule = make()
    for method in (schedule.sigma_bar, schedule.sigma, schedule.alpha, schedule.one_minus_alpha):
        assert method(0.5).dtype == torch.float64
        assert method(0.5).shape == ()
        assert method(torch.rand(2, 3)).shape == (2, 3)
        assert method(torch.rand(3)).dtype == torch.float32
        assert method(1).dtype == torch.float64


@pytest.mark.parametrize("make", SCHEDULES.params())
def test_config_round_trip(make):
    schedule = make()
    assert schedule_from_config(json.loads(json.dumps(schedule.config()))) == schedule


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="LogLinear"):
        schedule_from_config({"name": "Quadratic"})


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogLinear(eps=0.0),
        lambda: LogLinear(eps=1.0),
        lambda: Cosine(eps=-0.1),
        lambda: Geometric(sigma_min=0.0),
        lambda: Geometric(sigma_min=2.0, sigma_max=1.0),
        lambda: Linear(sigma_max=0.0),
        lambda: Linear(sigma_max=1.0, sigma_min=1.0),
    ],
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(ValueError, match="needs"):
        make()


@pytest.mark.parametrize("name", [k for k in GOLDEN if k != "comment"])
def test_tables_of_the_original_code(name):
    schedule = {"LogLinear": LogLinear, "Cosine": Cosine}[name.split("-")[0]]()
    table = {k: torch.tensor(v, dtype=torch.float64) for k, v in GOLDEN[name].items()}
    t = table["t"]
    alpha = schedule.alpha(t)
    # The originals round α to 1e-7 in float32; σ̄ and σ inherit that error divided by α.
    slack = 1.2e-7
    # Duo's cosine code leaves the factor 1−eps out of dα/dt; ours is the derivative (see above).
    omitted = 1 - schedule.eps if name == "Cosine" else 1.0
    ours = {
        "alpha": (alpha, slack + 0 * t),
        "alpha_rate": (-schedule.sigma(t) * alpha / omitted, 3 * slack + 0 * t),
        "sigma_bar": (schedule.sigma_bar(t), slack / alpha),
        "sigma": (schedule.sigma(t), slack / alpha**2),
    }
    for key, values in table.items():
        if key != "t":
            value, tolerance = ours[key]
            assert bool(((value - values).abs() <= tolerance).all()), (key, value - values)


def test_end_points_of_the_original_conventions():
    assert float(LogLinear().alpha(1.0)) == 1e-3
    assert float(LogLinear().sigma(1.0)) == pytest.approx(999.0, rel=1e-14)
    assert float(Geometric().sigma_bar(0.0)) == pytest.approx(1e-4, rel=1e-14)
    assert float(Geometric().sigma_bar(1.0)) == pytest.approx(20.0, rel=1e-14)
    assert float(Cosine().alpha(1.0)) == pytest.approx(1 - math.cos(math.pi / 2 * 1e-3), rel=1e-9)
    assert float(Linear(sigma_max=7.0).sigma_bar(1.0)) == 7.0


class _Plain(Schedule):
    def sigma_bar(self, t):
        return 3.0 * as_time(t) ** 2

    def sigma(self, t):
        return 6.0 * as_time(t)

    def time_of_sigma_bar(self, sigma_bar):
        return (as_time(sigma_bar) / 3.0).clamp(0, 1).sqrt()


@dataclass(frozen=True)
class Quadratic(_Plain):
    """A schedule from outside the library."""


def test_a_schedule_of_ones_own_has_a_name(monkeypatch):
    with pytest.raises(ValueError, match="must be a dataclass"):
        _Plain().config()
    with pytest.raises(ValueError, match="unknown schedule 'Quadratic'; known: LogLinear"):
        schedule_from_config(Quadratic().config())
    monkeypatch.setattr(NAMED, "_places", dict(NAMED._places))
    NAMED.add("Quadratic", Quadratic)
    assert schedule_from_config(Quadratic().config()) == Quadratic()
    data = torch.randint(3, (20, 4), generator=torch.Generator().manual_seed(0))
    options = {"steps": 2, "batch_size": 4, "warmup": 1, "progress": False}
    network = {"hidden": 8, "blocks": 1, "heads": 2}
    teacher = train_teacher(data, Uniform(3, Quadratic()), network=network, **options)
    assert teacher.process.schedule == Quadratic()
