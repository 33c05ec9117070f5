"""The mixture with shared tables: equal to the mixture written out, at any scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewjump.law import emission_normaliser
from fewjump.law.emission import SharedFactorEmission
from fewjump.law.mixture import MixtureLaw

B, K, L, V = 2, 3, 4, 5


def parts(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    base = normal(B, L, V)
    base[..., V - 1] = -torch.inf
    base[0, 1] = -torch.inf
    base[0, 1, 2] = 0.0
    return base, normal(L, K, V), normal(B, K)


def written_out(base: Tensor, tables: Tensor, weights: Tensor) -> MixtureLaw:
    return MixtureLaw((base[:, :, None] + tables).transpose(1, 2), weights)


def mixture(base: Tensor, tables: Tensor, weights: Tensor) -> MixtureLaw:
    return MixtureLaw(SharedFactorEmission(base, tables), weights)


def plain() -> MixtureLaw:
    return mixture(*parts())


@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_log_prob_and_its_gradient_are_those_of_the_mixture(scale: float) -> None:
    """At the larger scale every product of exponentials underflows somewhere."""
    x0 = torch.tensor([[0, 2, 3, 1], [1, 0, 0, 3]])
    values, gradients = [], []
    for shared in (True, False):
        base, tables, weights = (part.requires_grad_() for part in parts(scale))
        law = (mixture if shared else written_out)(base, tables, weights)
        value = law.log_prob(x0)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value.sum(), (base, tables, weights)))
    torch.testing.assert_close(values[0], values[1], atol=1e-9, rtol=1e-12)
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("chunk", [1 << 22, 1])
@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_marginals_and_their_gradient_are_those_of_the_mixture(
    scale: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission_normaliser, "CHUNK", chunk)
    worth = torch.rand(B, L, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values, gradients = [], []
    for shared in (True, False):
        base, tables, weights = (part.requires_grad_() for part in parts(scale))
        law = (mixture if shared else written_out)(base, tables, weights)
        value = law.marginals()
        values.append(value.detach())
        gradients.append(torch.autograd.grad((value * worth).sum(), (base, tables, weights)))
    torch.testing.assert_close(values[0], values[1], atol=1e-14, rtol=1e-12)
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 25.0, 60.0])
def test_marginals_in_float32_lose_no_more_than_its_rounding(scale: float) -> None:
    """At the larger scales normalisers lie near the smallest number that float32 has."""
    wide = mixture(*parts(scale)).marginals()
    narrow = mixture(*(part.float() for part in parts(scale))).marginals()
    torch.testing.assert_close(narrow.double(), wide, atol=2e-5, rtol=1e-4)


def test_a_component_without_weight_may_allow_nothing() -> None:
    """As after a token was given that it cannot emit."""
    base, tables, weights = parts()
    tables[1, 0, 2] = -torch.inf
    known = torch.zeros(B, L, dtype=torch.bool)
    known[:, 1] = True
    law = mixture(base, tables, weights).given(torch.full((B, L), 2), known)
    expected = written_out(base, tables[:, 1:], weights[:, 1:]).given(torch.full((B, L), 2), known)
    torch.testing.assert_close(law.marginals(), expected.marginals(), atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("shaping", [(0.7, 1.0), (1.0, 0.8), (1.3, 0.6), (0.0, 1.0)])
def test_tempered_is_the_tempered_mixture(shaping: tuple[float, float]) -> None:
    mine = plain().tempered(*shaping)
    theirs = written_out(*parts()).tempered(*shaping)
    torch.testing.assert_close(
        mine.enumerate().exp(), theirs.enumerate().exp(), atol=1e-12, rtol=1e-9
    )
    torch.testing.assert_close(mine.marginals(), theirs.marginals(), atol=1e-12, rtol=1e-9)


def test_tempered_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="already tempered"):
        plain().tempered(1.0, 0.5).tempered(0.5)


def test_shapes_that_do_not_fit_are_named() -> None:
    base, tables, weights = parts()
    with pytest.raises(ValueError, match="log_factor must be"):
        mixture(base, tables[1:], weights)
    with pytest.raises(ValueError, match="weight_logits must be"):
        mixture(base, tables, weights[:, 1:])
    with pytest.raises(ValueError, match="base must be"):
        mixture(base[0], tables, weights)
