"""Priors that move: closed forms against quadrature, GIDD's own marginals, large vocabularies."""

from __future__ import annotations

import math

import pytest
import torch

from fewjump.problem import EnumeratedJoint
from fewjump.process import (
    Absorbing,
    GIDDPriors,
    InterpolatedPriors,
    ResetToPrior,
    TimeVaryingPrior,
    gidd,
    mask_to_uniform,
    process_from_config,
    uniform_to_mask,
)
from fewjump.process.prior_path import mask_and_uniform
from fewjump.schedule import Geometric, LogLinear
from laws.time_ordered import time_ordered

LAWS = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0.2, 0.2, 0.6]], dtype=torch.float64)
INTERVALS = [(0.0, 1e-6), (0.0, 0.3), (0.2, 0.2000001), (0.1, 0.9), (0.5, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize(("s", "t"), INTERVALS)
def test_a_path_with_knots_is_integrated_across_them(s, t):
    process = TimeVaryingPrior(InterpolatedPriors(LAWS, [0, 0.4, 1]), LogLinear())
    knot = 0.4 / (1 - 1e-3)
    torch.testing.assert_close(
        process.kernel(s, t).dense(), time_ordered(process, s, t, (knot,)), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("t", [1e-6, 0.01, 0.5, 0.99, 1 - 1e-6])
@pytest.mark.parametrize("peak", [0.01, 0.1, 0.5])
def test_gidd_has_the_marginals_of_its_paper(peak, t):
    # c = B·√(τ(1−τ)) against 1 − τ clean and τ masked, on the clock that has τ = t.
    c = 2 * peak / (1 - peak) * math.sqrt(t * (1 - t))
    level = -math.log((1 - t) / (1 + c))
    path = GIDDPriors(5, peak)
    end = torch.tensor(level, dtype=torch.float64)
    redrawn = (1 - math.exp(-level)) * path.redrawn(end * 0, end, end)
    expected = torch.tensor([c / 4] * 4 + [t], dtype=torch.float64) / (1 + c)
    torch.testing.assert_close(redrawn, expected, rtol=1e-10, atol=1e-16)


def test_gidd_is_uniform_by_its_share_halfway():
    process = gidd(6, LogLinear(), peak=0.2)
    alpha = 0.5 / (1 + 0.25)
    level = torch.tensor(-math.log(alpha), dtype=torch.float64)
    masses = (1 - alpha) * process.path.redrawn(level * 0, level, level)
    assert float(masses[:5].sum()) == pytest.approx(0.2, rel=1e-12)
    assert float(masses[5]) == pytest.approx(0.5 / 1.25, rel=1e-12)


def test_a_path_that_stands_still_is_a_reset():
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    still = TimeVaryingPrior(InterpolatedPriors(torch.stack([prior, prior])), LogLinear())
    reset = ResetToPrior(prior, LogLinear())
    for s, t in INTERVALS:
        torch.testing.assert_close(
            still.kernel(s, t).dense(), reset.kernel(s, t).dense(), rtol=0, atol=1e-15
        )


@pytest.mark.parametrize(("s", "t"), INTERVALS)
def test_a_function_of_time_is_integrated_to_its_tolerance(s, t):
    exact = TimeVaryingPrior(InterpolatedPriors(LAWS, [0, 0.4, 1]), LogLinear())
    sampled = TimeVaryingPrior(lambda u: exact.redraws_from(u).on(), LogLinear(), tolerance=1e-9)
    # The kink at 0.4 is not announced: panels close in on it.
    assert sampled.path.error < 1e-9
    torch.testing.assert_close(
        sampled.kernel(s, t).dense(), exact.kernel(s, t).dense(), rtol=0, atol=1e-9
    )
    batch = torch.tensor([s, 0.0, s]).double(), torch.tensor([t, t, t]).double()
    torch.testing.assert_close(
        sampled.kernel(*batch).redrawn.on(),
        exact.kernel(*batch).redrawn.on(),
        rtol=0,
        atol=1e-9 / max(t - s, 1e-9),
    )


def test_a_function_may_jump():
    def step(t):
        return torch.where(t[:, None] < 0.37, LAWS[0], LAWS[1])

    process = TimeVaryingPrior(step, LogLinear(), tolerance=1e-9)
    alpha = process.schedule.alpha
    before = alpha(0.8) * (1 / alpha(0.37) - 1)
    expected = before * LAWS[0] + (1 - alpha(0.8) - before) * LAWS[1]
    found = (1 - alpha(0.8)) * process.kernel(0.0, 0.8).redrawn.on()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: InterpolatedPriors([[0.5, 0.6], [1.0, 0.0]]), "row 0 sums to 1.1"),
        (lambda: InterpolatedPriors([[1.5, -0.5], [1.0, 0.0]]), "smallest entry -0.5"),
        (lambda: InterpolatedPriors([[0.5, 0.5]]), "at least 2 laws"),
        (lambda: InterpolatedPriors(LAWS, [0, 0.5, 0.5]), "3 increasing numbers from 0 to 1"),
        (lambda: InterpolatedPriors(LAWS, [0, 1]), "3 increasing numbers"),
        (lambda: GIDDPriors(5, 1.0), r"peak must lie in \(0, 1\)"),
        (lambda: GIDDPriors(2), "at least 3 states"),
        (lambda: GIDDPriors(5, mask=5), r"mask must lie in \[0, 5\)"),
        (lambda: TimeVaryingPrior(GIDDPriors(5), LogLinear(), mask=7), "mask must lie"),
        (lambda: TimeVaryingPrior(lambda t: LAWS[0], LogLinear()), r"times \(N,\) to \(N, V\)"),
        (lambda: TimeVaryingPrior(lambda t: t[:, None] + LAWS[:1], LogLinear()), "sums to"),
        (
            lambda: TimeVaryingPrior(
                lambda t: torch.rand(len(t), 3).double().softmax(-1), LogLinear()
            ),
            "moves too fast",
        ),
        (lambda: process_from_config({**CONFIG, "path": {"name": "Loop"}}), "unknown prior path"),
        (
            lambda: process_from_config({**CONFIG, "path": {"name": "GIDDPriors", "x": 1}}),
            "does not fit path GIDDPriors",
        ),
        (lambda: TimeVaryingPrior(lambda t: LAWS[0].expand(len(t), 3), LogLinear()).config(),
         "InterpolatedPriors"),
    ],
)  # fmt: skip
def test_what_is_no_path_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


CONFIG = {"name": "TimeVaryingPrior", "schedule": {"name": "LogLinear"}}


@pytest.mark.parametrize("make", [mask_to_uniform, uniform_to_mask, gidd])
def test_the_mask_is_no_clean_token(make):
    probs = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = EnumeratedJoint(probs / probs.sum())
    denoiser = problem.denoiser(make(4, LogLinear()))
    assert denoiser.clean_vocab_size == 3
    x_t = torch.tensor([[3, 3], [0, 3], [1, 2]])
    law = denoiser(x_t, 0.5)
    assert bool((law.marginals()[..., 3] == 0).all())
    # A token that is shown may be noise: the posterior does not take it for certain.
    assert float(law.marginals()[2, 0, 1]) < 0.999
    with pytest.raises(ValueError, match="needs 4 states with the last as"):
        problem.denoiser(make(5, LogLinear()))


def test_visible_where_the_prior_has_not_been():
    # Masks only, until the knot: a token shown before it was never redrawn.
    masked, uniform = mask_and_uniform(4)
    path = InterpolatedPriors(torch.stack([masked, masked, uniform]), [0, 0.5, 1])
    process, absorbing = TimeVaryingPrior(path, LogLinear(), mask=3), Absorbing(4, LogLinear())
    x_t = torch.tensor([[0, 1, 3]])
    posterior = torch.tensor([0.2, 0.3, 0.5, 0.0], dtype=torch.float64).expand(1, 3, 4)
    for s, t in ((0.0, 0.3), (0.1, 0.4)):
        torch.testing.assert_close(
            process.reverse_marginals(posterior, x_t, s, t),
            absorbing.reverse_marginals(posterior, x_t, s, t),
        )
    assert float(process.reverse_marginals(posterior, x_t, 0.1, 0.9)[0, 0, 0]) < 0.9


def test_a_large_vocabulary_needs_no_square():
    vocab = 50_257
    process = gidd(vocab, LogLinear())
    source = torch.Generator().manual_seed(0)
    x0 = torch.randint(0, vocab - 1, (4, 16), generator=source)
    t = torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    x_t = process.corrupt(x0, 0.0, t, source)
    posterior = torch.softmax(torch.randn(4, 16, vocab, generator=source), -1)
    reverse = process.reverse_marginals(posterior, x_t, t / 2, t)
    assert reverse.dtype == torch.float32
    torch.testing.assert_close(reverse.sum(-1), torch.ones(4, 16), rtol=0, atol=1e-4)
    assert process.bridge(x_t, x0, t / 2, t, source).shape == (4, 16)
    with pytest.raises(ValueError, match="TimeVaryingPrior"):
        process.kernel(0.0, 0.5).dense()


def test_schedules_that_start_above_zero():
    process = uniform_to_mask(4, Geometric())
    first = process.kernel(0.0, 1e-9).dense()
    assert float(first[0, 0]) == pytest.approx(
        math.exp(-1e-4) + (1 - math.exp(-1e-4)) / 3, abs=1e-8
    )
    torch.testing.assert_close(
        first @ process.kernel(1e-9, 0.7).dense(), process.kernel(0.0, 0.7).dense()
    )
