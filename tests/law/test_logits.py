"""The product law that never writes its logits down: equal to the one that does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fewjump.law import cross_entropy, logit_pass, logits
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.logits import LinearLogits
from fewjump.law.product import ProductLaw
from fewjump.random import SampleStreams

B, L, D, V = 2, 3, 4, 7
MASK = 6


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (logit_pass, logits, cross_entropy):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * V)
    monkeypatch.setattr(logits, "_ENTRY_ELEMENTS", 1)


def parts(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, L, D), (V, D), (V,))
    return [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes
    ]


def state(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(MASK, (B, L), generator=generator)
    return torch.where(torch.rand(B, L, generator=generator) < 0.4, clean, MASK)


X_T = torch.tensor([[1, MASK, MASK], [MASK, MASK, 3]])


def law_of(values: list[Tensor], x_t: Tensor | None = X_T, **options: Any) -> ProductLaw:
    features, weight, bias = values
    if x_t is None:
        return ProductLaw(LinearLogits(features, weight, bias, **options))
    bias = bias.index_fill(0, torch.tensor([MASK]), -torch.inf)
    raised = torch.tensor([[0, 5, 2], [MASK, 1, 4]])
    gain = torch.linspace(-1, 2, B * L, dtype=torch.float64).reshape(B, L)
    certain = x_t != MASK, x_t
    return ProductLaw(LinearLogits(features, weight, bias, *certain, raised, gain, **options))


def dense_of(law: ProductLaw) -> ProductLaw:
    """By the formula, not by the law's own ``logits``."""
    source = law.source
    assert isinstance(source, LinearLogits)
    logits = torch.einsum("bld,vd->blv", source.features, source.weight) + source.bias
    if source.raised is not None:
        assert source.gain is not None
        logits = logits + torch.nn.functional.one_hot(source.raised, V) * source.gain[..., None]
    if source.visible is not None:
        assert source.tokens is not None
        certain = torch.where(
            torch.nn.functional.one_hot(source.tokens, V).bool(), 0.0, -torch.inf
        ).to(logits.dtype)
        logits = torch.where(source.visible[..., None], certain, logits)
    return ProductLaw(logits)


def same_gradients(values: list[Tensor], one: Tensor, two: Tensor) -> None:
    got = torch.autograd.grad(one, values, retain_graph=True)
    want = torch.autograd.grad(two, values, retain_graph=True)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("x_t", [None, X_T], ids=["open", "masked"])
def test_sums_over_the_vocabulary_equal_the_dense_law(x_t: Tensor | None) -> None:
    values, others = parts(0), parts(1)
    law = law_of(values, x_t)
    # The target knows one position more, and is certain of the student's certain tokens.
    further = X_T.clone()
    further[1, 1] = 4
    target = law_of(others, None if x_t is None else further).detach()
    for other in (target, dense_of(target)):
        got, want = law.cross_entropy(other), dense_of(law).cross_entropy(dense_of(target))
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
        weights = torch.tensor([0.3, 2.0], dtype=torch.float64)
        same_gradients(values, (got * weights).sum(), (want * weights).sum())
    x0 = torch.where(X_T == MASK, 5, X_T)
    got, want = law.token_log_prob(x0), dense_of(law).token_log_prob(x0)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    same_gradients(values, got.square().sum(), want.square().sum())
    with torch.no_grad():
        torch.testing.assert_close(law.entropy(), dense_of(law).entropy(), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(law.logits, dense_of(law).logits, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(law.entropy(), dense_of(law).entropy(), atol=1e-12, rtol=1e-12)
    same_gradients(values, law.entropy().sum(), dense_of(law).entropy().sum())


def test_impossible_tokens_are_infinite_not_nan() -> None:
    law = law_of(parts(0))
    wrong = torch.where(X_T == MASK, MASK, 0)
    log_prob = law.token_log_prob(wrong)
    assert bool((log_prob == -torch.inf).all())
    spread = ProductLaw(torch.zeros(B, L, V, dtype=torch.float64))
    assert bool(law.position_cross_entropy(spread).isposinf().all())
    free = law_of(parts(1), None).detach()
    assert bool(law.position_cross_entropy(free).isposinf().all())


def test_a_joint_target_enters_through_its_marginals() -> None:
    table = torch.rand(B, V**L, dtype=torch.float64)
    target = EnumeratedLaw(table, torch.ones(B, L, V, dtype=torch.float64))
    law = law_of(parts(0), None)
    torch.testing.assert_close(law.cross_entropy(target), dense_of(law).cross_entropy(target))


@pytest.mark.parametrize("x_t", [None, X_T], ids=["open", "masked"])
def test_draws_equal_those_of_the_dense_law(x_t: Tensor | None) -> None:
    law = law_of(parts(0), x_t).detach()
    many = law.select(torch.arange(B).repeat(200))
    streams = [SampleStreams(1, torch.arange(2 * 200)) for _ in range(4)]
    assert torch.equal(many.sample(streams[0]), dense_of(many).sample(streams[1]))
    where = torch.rand(400, L) < 0.5
    assert torch.equal(
        many.sample_where(where, streams[2]), dense_of(many).sample_where(where, streams[3])
    )


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (0.0, 1.0), (1.0, 0.6), (1.7, 0.8)])
def test_tempered_laws_equal_the_dense_ones(temperature: float, top_p: float) -> None:
    law = law_of(parts(0))
    got, want = law.tempered(temperature, top_p), dense_of(law).tempered(temperature, top_p)
    x0 = torch.tensor([[1, 0, 2], [5, 4, 3]])
    torch.testing.assert_close(got.marginals(), want.marginals(), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(got.token_log_prob(x0), want.token_log_prob(x0))
    with torch.no_grad():
        torch.testing.assert_close(got.token_log_prob(x0), want.token_log_prob(x0))
        torch.testing.assert_close(got.entropy(), want.entropy())
    spread = ProductLaw(want.logits.detach())
    torch.testing.assert_close(got.cross_entropy(spread), want.cross_entropy(spread))


def test_entries_equal_rows() -> None:
    for law in (law_of(parts(0)), law_of(parts(0), None), law_of(parts(0)).tempered(1.0, 0.6)):
        rows = torch.tensor([5, 0, 1, 1])
        columns = torch.tensor([[3, MASK], [1, 0], [2, 2], [MASK, 5]])
        whole = law.source.read(rows)
        torch.testing.assert_close(law.source.entries(rows, columns), whole.gather(1, columns))
        torch.testing.assert_close(whole, law.logits.detach().flatten(0, 1)[rows])


def test_rows_of_another_time_can_replace_some() -> None:
    values = parts(0)
    first = law_of(values)
    other = ProductLaw(
        replace(
            first.source.select(torch.tensor([0])),
            features=parts(5)[0][:1],
            visible=torch.tensor([[True] * L]),
            tokens=X_T[:1] * 0,
        )
    )
    both = first.replaced(torch.tensor([1]), other)
    torch.testing.assert_close(both.logits[:1], first.logits[:1])
    torch.testing.assert_close(both.logits[1:], other.logits)


@pytest.mark.parametrize("eager", [True, False], ids=["early", "recomputed"])
def test_soft_gradients_by_finite_differences(eager: bool) -> None:
    (features, weight, bias), others = parts(0), parts(1)
    target = law_of(others).source
    rows = torch.tensor([4, 1, 3, 3])
    row_weight = torch.tensor([0.5, 0.0, 2.0, 1.0], dtype=torch.float64)
    impossible = torch.zeros(V, dtype=torch.float64)
    impossible[MASK] = -torch.inf

    def loss(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        student = LinearLogits(h[None], w, b + impossible)
        result = cross_entropy.soft_cross_entropy(student, target, rows, row_weight)
        if eager:
            return 3 * result.total
        return 3 * (row_weight * result.cross_entropy).sum()

    h = features.flatten(0, 1).detach().requires_grad_()
    # The early gradients serve one backward pass; others differ by rounding.
    assert gradcheck(loss, (h, weight, bias), nondet_tol=1e-12)
    # A second backward pass over the same graph finds the early gradients used up.
    value = loss(h, weight, bias)
    once = torch.autograd.grad(value, (h, weight, bias), retain_graph=True)
    twice = torch.autograd.grad(value, (h, weight, bias))
    for a, b in zip(once, twice):
        torch.testing.assert_close(a, b)


def test_half_precision_products_with_sums_in_float32() -> None:
    """Against float64 on the same rounded logits; the weight's gradient is not rounded at all."""
    values, others = parts(0, torch.float32), parts(1, torch.float32)
    # Without a gain, which the rows take in float32 and the whole table in bfloat16.
    plain = {"compute": torch.bfloat16, "raised": None, "gain": None}
    law, target = (
        ProductLaw(replace(law_of(v).source, **plain))
        for v in (values, [o.detach() for o in others])
    )
    assert law.logits.dtype == torch.bfloat16
    exact = ProductLaw(law.logits.double())
    torch.testing.assert_close(
        law.cross_entropy(target).double(),
        exact.cross_entropy(ProductLaw(target.logits.double())),
        atol=1e-5,
        rtol=1e-6,
    )
    x0 = torch.tensor([[1, 0, 2], [5, 4, 3]])
    torch.testing.assert_close(law.log_prob(x0).double(), exact.log_prob(x0), atol=1e-5, rtol=1e-6)
    gradient = torch.autograd.grad(law.log_prob(x0).sum(), values, retain_graph=True)
    assert all(g.dtype == torch.float32 for g in gradient)
    wide = ProductLaw(replace(law.source, compute=torch.float32))
    want = torch.autograd.grad(dense_of(wide).log_prob(x0).sum(), values)
    for a, b in zip(gradient, want):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


def test_nothing_of_the_size_of_the_logits_is_made() -> None:
    """Every tensor that loss, gradient and draws create is looked at."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    rows, width = 64, 50
    features = torch.randn(4, rows // 4, D, requires_grad=True)
    weight, bias = torch.randn(width, D, requires_grad=True), torch.zeros(width)
    law = ProductLaw(LinearLogits(features, weight, bias))
    target = ProductLaw(LinearLogits(features * 2, weight, bias)).detach()
    large: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            out = func(*args, **(kwargs or {}))
            for value in tree_iter(out):
                if isinstance(value, torch.Tensor) and value.numel() >= rows * width // 4:
                    large.append(str(func))
            return out

    with Watch():
        x0 = target.sample()
        loss = law.cross_entropy(target).sum() + law.log_prob(x0).sum() + target.entropy().sum()
        loss.backward()
    assert weight.grad is not None
    assert large == []


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, L, D\)"):
        LinearLogits(torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(5))
    with pytest.raises(ValueError, match=r"\(V, D\) = \(5, 4\)"):
        LinearLogits(torch.zeros(2, 3, 4), torch.zeros(5, 3), torch.zeros(5))
