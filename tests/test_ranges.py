"""Numbers that are not finite are refused where they are given, in Python too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.objective import (
    ConditionalMatching,
    DiscreteConsistency,
    JointConditionalMatching,
    LatentMatching,
    Rectification,
    RoutedLikelihood,
    SelfDistillation,
)
from fewjump.objective.time_sampling import TimeSampling
from fewjump.problem import EnumeratedJoint, ising
from fewjump.process import discretised_gaussian_rate, rescale_to_gap
from fewjump.sampler.arguments import check_temperature
from fewjump.schedule import Cosine, Geometric, Linear, LogLinear
from fewjump.train import TrainConfig

RATE = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
TAKERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "train": (
        TrainConfig,
        ("lr", "weight_decay", "final_lr", "clip", "ema", "max_seconds"),
    ),
    "betas": (lambda beta: TrainConfig(betas=(0.9, beta)), ("beta",)),
    "conditional": (ConditionalMatching, ("min_time", "max_gap", "known_share")),
    "joint": (
        JointConditionalMatching,
        ("near", "consistency", "data_weight", "min_time", "tolerance", "known_share"),
    ),
    "latent": (
        LatentMatching,
        ("near", "data_weight", "free_bits", "min_time", "tolerance", "known_share"),
    ),
    "self-distillation": (SelfDistillation, ("floor", "min_time", "known_share")),
    "rectification": (Rectification, ("min_time",)),
    "consistency": (DiscreteConsistency, ("floor", "min_time", "known_share")),
    "routed": (RoutedLikelihood, ("min_time", "known_share", "balance")),
    "times": (TimeSampling, ("floor", "decay")),
    "log-linear": (LogLinear, ("eps",)),
    "cosine": (Cosine, ("eps",)),
    "geometric": (Geometric, ("sigma_min", "sigma_max")),
    "linear": (Linear, ("sigma_min", "sigma_max")),
    "temperature": (
        lambda temperature=1.0, top_p=1.0: check_temperature(temperature, top_p),
        ("temperature", "top_p"),
    ),
    "roughness": (lambda roughness: EnumeratedJoint.random(2, 2, roughness), ("roughness",)),
    "ising": (lambda coupling: ising(2, 2, coupling), ("coupling",)),
    "width": (lambda width: discretised_gaussian_rate(4, width), ("width",)),
    "gap": (lambda gap: rescale_to_gap(RATE, gap), ("gap",)),
    "confidence": (
        lambda confidence: bootstrap(torch.arange(9.0), mean, None, 9, confidence),
        ("confidence",),
    ),
}


@pytest.mark.parametrize("name", TAKERS)
def test_numbers_that_are_not_finite_are_refused(name: str) -> None:
    take, options = TAKERS[name]
    for option in options:
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=r"must|needs|share"):
                take(**{option: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, 2.5, 0, 10**9, "3"])
def test_steps_are_whole(value: float | str) -> None:
    from fewjump.sampler.time_grid import time_grid

    with pytest.raises(ValueError, match="steps must be an integer"):
        time_grid("uniform", value, LogLinear())  # type: ignore[arg-type]
