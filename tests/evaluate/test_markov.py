from __future__ import annotations

import pytest
import torch

from fewjump.evaluate import ChainMeter
from fewjump.problem import MarkovChain
from fewjump.random import generator_for


@pytest.fixture(scope="module")
def chain():
    return MarkovChain.random(5, 12, generator=generator_for(2))


def test_exact_samples_lie_on_the_floor(chain):
    meter = ChainMeter(chain, 3000)
    found = meter.measure(chain.sample(3000, generator_for(3)))
    floor, real = meter.reference()
    assert floor.low <= found["bigram_tv"].value <= floor.high
    assert found["nll"].low < real.value < found["nll"].high
    assert found["nll"].high - found["nll"].low < 0.03
    assert "impossible" not in found
    assert real.value == pytest.approx(chain.entropy() / 12, abs=1e-12)


def test_independent_tokens_are_found_out(chain):
    samples = chain.sample(3000, generator_for(3))
    shuffled = torch.stack([column.roll(i * 7) for i, column in enumerate(samples.unbind(1))], 1)
    found = ChainMeter(chain).measure(shuffled)
    # Marginals are kept and pairs independent: TV is that of the bigram law from its product.
    law = chain.bigram_law()
    expected = 0.5 * float((law - law.sum(1, keepdim=True) * law.sum(0)).abs().sum())
    # Its standard deviation over such sets is 0.0027: four of them.
    assert found["bigram_tv"].value == pytest.approx(expected, abs=0.011)
    assert found["bigram_tv"].high - found["bigram_tv"].low == pytest.approx(4 * 0.0027, rel=0.3)
    assert found["bigram_tv"].low > chain.bigram_tv_floor(3000, generator=generator_for(4)).high
    assert found["nll"].low > chain.entropy() / 12


def test_bigram_tv_agrees_with_the_problem(chain):
    samples = chain.sample(200, generator_for(3))
    found = ChainMeter(chain).measure(samples)["bigram_tv"]
    assert found.value == pytest.approx(chain.bigram_tv(samples), abs=1e-14)


def test_impossible_samples_are_counted_and_left_out():
    transition = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]])
    chain = MarkovChain(torch.full((3,), 1 / 3), transition, 4)
    samples = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 2], [0, 2, 0, 0], [1, 2, 2, 2]])
    meter = ChainMeter(chain)
    found = meter.measure(samples)
    assert found["impossible"].value == pytest.approx(1 / 4)
    # Every possible sequence has the same probability.
    assert found["nll"].value == pytest.approx(chain.entropy() / 4, abs=1e-12)
    assert "nll" not in meter.measure(samples[[2, 2, 2]])
