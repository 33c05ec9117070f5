"""Laws made of laws."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from registry_laws import chain, mixture, normal, product

from fewjump.law.mixture import JoinedLaw, MixtureLaw, MixtureOf
from fewjump.law.product import ProductLaw

B, L, V = 3, 3, 3


def test_mixture_of_products_is_the_mixture_law() -> None:
    logits, weights = normal(0, B, 4, L, V), normal(1, B, 4)
    reference = MixtureLaw(logits, weights)
    for mixed in (
        MixtureOf(ProductLaw(logits.flatten(0, 1)), weights),
        MixtureOf([ProductLaw(logits[:, k]) for k in range(4)], weights),
    ):
        torch.testing.assert_close(mixed.enumerate(), reference.enumerate(), atol=1e-12, rtol=0)
        torch.testing.assert_close(mixed.marginals(), reference.marginals(), atol=1e-12, rtol=0)


def test_gradients_reach_weights_and_components() -> None:
    logits, weights = normal(0, B, 4, L, V), normal(1, B, 4)
    x0 = torch.randint(V, (B, L))
    results = []
    for build in (
        lambda u, w: MixtureLaw(u, w),
        lambda u, w: MixtureOf([ProductLaw(u[:, k]) for k in range(4)], w),
    ):
        u, w = logits.clone().requires_grad_(), weights.clone().requires_grad_()
        results.append(torch.autograd.grad(build(u, w).log_prob(x0).sum(), (u, w)))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_joined_rows_come_from_the_right_laws() -> None:
    laws = [chain(0), product(1), mixture(2)]
    order = torch.tensor([8, 0, 4, 4, 2])
    joined = JoinedLaw(laws, order)
    expected = torch.cat([law.enumerate() for law in laws])[order]
    torch.testing.assert_close(joined.enumerate(), expected)
    torch.testing.assert_close(
        joined.marginals(), torch.cat([law.marginals() for law in laws])[order]
    )


def test_component_impossible_under_the_evidence_gets_no_weight() -> None:
    one, other = normal(0, B, L, V), normal(1, B, L, V)
    one[:, 0, 1] = -torch.inf
    mixed = MixtureOf([ProductLaw(one), ProductLaw(other)], torch.zeros(B, 2, dtype=torch.float64))
    known = torch.tensor([[True, False, False]]).expand(B, -1)
    x0 = torch.ones(B, L, dtype=torch.int64)
    weights = mixed.given(x0, known).weight_logits.softmax(-1)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1.0]]).expand(B, -1).double())


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"B\*K = 6"):
        MixtureOf(product(), torch.zeros(B, 2))
    with pytest.raises(ValueError, match="same length"):
        JoinedLaw([], torch.arange(2))
    with pytest.raises(ValueError, match="one batch size"):
        MixtureOf([product(), product().select(torch.tensor([0]))], torch.zeros(B, 2))
