"""How far a sampler's output law is from that of the data, exactly, when the denoiser is exact.

Four small joints are enumerated, and with them every transition of every sampler: what remains is
what drawing positions independently, the sampler's formula and its choice of positions lose. Run as
``python -m experiments.sampler_laws``; a few minutes on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from experiments.harness import Content, Options, Rows, main
from fewjump.problem import EnumeratedJoint, copy, ising, xor
from fewjump.process import Absorbing, Uniform
from fewjump.sampler import get_sampler
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import LogLinear
from fewjump.verify.enumeration import random_joint

SAMPLERS: tuple[tuple[str, dict[str, object]], ...] = (
    ("ancestral", {}),
    ("ancestral", {"block": 1}),
    ("euler", {}),
    ("tau-leaping", {}),
    ("theta-trapezoidal", {}),
    ("theta-rk2", {}),
    ("first-hitting", {}),
    ("first-hitting", {"block": 1}),
    ("entropy-bounded", {"gamma": 0.0}),
    ("entropy-bounded", {"gamma": 0.1}),
    ("entropy-bounded", {"gamma": 0.5}),
    ("confidence", {}),
    ("confidence", {"by": "entropy"}),
    ("confidence", {"by": "margin"}),
    ("confidence", {"noise": 1.0}),
    ("confidence", {"block": 2}),
    ("remdm", {"eta": 0.05, "variant": "cap"}),
    ("remdm", {"eta": 0.3, "variant": "cap"}),
    ("remdm", {"eta": 0.3, "variant": "rescale"}),
    ("psi", {"kappa": 0.95}),
    ("psi", {"kappa": 0.5}),
)


def named(name: str, options: dict[str, object]) -> str:
    """As a user would ask for it."""
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def problems(seed: int) -> dict[str, EnumeratedJoint]:
    """Joints of four bits, and a random one of three tokens."""
    return {
        "copy": copy(2, 4),
        "XOR": xor(4),
        "Ising": ising(2, 2, 0.6),
        "random": EnumeratedJoint(random_joint(3, 3, seed, 1.0)),
    }


def distances(truth: Tensor, law: Tensor) -> dict[str, float | None]:
    """Total variation, and KL(data ‖ law) in nats: None where the law misses some of the data."""
    seen = truth > 0
    kl = float((truth[seen] * (truth[seen] / law[seen]).log()).sum())
    return {
        "tv": 0.5 * float((truth - law).abs().sum()),
        "kl": kl if math.isfinite(kl) else None,
    }


@dataclass
class Config(Options):
    """Exact distance of every sampler's output law from the data's, with an exact denoiser."""

    steps: tuple[int, ...] = (1, 2, 4, 8, 64)
    """Numbers of steps."""


def measure(config: Config) -> Content:
    """A row per process, sampler, problem and number of steps."""
    rows: Rows = []
    for problem_name, problem in problems(config.seed).items():
        vocab = problem.vocab_size
        processes = {
            "masked": Absorbing(vocab + 1, LogLinear()),
            "uniform": Uniform(vocab, LogLinear()),
        }
        for process_name, process in processes.items():
            denoiser = problem.denoiser(process)
            for name, options in SAMPLERS:
                sampler = get_sampler(name, **options)
                if sampler.masked_only and not process.absorbing:
                    continue
                for steps in config.steps:
                    if steps > 8 and sampler.evaluations > 1:
                        continue
                    law = exact_output_law(denoiser, steps, sampler)
                    rows.append(
                        {
                            "process": process_name,
                            "sampler": named(name, options),
                            "problem": problem_name,
                            "steps": steps,
                            **distances(problem.probs, law),
                        }
                    )
    return {"rows": rows}


if __name__ == "__main__":
    main("sampler_laws", Config, measure)
