"""Matching the entropy by temperature, and the split of a run's time."""

from __future__ import annotations

import time

import pytest
import torch

from experiments.harness import with_ends
from experiments.text_quality import timed_trunk
from fewjump.denoiser import NetworkDenoiser
from fewjump.process import Absorbing
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear


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


def test_what_has_no_value_has_no_ends() -> None:
    assert with_ends("nll", None) == {"nll": None, "nll_low": None, "nll_high": None}
