from __future__ import annotations

import math
import time

import pytest
import torch

from fewjump.evaluate import NGramJudge
from fewjump.law.base import enumerate_states
from fewjump.problem import MarkovChain
from fewjump.random import generator_for


def test_witten_bell_by_hand():
    judge = NGramJudge(torch.tensor([[0, 1, 0, 0]]), vocab_size=3, order=2)
    # Unigrams: 0 ×3, 1 ×1, T = 2: p(0) = (3 + 2/3)/6, p(1) = (1 + 2/3)/6, p(2) = (2/3)/6.
    p0, p1, p2 = 11 / 18, 5 / 18, 2 / 18
    # After 0: 1 and 0 once each, T = 2. After 1: 0 once, T = 1. After 2: nothing seen.
    log_prob = judge.log_prob(torch.tensor([[0, 1, 0, 2, 1], [2, 2, 1, 1, 0]]))
    expected = [
        [p0, (1 + 2 * p1) / 4, (1 + p0) / 2, 2 * p2 / 4, p1],
        [p2, p2, p1, p1 / 2, (1 + p0) / 2],
    ]
    torch.testing.assert_close(log_prob.exp(), torch.tensor(expected, dtype=torch.float64))


def test_the_start_of_a_line_is_a_context_of_its_own():
    lines = torch.tensor([[0, 1], [0, 1], [0, 2]])
    judge = NGramJudge(lines, vocab_size=3, order=2, begins=True)
    # Only 0 begins a line: n = 3, T = 1. Unigrams 3:2:1 of 6, T = 3.
    p0 = (3 + 3 / 3) / 9
    first = float(judge.log_prob(torch.tensor([[0, 1]]))[0, 0].exp())
    assert first == pytest.approx((3 + p0) / 4)
    window = NGramJudge(lines, vocab_size=3, order=2)
    assert float(window.log_prob(torch.tensor([[0, 1]]))[0, 0].exp()) == pytest.approx(p0)


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_a_judge_is_a_distribution(order, begins):
    tokens = torch.randint(0, 3, (20, 6), generator=generator_for(1))
    tokens[tokens == 2] = tokens.flip(0)[tokens == 2] // 2
    judge = NGramJudge(tokens, 3, order, begins)
    total = judge.log_prob(enumerate_states(3, 5)).sum(-1).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-12)


def test_orders_beyond_the_sequence_are_harmless():
    tokens = torch.tensor([[0, 1, 1], [1, 0, 1]])
    short, long = NGramJudge(tokens, 2, 3), NGramJudge(tokens, 2, 6)
    torch.testing.assert_close(short.log_prob(tokens), long.log_prob(tokens), rtol=0, atol=0)


def test_the_judge_of_a_chain_approaches_its_entropy():
    chain = MarkovChain.random(4, 24, generator=generator_for(3))
    train, test = chain.sample(6000, generator_for(4)), chain.sample(3000, generator_for(5))
    truth = chain.entropy() / 24
    nll = NGramJudge(train, 4, order=2).nll(test, generator_for(6))
    assert nll.value == pytest.approx(truth, abs=0.004)
    assert nll.low < truth < nll.high
    # No judge beats the truth by more than chance, and an independent one is well above it.
    assert NGramJudge(train, 4, order=1).nll(test, generator_for(6)).value > truth + 0.1


def test_ten_thousand_sequences_take_seconds():
    train = torch.randint(0, 27, (5000, 64), generator=generator_for(1))
    judge = NGramJudge(train, 27)
    started = time.process_time()
    judge.log_prob(torch.randint(0, 27, (10_000, 64), generator=generator_for(2)))
    assert time.process_time() - started < 15


def test_large_vocabularies_shorten_the_order():
    tokens = torch.randint(0, 50_257, (10, 20), generator=generator_for(1))
    judge = NGramJudge(tokens, 50_257)
    assert judge.order == 3
    assert bool(judge.log_prob(tokens).isfinite().all())
    with pytest.raises(ValueError, match=r"1\.\.3 for 50257"):
        NGramJudge(tokens, 50_257, order=4)


def test_foreign_tokens_are_refused():
    judge = NGramJudge(torch.zeros(2, 4, dtype=torch.int64), 3)
    with pytest.raises(ValueError, match="mask"):
        judge.log_prob(torch.tensor([[3]]))
    with pytest.raises(ValueError, match=r"\(N, L\)"):
        judge.log_prob(torch.tensor([1]))


def test_a_repetitive_text_beats_real_text():
    # Why NLL alone is no measure: the most likely token repeated.
    chain = MarkovChain.random(4, 24, generator=generator_for(3))
    judge = NGramJudge(chain.sample(2000, generator_for(4)), 4, order=3)
    favourite = int(chain.transition.diagonal().argmax())
    constant = torch.full((10, 24), favourite)
    real = judge.nll(chain.sample(500, generator_for(5)), generator_for(6)).value
    assert judge.nll(constant, generator_for(6)).value < real
    assert real < math.log(4)
