"""The importance-weighted bound against quadrature over a latent of one dimension."""

from __future__ import annotations

import math

import torch

from fewjump.denoiser import NetworkDenoiser
from fewjump.law import LatentLaw
from fewjump.process import Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear


def student() -> NetworkDenoiser:
    """A latent student of 3 positions and 4 tokens, away from its initialisation."""
    torch.manual_seed(0)
    trunk = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8, "conv_kernel": 3}
    head = {"kind": "latent", "width": 32, "encoder_width": 32, "categories": 0, "size": 1}
    model = NetworkDenoiser.from_config(
        {
            "process": Uniform(4, LogLinear()).config(),
            "trunk": {**trunk, "time_conditioned": False},
            "length": 3,
            "head": head,
        }
    )
    generator = generator_for(4)
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    return model


def test_more_particles_come_nearer_to_the_integral() -> None:
    model = student().double()
    x_t, x0 = torch.tensor([[0, 1, 3]]), torch.tensor([[2, 0, 2]])
    t = torch.full((1,), 0.7, dtype=torch.float64)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    log_weight = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) + (z[1] - z[0]).log()
    copies = 3_000
    with torch.no_grad():
        law = model(x_t, t)
        assert isinstance(law, LatentLaw)
        rows = torch.zeros(len(z), dtype=torch.int64)
        each = law.decode(z[:, None], rows).log_prob(x0.expand(len(z), -1))
        truth = float((log_weight + each).logsumexp(0))
        gaps, errors = [], []
        for particles in (1, 4, 16):
            many, noisy = x0.expand(copies, -1), x_t.expand(copies, -1)
            level = model.process.schedule.sigma_bar(t).expand(copies)
            proposal = model.head.encode(many, noisy, level)
            law = model(noisy, t.expand(copies))
            bounds = law.bound(many, proposal, particles, generator_for(particles))
            gaps.append(truth - float(bounds.mean()))
            errors.append(float(bounds.std()) / copies**0.5)
            # Whatever the proposal, the likelihood itself is unbiased.
            ratio = (bounds - truth).exp()
            assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / copies**0.5 + 1e-3
    assert gaps[0] > gaps[1] + errors[0] > gaps[2] + errors[1]
    assert gaps[2] > -4 * errors[2]
    assert gaps[2] < 0.3 * gaps[0]
