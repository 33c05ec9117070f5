"""The squared tensor train: its law by enumeration, any known tokens, its warm start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from registry_laws import B, L, V, normal, p_value, tensor_train

from fewjump.law import tensor_train as module
from fewjump.law.autoregressive import AutoregressiveLaw
from fewjump.law.base import enumerate_states, ravel
from fewjump.law.product import ProductLaw
from fewjump.law.tensor_train import TensorTrain
from fewjump.random import generator_for

STATES = enumerate_states(V, L)


def by_definition(train: TensorTrain) -> Tensor:
    """Π softmax(u)(x)·‖G(x) S ⋯ ℓ‖², normalised over all sequences: (B, V^L)."""
    weight = ProductLaw(train.logits).enumerate().exp()
    vector = train.left.expand(train.batch_size, len(STATES), -1)
    for i in range(L):
        vector = vector * train.log_scale[:, i, None].exp()
        vector = (train.cores[STATES[:, i]] @ vector[..., None])[..., 0]
    weight = weight * vector.square().sum(-1)
    return weight / weight.sum(-1, keepdim=True)


def test_the_law_is_the_normalised_square() -> None:
    law = tensor_train()
    expected = by_definition(law.conditionals)
    torch.testing.assert_close(law.enumerate().exp(), expected, atol=1e-12, rtol=0)
    product = ProductLaw(law.conditionals.logits).enumerate().exp()
    assert float((expected - product).abs().sum(-1).min()) > 0.1


def test_chunks_of_the_vocabulary_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything() -> list[Tensor]:
        law = tensor_train(3)
        parts = law.conditionals
        inputs = [v.requires_grad_() for v in (parts.logits, parts.cores, parts.left)]
        total = AutoregressiveLaw(TensorTrain(*inputs, parts.log_scale)).log_prob(STATES[4:7]).sum()
        finite = [g.nan_to_num() for g in torch.autograd.grad(total, inputs)]
        return [law.enumerate(), law.marginals(), *finite]

    whole = everything()
    monkeypatch.setattr(module, "CHUNK", 1)
    for mine, reference in zip(everything(), whole):
        torch.testing.assert_close(mine, reference, atol=1e-12, rtol=1e-12)


def test_gradients_are_those_of_the_definition() -> None:
    law = tensor_train(5)
    parts = law.conditionals
    inputs = [v.requires_grad_() for v in (parts.cores, parts.left, parts.log_scale)]
    train = TensorTrain(parts.logits, *inputs)
    index = torch.tensor([5, 11, 20])
    row = torch.arange(B)
    mine = torch.autograd.grad(AutoregressiveLaw(train).log_prob(STATES[index]).sum(), inputs)
    exact = torch.autograd.grad(by_definition(train)[row, index].log().sum(), inputs)
    for got, expected in zip(mine, exact):
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("pattern", [[0, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
def test_any_known_tokens_are_conditioned_on_exactly(pattern: list[int]) -> None:
    law = tensor_train(7)
    x0 = torch.tensor([[0, 1, 2], [1, 1, 0], [2, 0, 1]])
    known = torch.tensor([pattern] * B).bool()
    agrees = ((STATES[None] == x0[:, None]) | ~known[:, None]).all(-1)
    expected = by_definition(law.conditionals) * agrees
    expected = expected / expected.sum(-1, keepdim=True)
    given = law.given(x0, known)
    torch.testing.assert_close(given.enumerate().exp(), expected, atol=1e-11, rtol=0)
    for i in range(L):
        here = torch.stack([expected[:, STATES[:, i] == a].sum(-1) for a in range(V)], -1)
        torch.testing.assert_close(given.marginals()[:, i], here, atol=1e-11, rtol=0)
    x = given.select(torch.tensor([1])).expand(20_000).sample(generator_for(2))
    counts = torch.bincount(ravel(x, V), minlength=V**L)
    assert p_value(counts, expected[1]) > 1e-4


def test_orthogonal_matrices_are_the_product_law() -> None:
    cores = torch.linalg.qr(normal(1, V, 5, 5))[0]
    logits = normal(2, B, L, V)
    train = TensorTrain(logits, cores, normal(3, 5), torch.zeros(B, L, 5, dtype=torch.float64))
    law = AutoregressiveLaw(train)
    torch.testing.assert_close(law.enumerate(), ProductLaw(logits).enumerate(), atol=1e-12, rtol=0)


def test_a_long_train_in_float32_stays_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    length, bond = 300, 8
    logits = torch.randn(2, length, V, generator=generator)
    cores = 30 * torch.randn(V, bond, bond, generator=generator)
    scale = torch.randn(2, length, bond, generator=generator)
    law = AutoregressiveLaw(TensorTrain(logits, cores, torch.ones(bond), scale))
    x0 = law.sample(generator_for(1))
    exact = TensorTrain(logits.double(), cores.double(), torch.ones(bond).double(), scale.double())
    expected = AutoregressiveLaw(exact).log_prob(x0)
    torch.testing.assert_close(law.log_prob(x0).double(), expected, atol=1e-2, rtol=0)


def test_shapes_are_checked() -> None:
    logits, left, scale = torch.zeros(2, 3, 4), torch.ones(5), torch.zeros(2, 3, 5)
    with pytest.raises(ValueError, match="cores must have shape"):
        TensorTrain(logits, torch.zeros(4, 5, 6), left, scale)
    with pytest.raises(ValueError, match="log_scale must have shape"):
        TensorTrain(logits, torch.zeros(4, 5, 5), left, scale[:, :2])
