from __future__ import annotations

import pytest
import torch

from fewjump.evaluate import markov_report
from fewjump.evaluate.markov import chain_metrics
from fewjump.problem import MarkovChain
from fewjump.random import generator_for


@pytest.fixture(scope="module")
def chain():
    return MarkovChain.random(5, 12, generator=generator_for(2))


def test_exact_samples_lie_on_the_floor(chain):
    report = markov_report(chain, chain.sample(3000, generator_for(3)), generator_for(4))
    floor = report.bigram_tv_floor
    assert floor.low <= report.bigram_tv.value <= floor.high
    assert report.nll.low < report.entropy < report.nll.high
    assert report.nll.high - report.nll.low < 0.03
    assert report.impossible == 0
    assert report.entropy_rate == pytest.approx(chain.entropy_rate(), abs=1e-12)


def test_independent_tokens_are_found_out(chain):
    samples = chain.sample(3000, generator_for(3))
    shuffled = torch.stack([column.roll(i * 7) for i, column in enumerate(samples.unbind(1))], 1)
    report = markov_report(chain, shuffled, generator_for(4))
    # Marginals are kept and pairs independent: TV is that of the bigram law from its product.
    law = chain.bigram_law()
    expected = 0.5 * float((law - law.sum(1, keepdim=True) * law.sum(0)).abs().sum())
    # Its standard deviation over such sets is 0.0027: four of them.
    assert report.bigram_tv.value == pytest.approx(expected, abs=0.011)
    assert report.bigram_tv.high - report.bigram_tv.low == pytest.approx(4 * 0.0027, rel=0.3)
    assert report.bigram_tv.low > report.bigram_tv_floor.high
    assert report.nll.low > report.entropy


def test_bigram_tv_agrees_with_the_problem(chain):
    samples = chain.sample(200, generator_for(3))
    found = chain_metrics(chain, samples, generator_for(4))["bigram_tv"]
    assert found.value == pytest.approx(chain.bigram_tv(samples), abs=1e-14)


def test_impossible_samples_are_counted_and_left_out():
    transition = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
    chain = MarkovChain(torch.full((3,), 1 / 3), transition, 4)
    samples = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 2], [0, 2, 0, 0], [1, 2, 2, 2]])
    report = markov_report(chain, samples, generator_for(1))
    assert report.impossible == pytest.approx(1 / 4)
    # Every possible sequence has the same probability.
    assert report.nll.value == pytest.approx(report.entropy, abs=1e-12)
    with pytest.raises(ValueError, match="fewer than 2"):
        markov_report(chain, samples[[2, 2, 2]], generator_for(1))
