"""Posteriors from scores: the published noise figures, non-negative methods, bounds on memory."""

from __future__ import annotations

import pytest
import torch

from fewjump.process import Absorbing, Recovery, ResetToPrior, Uniform, recovery
from fewjump.process.recovery import normalise, project_to_simplex
from fewjump.schedule import LogLinear

NON_NEGATIVE = ("clip", "project", "multiplicative")


def noisy_scores(process, alpha, positions=32, concentration=1.0, noise=0.01):
    """A random posterior, and its scores with 1% of multiplicative noise."""
    source = torch.Generator().manual_seed(7)
    v = process.vocab_size
    weights = torch.rand(1, positions, v, generator=source, dtype=torch.float64)
    weights = (-torch.log(weights)) ** (1 / concentration)
    x_t = torch.randint(v, (1, positions), generator=source)
    t = float(process.schedule.time_of_alpha(alpha))
    weights = weights * (process.likelihood(x_t, t) > 0)
    posterior = weights / weights.sum(-1, keepdim=True)
    ratios = process.ratios_from_posterior(posterior, x_t, t)
    error = torch.randn(ratios.shape, generator=source, dtype=torch.float64)
    ratios = ratios * (1 + noise * error)
    return posterior, ratios.scatter(-1, x_t[..., None], 1.0), x_t, t


@pytest.mark.parametrize(("alpha", "published"), [(0.5, 0.016), (0.1, 0.076), (0.01, 0.81)])
def test_score_noise_is_amplified_as_stated(alpha, published):
    process = Uniform(1000, LogLinear(eps=1e-6))
    posterior, ratios, x_t, t = noisy_scores(process, alpha)
    found = process.recover(ratios, x_t, t)
    error = float((found.posterior - posterior).abs().sum(-1).mean())
    assert published / 1.25 < error < published * 1.25
    assert float(found.condition_number) == pytest.approx(1 / alpha, rel=1e-9)
    negative = -found.posterior.clamp(max=0).sum(-1)
    torch.testing.assert_close(found.clipped_mass, negative)


@pytest.mark.parametrize("method", NON_NEGATIVE)
@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.01])
def test_non_negative_methods_return_laws_and_do_not_hurt(method, alpha):
    process = Uniform(1000, LogLinear(eps=1e-6))
    posterior, ratios, x_t, t = noisy_scores(process, alpha)
    exact, found = (process.recover(ratios, x_t, t, m) for m in ("exact", method))
    assert bool((found.posterior >= 0).all())
    torch.testing.assert_close(found.posterior.sum(-1), torch.ones(1, 32).double())
    error = (found.posterior - posterior).abs().sum()
    assert float(error) <= float((exact.posterior - posterior).abs().sum())
    torch.testing.assert_close(found.clipped_mass, exact.clipped_mass)


def test_projection_is_best_for_a_peaked_posterior():
    process = Uniform(1000, LogLinear(eps=1e-6))
    posterior, ratios, x_t, t = noisy_scores(process, 0.01, concentration=0.1)
    errors = {
        m: float((process.recover(ratios, x_t, t, m).posterior - posterior).abs().sum(-1).mean())
        for m in ("exact", *NON_NEGATIVE)
    }
    assert min(errors, key=lambda m: errors[m]) == "project"
    assert errors["project"] < errors["exact"] / 3


@pytest.mark.parametrize("method", ["exact", *NON_NEGATIVE])
@pytest.mark.parametrize(
    "process",
    [
        Uniform(6, LogLinear()),
        Absorbing(6, LogLinear()),
        ResetToPrior(torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0, 0.0]), LogLinear()),
    ],
    ids=repr,
)
def test_excluded_tokens_get_nothing(process, method):
    _, ratios, x_t, t = noisy_scores(process, 0.3, noise=0.2)
    ratios = ratios * 0.9  # a score that is not 1 at the current token leaves mass missing
    found = process.posterior_from_ratios(ratios, x_t, t, method)
    excluded = process.likelihood(x_t, t) == 0
    assert bool((found[excluded] == 0).all())
    if method != "exact":
        torch.testing.assert_close(found.sum(-1), torch.ones(1, 32).double())
        visible = excluded.sum(-1) == 5
        if bool(visible.any()):
            assert bool((found.gather(-1, x_t[..., None])[visible] == 1).all())


@pytest.mark.parametrize("method", ["exact", *NON_NEGATIVE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_work_is_done_in_float64(method, dtype):
    process = Uniform(50, LogLinear())
    _, ratios, x_t, t = noisy_scores(process, 0.02, noise=0.0)
    low = ratios.to(dtype)
    found = process.posterior_from_ratios(low, x_t, t, method)
    expected = process.posterior_from_ratios(low.double(), x_t, t, method)
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))


def test_multiplicative_iterations_never_lower_the_likelihood_of_the_scores():
    process = Uniform(100, LogLinear())
    _, ratios, x_t, t = noisy_scores(process, 0.1, noise=0.05)

    def divergence(iterations):
        posterior = recovery.recover(
            process, ratios, x_t, t, "multiplicative", iterations=iterations
        ).posterior
        fitted = process.ratios_from_posterior(posterior, x_t, t)
        fitted = fitted * (ratios.sum(-1, keepdim=True) / fitted.sum(-1, keepdim=True))
        return float((ratios * (ratios / fitted).log()).sum())

    values = [divergence(n) for n in (1, 10, 100, 400)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("method", ["exact", *NON_NEGATIVE])
@pytest.mark.parametrize("batched", [False, True])
def test_chunks_do_not_change_the_result(method, batched, monkeypatch):
    process = Uniform(9, LogLinear())
    _, ratios, x_t, t = noisy_scores(process, 0.2, positions=30)
    ratios, x_t = ratios.reshape(3, 5, 2, 9), x_t.reshape(3, 5, 2)
    time = torch.tensor([t, 0.5, 0.3], dtype=torch.float64) if batched else t
    whole = process.recover(ratios, x_t, time, method)
    monkeypatch.setattr(recovery, "CHUNK_ELEMENTS", 30)
    parts = process.recover(ratios, x_t, time, method)
    assert isinstance(parts, Recovery)
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_bad_input_is_refused():
    process = Uniform(4, LogLinear())
    x_t = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="unknown method 'median'; known: exact, clip"):
        process.recover(torch.ones(2, 3, 4), x_t, 0.5, "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ratios must have shape"):
        process.recover(torch.ones(2, 3, 5), x_t, 0.5)


def test_projection_is_the_nearest_point():
    source = torch.Generator().manual_seed(0)
    values = torch.randn(50, 6, generator=source, dtype=torch.float64)
    found = project_to_simplex(values)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(-1), torch.ones(50).double())
    # Optimality: (v − p)·(q − p) ≤ 0 for every vertex q.
    slope = values - found
    inner = (slope * found).sum(-1, keepdim=True)
    assert bool((slope - inner <= 1e-12).all())


def test_rows_without_mass_fall_back():
    weights = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    assert normalise(weights, torch.tensor([[1.0, 1.0], [1.0, 1.0]])).tolist() == [
        [0.5, 0.5],
        [0.25, 0.75],
    ]
