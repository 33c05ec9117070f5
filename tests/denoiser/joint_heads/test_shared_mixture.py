"""The head with tables for all inputs: what every joint head must do, and Bayes' weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import test_joint_heads as general
from test_joint_heads import HIDDEN, L, V, disturbed, inputs

from fewjump.denoiser.heads import ProductHead
from fewjump.denoiser.joint_heads import MixtureHead, SharedMixtureHead
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear

PROCESS = Absorbing(V, LogLinear())
GENERAL = {
    "warm start": lambda make: general.test_warm_start_is_the_product_law(make, PROCESS),
    "a law": lambda make: general.test_law_is_a_distribution_that_knows_what_is_visible(
        make, PROCESS
    ),
    "samples": lambda make: general.test_samples_match_log_prob(make, PROCESS),
    "gradients": lambda make: general.test_gradients_are_finite_and_reach_every_parameter(
        make, PROCESS
    ),
    "config": general.test_config_rebuilds_the_head,
    "network": lambda make: general.test_in_a_network_denoiser(make, None),
    "bfloat16": lambda make: general.test_in_a_network_denoiser(make, "bfloat16"),
}


def make(**options: Any) -> SharedMixtureHead:
    return SharedMixtureHead(HIDDEN, V, L, components=16, rank=16, **options)


@pytest.mark.parametrize("name", GENERAL)
def test_what_every_joint_head_does(name: str) -> None:
    GENERAL[name](make)


def test_a_copied_token_is_learned_from_the_warm_start() -> None:
    torch.manual_seed(1)
    head = make()
    head.warm_start(ProductHead(HIDDEN, V))
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    features = torch.randn(1, L, HIDDEN).expand(64, -1, -1)
    x_t = torch.full((64, L), PROCESS.mask)
    entropy = torch.tensor(float(V - 1)).log()
    loss = entropy
    for step in range(300):
        token = torch.randint(V - 1, (64, 1), generator=generator_for(3, step))
        loss = -head(features, x_t, PROCESS).log_prob(token.expand(-1, L)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) - float(entropy) < 0.03 * (L - 1) * float(entropy)


def test_the_law_given_visible_tokens_is_that_of_pure_noise_conditioned() -> None:
    """Without the trunk's say. So what is right in one step is right in any number of steps."""
    torch.manual_seed(3)
    head = disturbed(make()).double()
    for silent in (head.base.linear, head.weights.out):
        silent.weight.data.zero_()
    head.base.linear.bias.data.zero_()
    # The tables then stand on nothing: what the weights read is what the law draws from.
    head.prior.data.zero_()
    x_t = torch.tensor([[3, 1, 3, 0], [2, 3, 3, 3], [0, 1, 2, 2]])
    features = torch.randn(3, L, HIDDEN, dtype=torch.float64)
    noise = torch.full_like(x_t, PROCESS.mask)
    before = head(features, noise, PROCESS)
    expected = before.given(x_t, x_t != PROCESS.mask).enumerate()
    got = head(features, x_t, PROCESS).enumerate()
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        # One row alone, whose hidden positions are not looked at.
        for row, whole in enumerate(expected):
            alone = head(features[row, None], x_t[row, None], PROCESS).enumerate()
            torch.testing.assert_close(alone[0], whole, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(before.enumerate().exp(), got.exp(), atol=0.01)


def test_it_is_a_mixture_whose_components_the_features_do_not_correct() -> None:
    torch.manual_seed(4)
    head = disturbed(make()).double()
    wide = MixtureHead(HIDDEN, V, components=16, rank=16, length=L, evidence=True).double()
    wide.base.load_state_dict(head.base.state_dict())
    wide.tokens.load_state_dict(head.tokens.state_dict())
    wide.weights.load_state_dict(head.weights.state_dict())
    wide.states.project.weight.data.zero_()
    wide.states.project.bias.data.zero_()
    assert wide.states.template is not None
    wide.states.template.data.copy_(head.template.flatten(1))
    wide.prior.data.copy_(head.prior)
    wide.log_weights.data.copy_(head.log_weights)
    features, x_t = inputs(PROCESS)
    features = features.double()
    torch.testing.assert_close(
        head(features, x_t, PROCESS).enumerate(),
        wide(features, x_t, PROCESS).enumerate(),
        atol=1e-10,
        rtol=1e-10,
    )


def test_what_it_cannot_do_is_said() -> None:
    features, x_t = inputs(PROCESS)
    with pytest.raises(ValueError, match="length=5"):
        SharedMixtureHead(HIDDEN, V, L + 1)(features, x_t, PROCESS)
    with pytest.raises(ValueError, match="absorbing"):
        make().check_process(Uniform(V, LogLinear()))
    with pytest.raises(ValueError, match="components"):
        SharedMixtureHead(HIDDEN, V, L, components=0)
