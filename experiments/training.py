"""The small networks that experiments train on problems with a known law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import Objective, freeze
from fewjump.process import Process
from fewjump.train import TrainConfig, train
from fewjump.verify.subjects import small_network


def network(
    process: Process, length: int, seed: int, head: dict[str, Any] | None = None, **trunk: Any
) -> NetworkDenoiser:
    """That of the named checks, with a head; weights by seed."""
    torch.manual_seed(seed)
    config = small_network(process, length, **trunk)
    return NetworkDenoiser.from_config(config if head is None else {**config, "head": head})


def fitted(
    model: Denoiser,
    objective: Objective,
    data: Tensor,
    teacher: Denoiser | None = None,
    out: Path | None = None,
    **config: Any,
) -> Denoiser:
    """Train, or go on with a training in ``out``; the averaged weights."""
    options = TrainConfig(**{"ema": 0.99, "log_every": 100, **config})
    frozen = None if teacher is None else freeze(teacher)
    return train(
        model, objective, data, options, teacher=frozen, out=out, label="network"
    ).averaged()
