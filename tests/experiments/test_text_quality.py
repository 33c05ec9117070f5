"""Matching the entropy by temperature, and the split of a run's time."""

from __future__ import annotations

import time

import pytest
import torch

from experiments.text_quality import LADDER, enclosing, matched, timed_trunk, with_ends
from fewjump.denoiser import NetworkDenoiser
from fewjump.evaluate.bootstrap import Interval
from fewjump.process import Absorbing
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear


def point(value: float) -> Interval:
    replicates = torch.tensor([value - 0.01, value, value + 0.01], dtype=torch.float64)
    return Interval.from_replicates(value, replicates)


class Made:
    """A sampler whose entropy is 4·temperature and whose NLL is 10·temperature."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, temperature: float) -> dict[str, Interval]:
        self.asked.append(temperature)
        return {"entropy": point(4 * temperature), "nll": point(10 * temperature)}


@pytest.mark.parametrize(
    ("target", "asked"),
    [(3.4, [1.0, 0.9, 0.8]), (4.2, [1.0, 1.1]), (3.6, [1.0, 0.9]), (4.0, [1.0, 1.1])],
)
def test_walks_from_one_until_the_target_is_enclosed(target: float, asked: list[float]) -> None:
    made = Made()
    found = enclosing(made, target)
    assert made.asked == asked
    value = matched(found, target, "nll")
    assert value is not None
    assert value.value == pytest.approx(2.5 * target)


def test_a_target_that_no_temperature_reaches_has_no_value() -> None:
    for target, end in ((0.1, LADDER[0]), (20.0, LADDER[-1])):
        made = Made()
        found = enclosing(made, target)
        assert made.asked[-1] == end
        assert matched(found, target, "nll") is None
    assert with_ends("nll", None) == {"nll": None, "nll_low": None, "nll_high": None}


def test_trunk_time_is_part_of_the_time() -> None:
    torch.manual_seed(0)
    model = NetworkDenoiser.from_config(
        {
            "process": Absorbing(5, LogLinear()).config(),
            "trunk": {"hidden": 16, "blocks": 1, "heads": 2},
            "head": {"kind": "autoregressive", "width": 8},
            "length": 6,
        }
    )
    plain = model.trunk.features

    def slow(*args, **options):
        time.sleep(0.02)
        return plain(*args, **options)

    with timed_trunk(model) as spent:
        fast = draw(model, 4, 3, generator=0)
    assert model.trunk.features == plain
    assert 0 < spent[0] < fast.network_seconds
    object.__setattr__(model.trunk, "features", slow)
    with timed_trunk(model) as spent:
        result = draw(model, 4, 3, generator=0)
    assert model.trunk.features is slow
    assert 3 * 0.02 < spent[0] < result.network_seconds
    assert torch.equal(result.samples, fast.samples)


def test_only_a_network_has_a_trunk() -> None:
    with pytest.raises(TypeError, match="only a NetworkDenoiser"), timed_trunk(object()):  # type: ignore[arg-type]
        pass
