"""The likelihood of a one-evaluation sampler, against enumeration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewjump.denoiser import NetworkDenoiser
from fewjump.evaluate.likelihood import one_evaluation_nll, one_evaluation_nlls
from fewjump.objective.elbo import nelbo
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.sampler import exact_output_law
from fewjump.schedule import Linear, LogLinear


@pytest.mark.parametrize("joint", [True, False])
def test_it_is_that_of_the_output_law_of_one_step(joint: bool) -> None:
    truth = EnumeratedJoint.random(3, 2, 1.0, torch.Generator().manual_seed(0))
    denoiser = truth.denoiser(Absorbing(4, LogLinear()), joint=joint)
    x0 = truth.sample(300, torch.Generator().manual_seed(1))
    output = exact_output_law(denoiser, 1)
    each = -output[x0[:, 0], x0[:, 1]].log() / 2
    torch.testing.assert_close(one_evaluation_nlls(denoiser, x0), each, atol=1e-6, rtol=0)
    mean, half = one_evaluation_nll(denoiser, x0)
    assert mean == pytest.approx(float(each.mean()), abs=1e-6)
    assert half == pytest.approx(1.96 * float(each.std()) / 300**0.5, rel=1e-4)


def test_noise_without_a_single_state_says_nothing_at_its_end() -> None:
    truth = EnumeratedJoint.random(3, 2, 1.0, torch.Generator().manual_seed(2))
    denoiser = truth.denoiser(Uniform(3, Linear(40.0)), joint=True)
    x0 = truth.sample(100, torch.Generator().manual_seed(3))
    expected = float(-truth.probs[x0[:, 0], x0[:, 1]].log().mean() / 2)
    assert one_evaluation_nll(denoiser, x0)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("joint", [True, False])
def test_padding_is_given(joint: bool) -> None:
    """The law of what is hidden, where the padding of each sequence is shown."""
    table = torch.zeros(3, 3, 3, dtype=torch.float64)
    table[:2, :2, :2], table[:2, :2, 2] = torch.tensor([[0.3, 0.1], [0.1, 0.1]])[:, None], 0.05
    truth = EnumeratedJoint(table / table.sum())
    process = Absorbing(4, LogLinear(), kept=(2,))
    denoiser = truth.denoiser(process, joint=joint)
    x0 = truth.sample(200, torch.Generator().manual_seed(1))
    assert bool((x0[:, 2] == 2).any())
    x_1 = torch.where(x0 == 2, 2, 3)
    each = -denoiser(x_1, 1.0).log_prob(x0).double() / 3
    assert bool(each.isfinite().all())
    torch.testing.assert_close(one_evaluation_nlls(denoiser, x0), each, atol=1e-9, rtol=0)


def test_laws_and_bounds_are_of_the_model_without_dropout() -> None:
    """Whatever mode it is in, which it keeps, as its counter keeps its number."""
    process = Absorbing(4, LogLinear())
    trunk = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8, "dropout": 0.5}
    torch.manual_seed(0)
    model = NetworkDenoiser.from_config({"process": process.config(), "length": 3, "trunk": trunk})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    x0 = torch.tensor([[0, 1, 2], [2, 2, 0]])
    found = []
    for training in (False, True):
        model.train(training)
        nlls, law = one_evaluation_nlls(model, x0), exact_output_law(model, 2)
        found.append((nlls, law, nelbo(model, x0, generator=generator_for(0))))
        assert model.training == training
    assert all(torch.equal(one, other) for one, other in zip(*found))
    before = model.evaluations
    one_evaluation_nlls(model, x0)
    assert model.evaluations == before


def test_an_interval_needs_two_sequences() -> None:
    model = EnumeratedJoint(torch.eye(2) / 2).denoiser(Absorbing(3, LogLinear()))
    with pytest.raises(ValueError, match="at least 2 sequences, got 1"):
        one_evaluation_nll(model, torch.zeros(1, 2, dtype=torch.int64))
