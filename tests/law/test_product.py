"""The product law: closed forms, certainty, half precision."""

from __future__ import annotations

import pytest
import torch

from fewjump.law.base import enumerate_states
from fewjump.law.chain import ChainLaw
from fewjump.law.log_weights import nucleus
from fewjump.law.logits import pin_logits
from fewjump.law.product import ProductLaw
from fewjump.random import generator_for

torch.manual_seed(0)
LOGITS = torch.randn(2, 3, 4, dtype=torch.float64)


def test_cross_entropy_with_a_product_is_exact() -> None:
    law, target = ProductLaw(LOGITS), ProductLaw(LOGITS.flip(-1))
    weights = target.enumerate().exp()
    expected = -(weights * law.enumerate()).sum(-1)
    torch.testing.assert_close(law.cross_entropy(target), expected, atol=1e-12, rtol=0)


def test_cross_entropy_with_a_joint_law_is_exact() -> None:
    law = ProductLaw(LOGITS)
    target = ChainLaw(
        torch.randn(2, 3, dtype=torch.float64),
        torch.randn(2, 2, 3, 3, dtype=torch.float64),
        torch.randn(2, 3, 3, 4, dtype=torch.float64),
    )
    expected = -(target.enumerate().exp() * law.enumerate()).sum(-1)
    torch.testing.assert_close(law.cross_entropy(target), expected, atol=1e-12, rtol=0)


def test_entropy_is_cross_entropy_with_itself() -> None:
    law = ProductLaw(LOGITS)
    torch.testing.assert_close(law.entropy().sum(-1), law.cross_entropy(law))


def test_impossible_tokens_cost_nothing_where_the_target_excludes_them() -> None:
    logits = LOGITS.clone()
    logits[..., 3] = -torch.inf
    logits.requires_grad_()
    target = ProductLaw(LOGITS.clone().index_fill(-1, torch.tensor([3]), -torch.inf))
    value = ProductLaw(logits).cross_entropy(target).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())


def test_normaliser_is_the_same_with_and_without_gradients() -> None:
    with_gradient = ProductLaw(LOGITS.clone().requires_grad_()).log_normaliser
    with torch.no_grad():
        without = ProductLaw(LOGITS).log_normaliser
    torch.testing.assert_close(with_gradient.detach(), without, atol=1e-14, rtol=0)


def test_pinning_is_certainty_and_leaves_the_rest() -> None:
    x0 = torch.tensor([[1, 0, 2], [3, 3, 3]])
    known = torch.tensor([[True, False, False], [False, False, True]])
    law = ProductLaw(pin_logits(LOGITS, x0, known))
    marginals = law.marginals()
    assert float(marginals[0, 0, 1]) == 1
    assert float(marginals[1, 2, 3]) == 1
    torch.testing.assert_close(marginals[~known], ProductLaw(LOGITS).marginals()[~known])


def test_half_precision_is_scored_in_float32() -> None:
    law = ProductLaw(LOGITS.bfloat16())
    assert law.log_normaliser.dtype == torch.float32
    assert law.marginals().dtype == torch.float32


def test_nucleus_is_the_smallest_sufficient_set() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.81, 3), (0.96, 4)):
        assert int((nucleus(logits, 1.0, top_p) > -torch.inf).sum()) == kept
    assert nucleus(logits.flip(0), 0.0, 1.0).argmax() == 3


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, L, V\)"):
        ProductLaw(torch.zeros(3, 4))


def test_too_many_states_are_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        enumerate_states(10, 7)


def test_entropies_in_chunks_equal_the_formula() -> None:
    logits = torch.randn(700, 3, 300, generator=generator_for(1), dtype=torch.float64)
    logits[0, 0, 1:] = -torch.inf
    law, recorded = ProductLaw(logits), ProductLaw(logits.clone().requires_grad_())
    torch.testing.assert_close(law.entropy(), recorded.entropy().detach())
