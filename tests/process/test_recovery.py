"""Posteriors from scores: the published noise figures, non-negative methods, bounds on memory."""

from __future__ import annotations

import pytest
import torch

from experiments.vocabulary import peak_bytes
from fewjump.process import Absorbing, LowRankRate, Recovery, ResetToPrior, Uniform, recovery
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


def test_multiplicative_iterations_never_lower_the_likelihood_of_the_scores(monkeypatch):
    process = Uniform(100, LogLinear())
    _, ratios, x_t, t = noisy_scores(process, 0.1, noise=0.05)

    def divergence(iterations):
        monkeypatch.setattr(recovery, "MULTIPLICATIVE_ITERATIONS", iterations)
        posterior = process.recover(ratios, x_t, t, "multiplicative").posterior
        fitted = process.ratios_from_posterior(posterior, x_t, t)
        fitted = fitted * (ratios.sum(-1, keepdim=True) / fitted.sum(-1, keepdim=True))
        return float((ratios * (ratios / fitted).log()).sum())

    values = [divergence(n) for n in (1, 10, 100, 400)]
    assert values == sorted(values, reverse=True)


def clusters():
    source = torch.Generator().manual_seed(1)
    members, priors = (torch.rand(9, 2, generator=source).double() for _ in range(2))
    members, priors = members / members.sum(-1, keepdim=True), priors / priors.sum(0)
    return LowRankRate(members, priors.mT, LogLinear())


@pytest.mark.parametrize("method", ["exact", *NON_NEGATIVE])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("process", [Uniform(9, LogLinear()), clusters()], ids=["apart", "shared"])
# 30 entries: three positions; 200: two elements of the batch, with their times.
@pytest.mark.parametrize("elements", [30, 200])
def test_chunks_do_not_change_the_result(method, batched, process, elements, monkeypatch):
    _, ratios, x_t, t = noisy_scores(Uniform(9, LogLinear()), 0.2, positions=30)
    ratios, x_t = ratios.reshape(3, 5, 2, 9), x_t.reshape(3, 5, 2)
    time = torch.tensor([t, 0.5, 0.3], dtype=torch.float64) if batched else t
    leaves = [ratios.clone().requires_grad_(True) for _ in range(2)]
    weights = torch.rand(ratios.shape, generator=torch.Generator().manual_seed(0)).double()
    monkeypatch.setattr(recovery, "MULTIPLICATIVE_ITERATIONS", 5)
    found = []
    for leaf in leaves:
        found.append(process.recover(ratios, x_t, time, method))
        posterior = process.posterior_from_ratios(leaf, x_t, time, method)
        (posterior * weights).sum().backward()
        monkeypatch.setattr(recovery, "CHUNK_ELEMENTS", elements)
        monkeypatch.setattr(recovery, "NEAR_ELEMENTS", elements)
    assert isinstance(found[1], Recovery)
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [(), (2, 5)])
@pytest.mark.parametrize("batched", [False, True])
def test_closed_form_is_likelihood_times_weights(kept, batched):
    process = ResetToPrior(
        torch.tensor([0.4, 0.0, 0.0, 0.3, 0.3, 0.0]).double(), LogLinear(), kept=kept
    )
    source = torch.Generator().manual_seed(3)
    ratios = torch.rand(2, 6, 6, generator=source, dtype=torch.float64)
    x_t = torch.arange(6).expand(2, 6)
    t = torch.tensor([0.2, 0.7]).double() if batched else 0.4
    expected = process.likelihood(x_t, t) * process.weights_from_ratios(ratios, t)
    torch.testing.assert_close(
        process.posterior_from_ratios(ratios, x_t, t), expected, rtol=1e-14, atol=0
    )
    kernel = process.kernel(0.0, t).dense().expand(2, 6, 6)
    solved = torch.linalg.solve(kernel.mT[:, None], ratios[..., None])[..., 0]
    torch.testing.assert_close(expected, kernel.mT[:, range(6)] * solved, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("method", "copies"), [("exact", 1.5), ("clip", 2.0), ("project", 2.5)])
@pytest.mark.parametrize("process", [Uniform, Absorbing])
def test_peak_memory_is_the_result_and_little_more(process, method, copies):
    process = process(1 << 16, LogLinear())
    x_t = torch.randint(1 << 16, (2, 16), generator=torch.Generator().manual_seed(0))
    ratios = torch.ones(2, 16, 1 << 16, dtype=torch.float64)
    call = lambda: process.posterior_from_ratios(ratios, x_t, 0.5, method)  # noqa: E731
    # The profiler loses events now and then, and with them memory.
    assert ratios.nbytes <= max(peak_bytes(call) for _ in range(3)) <= copies * ratios.nbytes


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
