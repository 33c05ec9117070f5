"""A masked law whose visible rows are written late is the law written at once."""

from __future__ import annotations

import torch

from fewjump.denoiser.constrain import constrain_logits, constrained_law
from fewjump.law import ProductLaw
from fewjump.process import Absorbing, Uniform
from fewjump.schedule import LogLinear

PROCESS = Absorbing(6, LogLinear(), mask=2)
X = torch.tensor([[2, 0, 5, 2], [1, 2, 2, 4]])


def logits() -> torch.Tensor:
    return torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


def test_same_law_however_it_is_read() -> None:
    eager = ProductLaw(constrain_logits(logits(), X, PROCESS))
    with torch.no_grad():
        masked = PROCESS.mask == X
        late = constrained_law(logits(), X, PROCESS)
        at = masked.reshape(-1).nonzero()[:, 0]
        raw = late.source.values.clone()
        assert torch.equal(late.source.read(at), eager.logits[masked])
        columns = torch.arange(6).expand(8, -1)
        assert torch.equal(
            late.source.entries(torch.arange(8), columns), eager.logits.flatten(0, 1)
        )
        assert torch.equal(late.source.values, raw), "reading writes nothing"
        assert late.device == eager.device
        assert torch.equal(late.logits, eager.logits)
        for read in (
            lambda law: law.marginals(),
            lambda law: law.sample(torch.Generator().manual_seed(1)),
            lambda law: law.tempered(0.5, 0.9).logits,
            lambda law: law.select(torch.tensor([1])).logits,
            lambda law: law.given(X, X == 5).logits,
            lambda law: law.entropy(),
        ):
            fresh = constrained_law(logits(), X, PROCESS)
            assert torch.equal(read(fresh), read(eager))


def test_gradients_and_other_processes_get_a_plain_law() -> None:
    leaf = logits().requires_grad_()
    law = constrained_law(leaf * 1.0, X, PROCESS)
    assert law.source.visible is None
    law.sample_where(PROCESS.mask == X)
    law.logits[PROCESS.mask == X].exp().sum().backward()
    assert leaf.grad is not None
    plain = logits()
    assert constrained_law(plain, X % 6, Uniform(6, LogLinear())).logits is plain
