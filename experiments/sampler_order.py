"""Do the samplers' exact output laws converge to the data law at the order they state?

On an enumerated joint (V=4, L=3) the output law of a sampler is computed by composing its
transition probabilities, so the error has no Monte Carlo noise, and its slope against the number
of steps is the order. Run as ``python -m experiments.sampler_order``; about five minutes on
one core.

A smooth schedule that ends in pure noise is used, and a joint law whose conditionals differ
mildly: the theory of the second-order methods assumes that no extrapolated rate is negative, which
a rough law breaks. The rough law is measured too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from experiments.harness import Content, Options, Rows, main
from fewjump.problem import EnumeratedJoint
from fewjump.process import Process, process_from_config
from fewjump.sampler import SAMPLERS, get_sampler
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import Cosine
from fewjump.verify.enumeration import processes, random_joint

STEPS = (16, 32, 64, 128)
ROUGHNESS = (0.1, 1.0)
SCHEDULE = Cosine(eps=1e-4)


def total_variation_curve(
    process: Process, roughness: float, sampler: str, steps: tuple[int, ...] = STEPS, seed: int = 0
) -> list[float]:
    """Exact TV between the sampler's output law and the data law, for each number of steps."""
    vocab = 4
    problem = EnumeratedJoint(random_joint(vocab, 3, seed, roughness))
    denoiser = problem.denoiser(process)
    target = problem.probs
    return [
        0.5 * float((exact_output_law(denoiser, k, sampler=sampler) - target).abs().sum())
        for k in steps
    ]


def slope(steps: tuple[int, ...], errors: list[float]) -> float:
    """Least-squares slope of −log error against log steps, over the last three points."""
    x = torch.tensor([math.log(k) for k in steps[-3:]])
    y = torch.tensor([math.log(max(e, 1e-300)) for e in errors[-3:]])
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


def with_schedule(process: Process) -> Process:
    """The same process under this experiment's schedule."""
    return process_from_config({**process.config(), "schedule": SCHEDULE.config()})


@dataclass
class Config(Options):
    """The slope of each sampler's exact error against its number of steps.

    Attributes:
        steps: numbers of steps; the slope is over the last three.
    """

    steps: tuple[int, ...] = STEPS


def measure(config: Config) -> Content:
    """One row per process, sampler and roughness: the errors and the fitted slope."""
    rows: Rows = []
    for roughness in ROUGHNESS:
        for process_name, original in processes(4, config.seed).items():
            process = with_schedule(original)
            for name in SAMPLERS:
                if not SAMPLERS[name].uses_grid or SAMPLERS[name].order < 1:
                    continue
                errors = total_variation_curve(process, roughness, name, config.steps, config.seed)
                rows.append(
                    {
                        "process": process_name,
                        "sampler": name,
                        "roughness": roughness,
                        "order": get_sampler(name).order,
                        "slope": slope(config.steps, errors),
                        "steps": list(config.steps),
                        "tv": errors,
                    }
                )
    return {"rows": rows, "schedule": SCHEDULE.config()}


if __name__ == "__main__":
    main("sampler_order", Config, measure)
