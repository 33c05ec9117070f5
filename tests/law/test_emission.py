"""Factored emissions: equal to dense ones, and never of size r·L·V."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewjump.law import emission as emission_module
from fewjump.law import emission_normaliser
from fewjump.law.chain import ChainLaw
from fewjump.law.emission import DenseEmission, Emission, LowRankEmission, SharedFactorEmission
from fewjump.random import generator_for

B, L, R, V, D = 2, 3, 4, 11, 3


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def base() -> Tensor:
    logits = draw(0, B, L, V).detach()
    logits[0, 1, 4:] = -torch.inf
    logits[1, 2, :] = -torch.inf
    logits[1, 2, 9] = 0
    return logits.requires_grad_()


def shared() -> tuple[Emission, Tensor, list[Tensor]]:
    u, factor = base(), draw(1, R, V)
    return SharedFactorEmission(u, factor), u[:, :, None] + factor, [u, factor]


def low_rank() -> tuple[Emission, Tensor, list[Tensor]]:
    u, features, tokens = base(), draw(2, B, L, R, D), draw(3, V, D)
    dense = u[:, :, None] + features @ tokens.T
    return LowRankEmission(u, features, tokens), dense, [u, features, tokens]


Case = Callable[[], tuple[Emission, Tensor, list[Tensor]]]
both = pytest.mark.parametrize("case", [shared, low_rank])
X0 = torch.tensor([[0, 3, 10], [1, 2, 9]])


@pytest.fixture(params=[1 << 20, 16])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The whole problem in one chunk, and in many."""
    for module in (emission_module, emission_normaliser):
        monkeypatch.setattr(module, "CHUNK", request.param)
    return request.param


@both
def test_equals_the_dense_emission(case: Case, chunk: int) -> None:
    emission, logits, _ = case()
    dense = DenseEmission(logits)
    torch.testing.assert_close(
        emission.log_likelihood(X0), dense.log_likelihood(X0), atol=1e-12, rtol=0
    )
    weights = torch.rand(B, L, R, dtype=torch.float64)
    torch.testing.assert_close(
        emission.marginals(weights), dense.marginals(weights), atol=1e-12, rtol=0
    )
    state = torch.randint(R, (B, L))
    assert torch.equal(
        emission.sample(state, generator_for(1)), dense.sample(state, generator_for(1))
    )


@both
def test_gradients_equal_those_of_the_dense_emission(case: Case, chunk: int) -> None:
    emission, logits, parameters = case()
    weights = torch.rand(B, L, R, dtype=torch.float64)
    value = (emission.log_likelihood(X0) * weights).sum()
    expected = (DenseEmission(logits).log_likelihood(X0) * weights).sum()
    for mine, reference in zip(
        torch.autograd.grad(value, parameters), torch.autograd.grad(expected, parameters)
    ):
        assert bool(mine.isfinite().all())
        torch.testing.assert_close(mine, reference, atol=1e-11, rtol=0)


@both
def test_tempered_equals_the_tempered_dense_emission(case: Case, chunk: int) -> None:
    emission, logits, _ = case()
    mine, dense = emission.tempered(0.7, 0.8), DenseEmission(logits).tempered(0.7, 0.8)
    torch.testing.assert_close(mine.log_likelihood(X0), dense.log_likelihood(X0))
    weights = torch.rand(B, L, R, dtype=torch.float64)
    torch.testing.assert_close(mine.marginals(weights), dense.marginals(weights))
    with pytest.raises(ValueError, match="already tempered"):
        mine.tempered(0.5, 1.0)


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and not leaf.is_sparse:
                # An expanded view has a large shape but no memory.
                size = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.numel = max(self.numel, size)
        return out


@pytest.mark.parametrize("kind", ["shared", "low-rank", "dense"])
def test_nothing_of_size_states_times_vocabulary_at_50k(kind: str) -> None:
    length, states, vocab, rank = 2, 64, 50_257, 4
    u = torch.randn(1, length, vocab, requires_grad=True)
    emission: Emission
    largest = Largest()
    with largest:
        if kind == "shared":
            factor = torch.zeros(states, vocab, requires_grad=True)
            emission = SharedFactorEmission(u, factor)
        elif kind == "low-rank":
            features = torch.randn(1, length, states, rank, requires_grad=True)
            tokens = torch.randn(vocab, rank, requires_grad=True)
            emission = LowRankEmission(u, features, tokens)
        else:
            emission = DenseEmission(u[:, :, None].expand(-1, -1, states, -1))
        law = ChainLaw(torch.zeros(1, states), torch.zeros(1, length - 1, states, states), emission)
        law.log_prob(torch.tensor([[5, 50_000]])).sum().backward()
        with torch.no_grad():
            law.sample(generator_for(0))
            law.marginals()
    limit = states * length * vocab
    if kind == "dense":
        assert largest.numel >= limit, "the measurement must be able to see a large tensor"
    elif kind == "shared":
        assert largest.numel <= states * vocab  # the factor itself, shared by all positions
    else:
        assert largest.numel <= 1 << 20
