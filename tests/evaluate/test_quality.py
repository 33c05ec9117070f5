"""Rows are a function of the seeds, and arguments are checked before anything is sampled."""

from __future__ import annotations

import pytest
import torch

import fewjump
from fewjump.data import Characters, Dataset
from fewjump.evaluate import ChainMeter, TextMeter, quality
from fewjump.problem import MarkovChain
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear
from publish.toy import model


@pytest.fixture(scope="module")
def chain() -> MarkovChain:
    return MarkovChain.random(4, 8, generator=generator_for(2))


def test_rows_are_a_function_of_the_seeds(chain):
    denoiser = chain.denoiser(Absorbing(5, fewjump.LogLinear()))

    def values(**options):
        rows = quality(denoiser, ChainMeter(chain, 60), [2], **options)
        return [(r.metric, r.value, r.low, r.high) for r in rows]

    assert values(seeds=[3]) == values(seeds=[3], batch_size=7)
    assert values(seeds=[3]) != values(seeds=[4])


def test_arguments_are_checked_before_anything_is_sampled(chain):
    denoiser = chain.denoiser(Uniform(4, fewjump.LogLinear()))
    calls = denoiser.evaluations
    with pytest.raises(ValueError, match="steps"):
        quality(denoiser, ChainMeter(chain), [1, 0])
    with pytest.raises(ValueError, match="one seed"):
        quality(denoiser, ChainMeter(chain), [1], seeds=[])
    with pytest.raises(ValueError, match="best"):
        quality(denoiser, ChainMeter(chain), [1], sampler="best")
    other = MarkovChain.random(4, 9, generator=generator_for(2))
    with pytest.raises(ValueError, match="data set it was trained on"):
        quality(denoiser, ChainMeter(other), [1])
    assert denoiser.evaluations == calls


def test_kept_tokens_come_from_test_sequences() -> None:
    pad = 3
    rows = torch.tensor([[0, 1, 2, pad], [1, pad, pad, pad], [2, 2, 0, 1]]).repeat(20, 1)
    data = Dataset(rows, rows[:6], rows[:3], Characters("abc#", "#"), "toy")
    keeping = model(4, None, process=Absorbing(5, LogLinear(), kept=[pad]))
    meter = TextMeter(data)
    given = meter.given(keeping, 4)
    assert given["length"] == 4
    assert torch.equal(given["fixed"], (rows == pad)[[0, 1, 2, 0]])
    assert torch.equal(given["prompt"], rows[[0, 1, 2, 0]])
    assert meter.given(model(4, None), 4) == {"length": 4}
    found = quality(keeping, meter, [1], num_samples=30, seeds=[0])
    # A third of the rows each of 3, 1 and 4 letters: real and drawn alike.
    assert {row.metric for row in found} >= {"nll", "entropy"}
