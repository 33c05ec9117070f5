"""The small networks that experiments train on problems with a known law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import JointConditionalMatching, Objective, freeze
from fewjump.problem import Problem
from fewjump.process import Process
from fewjump.random import generator_for
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


def distilled(
    student: Denoiser,
    problem: Problem,
    near: float,
    seed: int,
    out: Path | None,
    *,
    jumps: int = 4,
    joint: bool = True,
    samples: int | None = None,
    steps: int,
    batch_size: int,
    lr: float,
) -> Denoiser:
    """Match the exact posterior of a problem at equal jumps; averaged weights.

    Args:
        student: of its process.
        problem: the data and the teacher.
        near: where the teacher is asked.
        seed: of data and training.
        out: folder of the training.
        jumps: of the few-step sampler that is trained for.
        joint: whether the teacher is the joint posterior, or its marginals.
        samples: data that are drawn once; by default no sequence is seen twice.
        steps, batch_size, lr: of the training.
    """
    return fitted(
        student,
        JointConditionalMatching("forward", near=near, steps=jumps),
        problem.sample(samples or steps * batch_size, generator_for(seed, 2)),
        problem.denoiser(student.process, joint=joint),
        out,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
    )
