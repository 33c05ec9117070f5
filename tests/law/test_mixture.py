"""The mixture law, and the token log-probability it rests on."""

from __future__ import annotations

import pytest
import torch

from fewjump.law.cross_entropy import token_log_prob
from fewjump.law.emission import DenseEmission
from fewjump.law.log_weights import safe_logsumexp
from fewjump.law.mixture import MixtureLaw
from fewjump.law.product import ProductLaw

B, K, L, V = 2, 3, 4, 5


def law(dtype: torch.dtype = torch.float64) -> MixtureLaw:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, K, L, V, generator=generator, dtype=torch.float64)
    return MixtureLaw(logits.to(dtype), torch.randn(B, K, generator=generator).to(dtype))


def logits_of(mixture: MixtureLaw) -> torch.Tensor:
    """A fresh (B, K, L, V)."""
    return mixture.emission.logits.transpose(1, 2).clone()


def test_token_log_prob_and_its_gradient() -> None:
    logits = torch.randn(2, 3, V, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(V, (2, 1))

    def reference(values: torch.Tensor) -> torch.Tensor:
        return values.log_softmax(-1).gather(-1, tokens[..., None].expand(2, 3, 1))[..., 0]

    torch.testing.assert_close(token_log_prob(logits, tokens), reference(logits))
    assert torch.autograd.gradcheck(lambda v: token_log_prob(v, tokens), logits)


def test_token_log_prob_with_impossible_tokens_has_finite_gradients() -> None:
    logits = torch.randn(3, V, dtype=torch.float64)
    logits[0, 1:] = -torch.inf
    logits[1, 2] = -torch.inf
    logits.requires_grad_()
    value = token_log_prob(logits, torch.tensor([0, 2, 1]))
    assert float(value[0].detach()) == 0
    assert float(value[1].detach()) == -torch.inf
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(gradient.isfinite().all())
    assert float(gradient[0].abs().max()) == 0


def test_safe_logsumexp_of_nothing() -> None:
    values = torch.full((2, 3), -torch.inf, dtype=torch.float64)
    values[1] = torch.tensor([0.0, 1.0, -torch.inf])
    values.requires_grad_()
    total = safe_logsumexp(values)
    torch.testing.assert_close(total, values.logsumexp(-1))
    (gradient,) = torch.autograd.grad(total[1], values)
    assert bool(gradient.isfinite().all())


def test_both_memory_layouts_agree() -> None:
    plain = law()
    other = MixtureLaw(DenseEmission(plain.emission.logits.contiguous()), plain.weight_logits)
    assert not plain.emission.logits.is_contiguous()
    x0 = torch.randint(V, (B, L))
    torch.testing.assert_close(other.log_prob(x0), plain.log_prob(x0), atol=1e-14, rtol=0)
    known = torch.rand(B, L) < 0.5
    torch.testing.assert_close(
        other.given(x0, known).log_prob(x0), plain.given(x0, known).log_prob(x0)
    )


def test_one_component_is_a_product() -> None:
    logits = torch.randn(B, 1, L, V, dtype=torch.float64)
    one, product = MixtureLaw(logits, torch.zeros(B, 1)), ProductLaw(logits[:, 0])
    x0 = torch.randint(V, (B, L))
    torch.testing.assert_close(one.log_prob(x0), product.log_prob(x0))


def test_gradient_is_finite_with_a_component_that_excludes_the_sequence() -> None:
    base = law()
    logits = logits_of(base)
    logits[:, 0, 0, 1:] = -torch.inf
    logits.requires_grad_()
    x0 = torch.ones(B, L, dtype=torch.int64)
    value = MixtureLaw(logits, base.weight_logits).log_prob(x0).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    assert bool(value.isfinite())
    assert bool(gradient.isfinite().all())


def test_impossible_evidence_keeps_the_weights() -> None:
    base = law()
    logits = logits_of(base)
    logits[..., 0, 1] = -torch.inf
    mixture = MixtureLaw(logits, base.weight_logits)
    x0 = torch.ones(B, L, dtype=torch.int64)
    known = torch.zeros(B, L, dtype=torch.bool)
    known[:, 0] = True
    torch.testing.assert_close(mixture.given(x0, known).weight_logits, mixture.weight_logits)


def test_half_precision_logits_are_scored_in_float32() -> None:
    mixture = law(torch.bfloat16)
    assert mixture.log_prob(torch.zeros(B, L, dtype=torch.int64)).dtype == torch.float32


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, K, L, V\)"):
        MixtureLaw(torch.zeros(B, L, V), torch.zeros(B, K))
    with pytest.raises(ValueError, match=r"\(B, K\)"):
        MixtureLaw(torch.zeros(B, K, L, V), torch.zeros(B, K + 1))
