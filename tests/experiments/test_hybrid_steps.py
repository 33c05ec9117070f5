"""Who answers at which step, and that what a law misses is a KL."""

from __future__ import annotations

import pytest
import torch

from experiments.hybrid_noise import NOISES
from experiments.hybrid_steps import Switched, excess
from fewjump.law import ProductLaw
from fewjump.problem import reference_markov_chain
from fewjump.random import generator_for
from fewjump.sampler import run as draw

CHAIN = reference_markov_chain(5)


@pytest.mark.parametrize("name", list(NOISES))
def test_the_exact_joint_law_twice_is_exact_and_the_product_first_is_not(name: str) -> None:
    """So that whoever is first, and whoever is second, is heard."""
    process = NOISES[name](CHAIN.vocab_size)
    joint, product = (CHAIN.denoiser(process, joint=j) for j in (True, False))
    truth = CHAIN.bigram_law().flatten()

    def error(early, late, steps: int) -> float:
        model = Switched(early, late, 0.5)
        x = draw(model, 20_000, steps, generator=1, length=5, batch_size=20_000).samples
        keys = (x[:, :-1] * CHAIN.vocab_size + x[:, 1:]).flatten()
        law = torch.bincount(keys, minlength=len(truth)).double() / len(keys)
        return float((law - truth).abs().sum()) / 2

    assert error(joint, joint, 2) < 0.015
    assert error(joint, product, 1) < 0.015
    assert error(product, joint, 1) > 0.3
    assert error(joint, product, 2) > 0.05
    assert error(joint, product, 2) < error(product, product, 2) - 0.02


def test_excess_of_the_product_at_pure_noise_is_the_total_correlation() -> None:
    process = NOISES["masked"](CHAIN.vocab_size)
    joint, product = (CHAIN.denoiser(process, joint=j) for j in (True, False))
    x0 = CHAIN.sample(4000, generator_for(0, 1))
    mean, half = excess(product, joint, CHAIN, x0, 1.0, 0)
    law = CHAIN.bigram_law()
    marginal = law.sum(1)
    information = float((law * (law / (marginal[:, None] * law.sum(0))).log()).sum())
    assert abs(mean - (CHAIN.length - 1) * information / CHAIN.length) < 2 * half
    assert excess(joint, joint, CHAIN, x0[:50], 0.4, 0) == (0.0, 0.0)
    assert isinstance(product(x0[:2], 0.5), ProductLaw)
