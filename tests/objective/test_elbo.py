"""The likelihood bounds, by quadrature over time and enumeration of states, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tabular import BruteForceDenoiser, random_joint

from fewjump.denoiser.logits import LogitDenoiser
from fewjump.law.base import enumerate_states
from fewjump.objective import CrossEntropyELBO, ScoreEntropy, nelbo
from fewjump.objective.elbo import masked_density, prior_divergence, rate_divergence
from fewjump.process import Absorbing, ResetToPrior, Uniform
from fewjump.random import generator_for
from fewjump.schedule import Linear, LogLinear

V, L = 3, 2
PROBS = random_joint(V, L, seed=3)
ENTROPY = float(-(PROBS * PROBS.log()).sum())
STATES = enumerate_states(V, L)
PRIOR = torch.tensor([0.6, 0.3, 0.1])


def nodes(count: int, low: float = 0.0, high: float = 1.0):
    x, w = np.polynomial.legendre.leggauss(count)
    return (x + 1) / 2 * (high - low) + low, w / 2 * (high - low)


def noised(process, t: float) -> torch.Tensor:
    """Pr(x_t | x₀) over all pairs of states: (V^L, V^L)."""
    kernel = process.kernel(0.0, t).dense()
    parts = kernel[STATES[:, None, :], STATES[None, :, :]]
    return parts.prod(-1)


def expected_bound(teacher, process, first: float, rounds: int = 96) -> float:
    """E_{x₀} of the bound: quadrature over log t, enumeration of x₀ and x_t."""
    total = 0.0
    size = len(STATES)
    x0 = STATES.repeat_interleave(size, 0)
    x_t = STATES.repeat(size, 1)
    for node, weight in zip(*nodes(rounds, np.log(first), 0.0)):
        time = float(np.exp(node))
        t = torch.full((size * size,), time, dtype=torch.float64)
        density = rate_divergence(process, teacher(x_t, t).marginals(), x_t, x0, t).sum(-1)
        pair = (PROBS[:, None] * noised(process, time)).reshape(-1)
        total += weight * time * float((pair * density).sum())
    pair = (PROBS[:, None] * noised(process, first)).reshape(-1)
    reconstruction = -teacher(x_t, first).log_prob(x0)
    total += float((pair * reconstruction).sum())
    return total + float((PROBS * prior_divergence(process, STATES)).sum())


@pytest.mark.parametrize(
    "process",
    [Uniform(V, Linear(6.0)), ResetToPrior(PRIOR, Linear(5.0)), Uniform(V, LogLinear(0.05))],
    ids=repr,
)
def test_bound_of_the_exact_denoiser_is_the_entropy_plus_the_prior_mismatch(process):
    teacher = BruteForceDenoiser(PROBS, L, process, V)
    last = (PROBS[:, None] * noised(process, 1.0)).sum(0)
    prior = process.prior()[STATES].prod(-1)
    mismatch = float((last * (last / prior).log()).sum())
    bound = expected_bound(teacher, process, first=1e-7)
    assert bound == pytest.approx(ENTROPY + mismatch, abs=2e-6)


def test_bound_of_a_wrong_denoiser_is_larger():
    process = Uniform(V, Linear(6.0))
    wrong = BruteForceDenoiser(random_joint(V, L, seed=9), L, process, V)
    assert expected_bound(wrong, process, first=1e-7) > ENTROPY + 0.05


def masked_bound(teacher, x0: torch.Tensor) -> torch.Tensor:
    masks = enumerate_states(2, L).bool()
    total = torch.zeros(len(x0), dtype=torch.float64)
    for u, weight in zip(*nodes(8)):
        for mask in masks:
            chance = u ** int(mask.sum()) * (1 - u) ** int((~mask).sum())
            times = torch.full((len(x0),), u, dtype=torch.float64)
            where = mask.expand(len(x0), -1)
            total += weight * chance * masked_density(teacher, x0, where, times)
    return total


def test_masked_bound_is_exactly_the_entropy():
    process = Absorbing(V + 1, LogLinear())
    teacher = BruteForceDenoiser(PROBS, L, process, V)
    bound = masked_bound(teacher, STATES)
    assert float((PROBS * bound).sum()) == pytest.approx(ENTROPY, abs=1e-12)
    assert (bound >= -PROBS.log() - 1e-12).all()


@pytest.mark.parametrize(
    "process", [Absorbing(V + 1, LogLinear()), Uniform(V, Linear(6.0))], ids=repr
)
def test_monte_carlo_bound_agrees_with_quadrature(process, generator):
    teacher = BruteForceDenoiser(PROBS, L, process, V)
    n = 4000
    which = torch.multinomial(PROBS, n, replacement=True, generator=generator)
    estimate = nelbo(teacher, STATES[which], num_times=8, generator=generator)
    if isinstance(process, Absorbing):
        exact = float(masked_bound(teacher, STATES)[which].mean())
        tolerance = 5 * float(estimate.std()) / n**0.5
    else:
        exact, tolerance = ENTROPY, 5 * float(estimate.std()) / n**0.5 + 2e-3
    assert abs(float(estimate.mean()) - exact) < tolerance


def test_masked_training_loss_is_the_rate_divergence():
    """MDLM's weighted cross-entropy is the general bound, specialised: equal pointwise."""
    process = Absorbing(V + 1, LogLinear())
    teacher = BruteForceDenoiser(PROBS, L, process, V)
    x0, x_t = STATES, STATES.clone()
    x_t[:, 1] = process.mask
    t = torch.full((len(STATES),), 0.4, dtype=torch.float64)
    law = teacher(x_t, t)
    density = rate_divergence(process, law.marginals(), x_t, x0, t)
    weight = float(process.schedule.sigma(0.4) * process.schedule.alpha(0.4) / 0.3996)
    torch.testing.assert_close(density[:, 1], -weight * law.token_log_prob(x0)[:, 1])
    assert density[:, 0].abs().max() == 0


@pytest.mark.parametrize("weighting", ["uniform", "elbo"])
@pytest.mark.parametrize(
    "process", [Absorbing(V + 1, LogLinear()), Uniform(V, LogLinear())], ids=repr
)
def test_losses_have_finite_gradients_and_fall(process, weighting, generator):
    # Drawn from the seed: the layer's own start is another in every run.
    start = torch.randn(process.vocab_size, process.vocab_size, generator=generator)
    network = torch.nn.Embedding.from_pretrained(start, freeze=False)
    student = LogitDenoiser(lambda x, t: network(x), process, L)
    student.network = torch.nn.Module()
    student.network.forward = lambda x, t: network(x)
    objective = CrossEntropyELBO(weighting)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    data = STATES[torch.multinomial(PROBS, 256, replacement=True, generator=generator)]

    def same_draws() -> float:
        with torch.no_grad():
            return float(objective(student, None, data, generator_for(1))[0])

    before = same_draws()
    for _ in range(60):
        loss, _metrics = objective(student, None, data, generator)
        optimiser.zero_grad()
        loss.backward()
        assert network.weight.grad is not None
        assert network.weight.grad.isfinite().all()
        optimiser.step()
    assert same_draws() < before - 0.02


def test_score_entropy_equals_the_bound_density_for_exact_scores(generator):
    """Through the posterior or through the same scores given directly: the same loss."""
    process = Uniform(V, LogLinear())
    teacher = BruteForceDenoiser(PROBS, L, process, V)

    class Scores(BruteForceDenoiser):
        def ratios(self, x_t, t):
            posterior = super().law(x_t, t).marginals()
            return self.process.ratios_from_posterior(posterior, x_t, t)

    scores = Scores(PROBS, L, process, V)
    data = STATES[torch.multinomial(PROBS, 64, replacement=True, generator=generator)]
    one = ScoreEntropy()(teacher, None, data, torch.Generator().manual_seed(1))[0]
    two = ScoreEntropy()(scores, None, data, torch.Generator().manual_seed(1))[0]
    torch.testing.assert_close(one, two)
    assert scores.evaluations == 1
    uniform = BruteForceDenoiser(torch.full_like(PROBS, 1 / 9), L, process, V)
    worse = ScoreEntropy()(uniform, None, data, torch.Generator().manual_seed(1))[0]
    assert worse > one


def test_bad_options_name_the_known_ones():
    with pytest.raises(ValueError, match="uniform, elbo"):
        CrossEntropyELBO("mdlm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_time"):
        ScoreEntropy(min_time=0.0)
