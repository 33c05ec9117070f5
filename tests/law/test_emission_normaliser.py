"""Normalisers of factored emissions: equal to logsumexp of the logits written out."""

from __future__ import annotations

import torch

from fewjump.law.emission_normaliser import log_matmul_exp, low_rank_normaliser


def test_a_factor_that_underflows_is_summed_in_log_space() -> None:
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    factor = torch.tensor([[-300.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        log_matmul_exp(logits[None], factor[None])[0], torch.tensor([[-300.0, 0.0]])
    )


def test_normalisers_agree_with_logsumexp_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, states, vocab, rank = 6, 4, 11, 3
    base, features, tokens = (
        torch.randn(shape, generator=generator)
        for shape in ((rows, vocab), (rows, states, rank), (vocab, rank))
    )
    base[1, 4:] = -torch.inf
    expected = (base[:, None] + features @ tokens.T).logsumexp(-1)
    torch.testing.assert_close(low_rank_normaliser(base, features, tokens), expected)
    factor = torch.randn(states, vocab, generator=generator)
    expected = (base[:, None] + factor).logsumexp(-1)
    torch.testing.assert_close(log_matmul_exp(base[None], factor[None])[0], expected)
