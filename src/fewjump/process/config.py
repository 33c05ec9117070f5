"""Processes from plain data, as stored in a checkpoint's config.json."""

from __future__ import annotations

from typing import Any

import torch

from fewjump.process.base import Process
from fewjump.process.general import FixedRate
from fewjump.process.low_rank_diagonal_rate import LowRankDiagonalRate
from fewjump.process.low_rank_rate import LowRankRate
from fewjump.process.prior_path import prior_path_from_config
from fewjump.process.rate_path import rate_path_from_config
from fewjump.process.reset import Absorbing, ResetToPrior, Uniform
from fewjump.process.time_varying_prior import TimeVaryingPrior
from fewjump.process.time_varying_rate import TimeVaryingRate
from fewjump.schedule import schedule_from_config

_TENSOR_OPTIONS = ("prior", "rate_matrix", "memberships", "priors", "left", "right")

PROCESSES: dict[str, type[Process]] = {
    c.__name__: c
    for c in (
        Uniform,
        Absorbing,
        ResetToPrior,
        FixedRate,
        LowRankRate,
        LowRankDiagonalRate,
        TimeVaryingPrior,
        TimeVaryingRate,
    )
}


def process_from_config(config: dict[str, Any]) -> Process:
    """Rebuild a process from :meth:`Process.config`; the result gives the same config again.

    Raises:
        ValueError: for an unknown process or schedule, and for options that do not fit.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name not in PROCESSES:
        raise ValueError(f"unknown process {name!r}; known: {', '.join(sorted(PROCESSES))}")
    if "schedule" not in options:
        raise ValueError(f"the configuration of process {name} lacks its 'schedule'")
    options["schedule"] = schedule_from_config(options["schedule"])
    for key in _TENSOR_OPTIONS:
        if key in options:
            options[key] = torch.tensor(options[key], dtype=torch.float64)
    if isinstance(options.get("path"), dict):
        options["path"] = prior_path_from_config(options["path"])
    if isinstance(options.get("rate"), dict):
        options["rate"] = rate_path_from_config(options["rate"])
    try:
        return PROCESSES[name](**options)
    except TypeError as error:
        raise ValueError(f"the configuration does not fit process {name}: {error}") from error
