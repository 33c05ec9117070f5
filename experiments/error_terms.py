"""Euler, factorization and network error as three separate numbers.

On an enumerated joint (V=4, L=3) the output law of every sampler is exact, so the KL from the data
splits without noise: what independent draws cost (the exact teacher with exact reverse steps), what
the sampler's formula adds, and what the network adds. Run as
``python -m experiments.error_terms``; about three minutes on one core.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from experiments.harness import Content, Options, Rows, main
from experiments.training import fitted, network
from fewjump.evaluate.exact import decompose_error
from fewjump.objective import CrossEntropyELBO
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear
from fewjump.verify.enumeration import random_joint

SAMPLERS = ("euler", "tau-leaping", "ancestral", "theta-trapezoidal")


@dataclass
class Config(Options):
    """What the error of a sampler is made of, on a problem that is enumerated.

    Attributes:
        training_steps: optimiser steps of the networks.
        steps: numbers of sampling steps.
    """

    training_steps: int = 800
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 64)


def measure(config: Config) -> Content:
    """A row per process, sampler and number of steps, each with its three errors in nats."""
    rows: Rows = []
    problem = EnumeratedJoint(random_joint(4, 3, config.seed))
    data = problem.sample(50_000, generator_for(config.seed, 1))
    processes = {"uniform": Uniform(4, LogLinear()), "absorbing": Absorbing(5, LogLinear())}
    for name, process in processes.items():
        model = fitted(
            network(process, problem.length, config.seed),
            CrossEntropyELBO(),
            data,
            steps=config.training_steps,
            batch_size=256,
            lr=3e-3,
            seed=config.seed,
        )
        for sampler in SAMPLERS:
            for steps in config.steps:
                terms = decompose_error(problem, process, model, sampler, steps)
                rows.append({"process": name, "sampler": sampler, "steps": steps, **asdict(terms)})
    return {"rows": rows}


if __name__ == "__main__":
    main("error_terms", Config, measure)
