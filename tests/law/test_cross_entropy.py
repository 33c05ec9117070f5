"""Chunked cross-entropies against the plain formulas, −inf included."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from fewjump.law import cross_entropy as ce
from fewjump.law import logit_pass
from fewjump.law.base import enumerate_states
from fewjump.law.chain import ChainLaw
from fewjump.law.logits import DenseLogits, pin_logits
from fewjump.law.mixture import MixtureLaw
from fewjump.law.product import ProductLaw


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(logit_pass, "DENSE_CHUNK", 128)


def soft(logits, target, rows, row_weight=None):
    source, against = DenseLogits(logits[None]), DenseLogits(target[None])
    return ce.soft_cross_entropy(source, against, rows, row_weight)


def hard(logits, tokens, rows):
    return ce.token_cross_entropy(DenseLogits(logits[None]), tokens, rows)


def test_values_and_gradients_equal_the_plain_formula():
    torch.manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(7, 5, dtype=torch.float64)
    rows = torch.tensor([0, 2, 3, 6, 5])
    got = soft(logits, target, rows)
    log_q, log_p = logits.log_softmax(-1)[rows], target.log_softmax(-1)[rows]
    torch.testing.assert_close(got.cross_entropy, -(log_p.exp() * log_q).sum(-1))
    torch.testing.assert_close(got.target_entropy, -(log_p.exp() * log_p).sum(-1))
    torch.testing.assert_close(got.entropy, -(log_q.exp() * log_q).sum(-1))
    assert gradcheck(lambda z: soft(z, target, rows).cross_entropy, (logits,))
    tokens = torch.randint(5, (7,))
    assert gradcheck(lambda z: hard(z, tokens, rows), (logits,))
    torch.testing.assert_close(
        hard(logits, tokens, rows),
        torch.nn.functional.cross_entropy(logits[rows], tokens[rows], reduction="none"),
    )


def test_impossible_tokens_give_no_nan():
    inf = float("inf")
    logits = torch.tensor([[0.3, -inf, 1.0], [0.0, -inf, -inf]], requires_grad=True)
    target = torch.tensor([[0.1, -inf, 0.2], [0.0, -inf, -inf]])
    result = soft(logits, target, torch.arange(2))
    tokens = hard(logits, torch.tensor([2, 0]), torch.arange(2))
    (result.cross_entropy.sum() + tokens.sum()).backward()
    assert result.cross_entropy.isfinite().all()
    assert result.entropy.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[:, 1].abs().max() == 0
    # A token that the target wants and the student forbids is an infinite loss, not a NaN.
    worst = soft(logits, torch.zeros(2, 3), torch.arange(1)).cross_entropy
    assert worst.isposinf().all()


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(1)
    logits, target = torch.randn(4, 300).bfloat16(), torch.randn(4, 300).bfloat16()
    got = soft(logits, target, torch.arange(4)).cross_entropy
    exact = -(target.double().softmax(-1) * logits.double().log_softmax(-1)).sum(-1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-6)


def test_only_the_gradient_has_the_size_of_the_logits():
    """Every storage that loss and backward create is looked at: one is (B, L, V), the gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    width, rows = 64, 128
    logits = torch.randn(rows, width, requires_grad=True)
    target = torch.randn(rows, width)
    known = {logits.untyped_storage().data_ptr(), target.untyped_storage().data_ptr()}
    large: list[str] = []
    alive = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for value in tree_iter(out):
                if isinstance(value, torch.Tensor) and value.numel() >= rows * width:
                    pointer = value.untyped_storage().data_ptr()
                    if pointer not in known:
                        known.add(pointer)
                        alive.append(value)
                        large.append(str(func))
            return out

    with Watch():
        loss = soft(logits, target, torch.arange(rows)).cross_entropy.sum()
        loss = loss + hard(logits.detach(), target.argmax(-1), torch.arange(9))[0]
        loss.backward()
    assert logits.grad is not None
    assert len(large) == 1, large


class Drawn(ProductLaw):
    """A product law whose draw is given: the summed form's expectation can then be added up."""

    x0: torch.Tensor

    def sample(self, generator=None):
        return self.x0


def summed_laws():
    """Joint laws of two rows, three positions and three tokens, with what they are made of."""
    generator = torch.Generator().manual_seed(4)

    def free(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    tables, weights = free(2, 3, 4, 3), free(2, 4)
    first, steps, shared = free(2, 4), free(2, 2, 4, 4), free(4, 4)
    potentials = free(2, 3, 4)
    return {
        "mixture": (MixtureLaw(tables.transpose(1, 2), weights), [tables, weights]),
        "chain": (ChainLaw(first, steps, tables), [first, steps, tables]),
        "shared chain": (ChainLaw(potentials, shared, tables), [potentials, shared, tables]),
    }


@pytest.mark.parametrize("kind", ["mixture", "chain", "shared chain"])
@pytest.mark.parametrize("visible", [False, True])
def test_summed_tokens_have_the_loss_and_the_gradient_of_all_sequences(kind, visible):
    """By enumeration; where a token is visible, both laws are certain of it."""
    law, parts = summed_laws()[kind]
    target = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    if visible:
        known = torch.tensor([[False, True, False], [True, False, False]])
        x0 = torch.ones(2, 3, dtype=torch.int64)
        law = law.given(x0, known)
        target = pin_logits(target, x0, known)
    states = enumerate_states(3, 3).repeat(2, 1)
    rows = torch.arange(2).repeat_interleave(27)
    possible = ProductLaw(DenseLogits(target)).select(rows).log_prob(states) > -torch.inf
    rows, states = rows[possible], states[possible]
    against = Drawn(DenseLogits(target).select(rows))
    against.x0 = states
    weight, alike = against.log_prob(states).exp(), law.select(rows)
    exact = weight.new_zeros(2).index_add(0, rows, -weight * alike.log_prob(states))
    found = weight.new_zeros(2).index_add(0, rows, weight * alike.summed_cross_entropy(against))
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), parts, retain_graph=True),
        torch.autograd.grad(exact.sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
