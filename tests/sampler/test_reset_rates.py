"""One-pass draws: their law for any vocabulary size, token left out, precision and bad rows."""

from __future__ import annotations

import pytest
import torch

from fewjump.law import DenseLogits
from fewjump.process import ResetToPrior
from fewjump.process.bridge import ReverseCoefficients
from fewjump.sampler.reset_rates import LogitRows, ResetRates, draw_other
from fewjump.schedule import LogLinear
from sampler.oracle import chi_square_p

N = 8_000


def rows_of(logits: torch.Tensor, exclude: int = 0) -> LogitRows:
    """Every row of logits (N, V), without one token."""
    every = torch.arange(len(logits))
    return LogitRows(DenseLogits(logits[None]), every, torch.full_like(every, exclude))


def drawn(rows: LogitRows, u: torch.Tensor) -> torch.Tensor:
    return rows.draw(torch.arange(len(u)), u)


def uniforms(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("possible", [False, True])
@pytest.mark.parametrize("vocab", [2, 18, 256, 257, 700, 1024])
def test_draws_the_softmax(vocab: int, possible: bool, dtype: torch.dtype) -> None:
    source = torch.Generator().manual_seed(vocab)
    logits = torch.randn(3, vocab, generator=source).to(dtype)
    logits[1, : vocab // 2] = -torch.inf
    index = torch.ones(N, dtype=torch.int64)
    token = vocab - 1 if possible else 0
    if vocab == 2:
        logits[1] = torch.tensor([0.5, 0.0])
    rows = LogitRows(DenseLogits(logits[None]), index, torch.full((N,), token))
    weights = logits[1].double().exp()
    weights[token] = 0
    share = rows.at / (rows.at + rows.total)
    expected = logits[1].double().softmax(-1)[token]
    assert torch.allclose(share, expected.expand(N), rtol=1e-5)
    samples = drawn(rows, uniforms(N))
    assert chi_square_p(samples[:, None], weights / weights.sum(), vocab) > 1e-4


def test_chunks_do_not_matter(monkeypatch) -> None:
    logits = torch.randn(50, 600, generator=torch.Generator().manual_seed(1))
    whole = drawn(rows_of(logits), uniforms(50))
    monkeypatch.setattr("fewjump.inversion._ROWS_PER_CHUNK_ELEMENTS", 1300)
    assert torch.equal(whole, drawn(rows_of(logits), uniforms(50)))


def test_the_logits_are_left_alone() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    drawn(rows_of(logits), uniforms(4))
    assert torch.equal(logits, before)


def test_end_points_return_possible_tokens() -> None:
    logits = torch.full((1, 900), -torch.inf)
    logits[0, 300], logits[0, 520] = 0.0, 0.0
    for u, expected in ((1e-300, 300), (1 - 2.0**-53, 520)):
        rows = rows_of(logits)
        assert int(drawn(rows, torch.tensor([u], dtype=torch.float64))) == expected


def test_rare_tokens_keep_their_probability() -> None:
    """1e-12 among 1: found exactly on its interval of u."""
    logits = torch.zeros(1, 1000).fill_(-torch.inf)
    logits[0, 10], logits[0, 700] = 0.0, torch.tensor(1e-12).log()
    rows = rows_of(logits)
    for u, expected in ((1 - 2e-12, 10), (1 - 5e-13, 700)):
        assert int(drawn(rows, torch.tensor([u], dtype=torch.float64))) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_rows_are_refused(value: float) -> None:
    logits = torch.zeros(2, 300)
    logits[1, 7] = value
    with pytest.raises(ValueError, match="network's output"):
        rows_of(logits)
    with pytest.raises(ValueError, match="network's output"):
        rows_of(torch.full((1, 5), -torch.inf))


def test_prior_without_one_token() -> None:
    prior = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    for x in range(4):
        expected = prior.clone()
        expected[x] = 0
        samples = draw_other(prior, torch.full((N,), x), uniforms(N), torch.zeros(N).long())
        assert chi_square_p(samples[:, None], expected / expected.sum(), 4) > 1e-4
        edges = torch.tensor([2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
        ends = draw_other(prior, torch.full((2,), x), edges, torch.zeros(2).long())
        assert bool((expected[ends] > 0).all())


def test_priors_of_each_rows_own_without_one_token() -> None:
    priors = torch.tensor([[0.5, 0.0, 0.2, 0.3], [0.1, 0.6, 0.3, 0.0]], dtype=torch.float64)
    row, x = torch.tensor([1, 0, 1]).repeat(N), torch.tensor([1, 3, 0]).repeat(N)
    samples = draw_other(priors, x, uniforms(3 * N), row)
    for which, (prior, token) in enumerate([(1, 1), (0, 3), (1, 0)]):
        expected = priors[prior].clone()
        expected[token] = 0
        drawn = samples[which::3, None]
        assert chi_square_p(drawn, expected / expected.sum(), 4) > 1e-4


def test_jumps_through_the_prior_and_the_data_over_a_large_vocabulary() -> None:
    vocab = 600
    source = torch.Generator().manual_seed(2)
    prior = torch.rand(vocab, generator=source, dtype=torch.float64)
    process = ResetToPrior(prior / prior.sum(), LogLinear())
    logits = 2 * torch.randn(1, 1, vocab, generator=source)
    x = torch.tensor([[5]])
    t, s = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    coefficients = process.bridge_to(x, s, t).coefficients
    assert isinstance(coefficients, ReverseCoefficients)
    rates = ResetRates(DenseLogits(logits), x, coefficients)
    opened = rates.open(torch.zeros(N, dtype=torch.int64))
    p = logits.double().softmax(-1)
    expected = process.reverse_marginals(p, x, s, t)[0, 0].scatter(0, x[0], 0.0)
    assert torch.allclose(opened.total, expected.sum().expand(N), rtol=1e-6)
    samples = opened.draw(torch.arange(N), uniforms(N))
    assert chi_square_p(samples[:, None], expected / expected.sum(), vocab) > 1e-4
