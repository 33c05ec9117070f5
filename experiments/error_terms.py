"""Euler, factorization and network error as three separate numbers.

On an enumerated joint (V=4, L=3) the output law of every sampler is exact, so the KL from the data
splits without noise: what independent draws cost (the exact teacher with exact reverse steps), what
the sampler's formula adds, and what the network adds. Run as
``python -m experiments.error_terms``; about three minutes on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.evaluate.exact import decompose_error
from fewjump.objective import CrossEntropyELBO
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train
from fewjump.verify.enumeration import random_joint
from fewjump.verify.results import Experiment

STEPS = (1, 2, 4, 8, 16, 64)
SAMPLERS = ("euler", "tau-leaping", "ancestral", "theta-trapezoidal")


def network_for(problem: EnumeratedJoint, process: Process, steps: int, seed: int) -> Denoiser:
    """A small network trained on samples of the problem."""
    torch.manual_seed(seed)
    trunk = {"hidden": 32, "blocks": 2, "heads": 2, "conv_kernel": 3}
    network = NetworkDenoiser.from_config(
        {"process": process.config(), "trunk": trunk, "length": problem.length}
    )
    data = problem.sample(50_000, generator_for(seed, 1))
    config = TrainConfig(steps=steps, batch_size=256, lr=3e-3, ema=0.99, seed=seed, log_every=200)
    return train(network, CrossEntropyELBO(), data, config, label="network").averaged()


def run(
    seed: int = 0, training_steps: int = 800, steps_list: Sequence[int] = STEPS
) -> list[dict[str, Any]]:
    """A row per process, sampler and number of steps, each with its three errors in nats."""
    rows: list[dict[str, Any]] = []
    problem = EnumeratedJoint(random_joint(4, 3, seed))
    processes = {"uniform": Uniform(4, LogLinear()), "absorbing": Absorbing(5, LogLinear())}
    for name, process in processes.items():
        network = network_for(problem, process, training_steps, seed)
        for sampler in SAMPLERS:
            for steps in steps_list:
                terms = decompose_error(problem, process, network, sampler, steps)
                rows.append({"process": name, "sampler": sampler, "steps": steps, **asdict(terms)})
    return rows


def main() -> None:
    experiment = Experiment("error_terms")
    experiment.save({"rows": run(experiment.seed)})


if __name__ == "__main__":
    main()
