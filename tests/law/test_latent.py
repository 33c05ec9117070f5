"""Latent laws: a normal z against quadrature, the bound below the truth, divergences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewjump.law.latent import DiscreteLatent, GaussianLatent, LatentLaw
from fewjump.law.product import ProductLaw
from fewjump.random import generator_for

B, L, V = 2, 2, 3
BASE, SLOPE = torch.randn(
    2, B, L, V, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
).unbind(0)


def decode(z: Tensor, rows: Tensor) -> ProductLaw:
    return ProductLaw(BASE[rows] + 2 * SLOPE[rows] * z[:, 0, None, None])


def normal_law(particles: int = 64) -> LatentLaw:
    prior = GaussianLatent.standard((B, 1), dtype=torch.float64)
    return LatentLaw(prior, decode, L, V, particles)


def quadrature() -> Tensor:
    """p(x₀) of every sequence by a fine Riemann sum over z: (B, V^L)."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2) / (2 * torch.pi) ** 0.5 * (z[1] - z[0])
    rows = []
    for b in range(B):
        law = decode(z[:, None], torch.full((len(z),), b))
        rows.append((weight[:, None] * law.enumerate().exp()).sum(0))
    return torch.stack(rows)


def test_bound_is_below_the_truth_and_tightens() -> None:
    truth = quadrature().log()
    x0 = torch.tensor([[2, 1], [0, 0]])
    exact = truth[torch.arange(B), x0[:, 0] * V + x0[:, 1]]
    gaps = []
    for particles in (1, 8, 64):
        law = normal_law().select(torch.arange(B).repeat(2_000))
        bounds = law.bound(x0.repeat(2_000, 1), law.prior, particles, generator_for(particles))
        gaps.append(exact - bounds.reshape(-1, B).mean(0))
    assert bool((gaps[0] > gaps[1]).all())
    assert bool((gaps[1] > gaps[2]).all())
    assert bool((gaps[2] > -0.02).all())
    assert bool((gaps[2] < 0.05).all())


def test_any_proposal_gives_an_unbiased_likelihood() -> None:
    x0 = torch.tensor([[2, 1], [0, 0]])
    exact = quadrature()[torch.arange(B), x0[:, 0] * V + x0[:, 1]]
    copies = 20_000
    shift = torch.full((B * copies, 1), 0.4, dtype=torch.float64)
    law = normal_law().select(torch.arange(B).repeat(copies))
    value = law.bound(
        x0.repeat(copies, 1), GaussianLatent(shift, shift / 2), 4, generator_for(3)
    ).exp()
    torch.testing.assert_close(value.reshape(-1, B).mean(0), exact, atol=0, rtol=0.02)


def test_samples_and_marginals_of_a_normal_latent() -> None:
    exact = quadrature()
    law = normal_law(particles=4_000)
    torch.testing.assert_close(
        law.marginals(),
        torch.stack([exact.reshape(B, V, V).sum(2), exact.reshape(B, V, V).sum(1)], 1),
        atol=0.02,
        rtol=0,
    )
    many = law.select(torch.arange(B).repeat(20_000))
    x0 = many.sample(generator_for(0)).reshape(-1, B, L)
    index = x0[..., 0] * V + x0[..., 1]
    frequency = torch.stack([torch.bincount(index[:, b], minlength=V**L) for b in range(B)])
    torch.testing.assert_close(frequency / 20_000.0, exact.float(), atol=0.015, rtol=0)


def test_conditioning_a_continuous_latent_is_refused() -> None:
    with pytest.raises(ValueError, match="discrete latent"):
        normal_law().given(torch.zeros(B, L, dtype=torch.int64), torch.ones(B, L).bool())


def test_what_is_known_is_said_in_booleans() -> None:
    """~1 is not 0: as numbers they would say that nothing is known."""
    law = normal_law()
    with pytest.raises(ValueError, match=r"known must be boolean, got torch\.int64"):
        law.given(torch.zeros(1, law.length).long(), torch.ones(1, law.length).long())


def test_sampling_a_discrete_latent_decodes_once() -> None:
    calls = []

    def counted(z: Tensor, rows: Tensor) -> ProductLaw:
        calls.append(len(z))
        return ProductLaw(BASE[rows] + z[:, None, None])

    law = LatentLaw(DiscreteLatent(torch.zeros(B, 5)), counted, L, V)
    law.sample(generator_for(0))
    assert calls == [B]


def test_divergences() -> None:
    a = GaussianLatent(torch.tensor([[0.3, -1.0]]).double(), torch.tensor([[0.2, -0.4]]).double())
    b = GaussianLatent(torch.tensor([[-0.5, 0.1]]).double(), torch.tensor([[0.0, 0.3]]).double())
    z = a.select(torch.zeros(200_000, dtype=torch.int64)).sample(generator_for(1))
    estimate = (a.log_prob(z) - b.log_prob(z)).mean()
    torch.testing.assert_close(a.kl(b).sum(), estimate, atol=0.02, rtol=0)
    assert float(a.kl(a).abs().max()) == 0
    p, q = DiscreteLatent(torch.randn(3, 4).double()), DiscreteLatent(torch.randn(3, 4).double())
    weights = p.logits.softmax(-1)
    expected = (weights * (weights / q.logits.softmax(-1)).log()).sum(-1)
    torch.testing.assert_close(p.kl(q), expected)


def test_gradients_reach_the_encoder() -> None:
    mean = torch.zeros(B, 1, dtype=torch.float64, requires_grad=True)
    log_std = torch.zeros(B, 1, dtype=torch.float64, requires_grad=True)
    law = normal_law()
    x0 = torch.zeros(B, L, dtype=torch.int64)
    law.bound(x0, GaussianLatent(mean, log_std), 2, generator_for(0)).sum().backward()
    assert mean.grad is not None
    assert bool(mean.grad.abs().min() > 0)
    assert log_std.grad is not None
    assert bool(log_std.grad.isfinite().all())
