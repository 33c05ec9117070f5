"""How much of sampling is not the network.

Time outside the network's forward as a fraction of the total, in one run, on one CPU thread:
drawing, reverse rates, the random streams, and also the masking of logits that the denoiser does
after its last matrix product. Run: python -m benchmarks.sampling_overhead

Takes about ten minutes, nearly all of it in the networks' forwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch

from experiments.harness import Content, Options, Rows, main
from fewjump.denoiser import constrain
from fewjump.denoiser.heads import ProductHead
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.denoiser.transformer import Transformer, TransformerConfig
from fewjump.law import ProductLaw
from fewjump.process import Absorbing, Process, Uniform
from fewjump.sampler import SAMPLERS, run
from fewjump.schedule import LogLinear

TARGET = 0.10

SIZES = {
    "demo": {"batch": 64, "length": 64, "vocab": 18, "hidden": 96, "blocks": 4, "heads": 4},
    "large": {"batch": 8, "length": 256, "vocab": 32_000, "hidden": 256, "blocks": 6, "heads": 4},
}
SAMPLER_STEPS = {
    "ancestral": (4, 16, 64),
    "euler": (16,),
    "tau-leaping": (16,),
    "theta-trapezoidal": (16,),
    "first-hitting": (16,),
}


def make_denoiser(size: dict[str, int], process: Process) -> NetworkDenoiser:
    """A randomly initialised network of the given size; its speed is that of a trained one."""
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=size["vocab"], hidden=size["hidden"], blocks=size["blocks"], heads=size["heads"]
    )
    head = ProductHead(size["hidden"], size["vocab"])
    # A trained head is not flat: give the posterior some shape.
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return NetworkDenoiser(Transformer(config), head, process, size["length"])


def measured(
    size: dict[str, int], process: Process, sampler: str, steps: int, repeats: int
) -> dict[str, Any]:
    """One row of the result: the median over ``repeats`` runs of one batch each."""
    denoiser = make_denoiser(size, process)
    plain, spent = constrain.constrained_law, [0.0]

    def timed(*arguments: Any, **options: Any) -> ProductLaw:
        started = time.perf_counter()
        law = plain(*arguments, **options)
        spent[0] += time.perf_counter() - started
        return law

    rows = []
    with patch.object(constrain, "constrained_law", timed):
        run(denoiser, size["batch"], 1, generator=0, batch_size=size["batch"])
        for seed in range(repeats):
            spent[0] = 0.0
            result = run(
                denoiser, size["batch"], steps, sampler, generator=seed, batch_size=size["batch"]
            )
            forward = result.network_seconds - spent[0]
            rows.append((1 - forward / result.seconds, result.seconds, forward, result.nfe))
    overhead, seconds, forward, nfe = sorted(rows)[len(rows) // 2]
    return {
        "process": type(process).__name__,
        "sampler": sampler,
        "steps": steps,
        "nfe": nfe,
        "seconds": seconds,
        "forward_seconds": forward,
        "overhead": overhead,
    }


@dataclass
class Config(Options):
    """How much of sampling is not the network."""

    sizes: tuple[Literal["demo", "large"], ...] = ("demo", "large")
    """Networks."""

    samplers: tuple[str, ...] = tuple(SAMPLER_STEPS)
    """Samplers."""


def measure(config: Config) -> Content:
    """A row for each size, process, sampler and number of steps."""
    rows: Rows = []
    for name in config.sizes:
        size = SIZES[name]
        for make in (Uniform, Absorbing):
            process = make(size["vocab"], LogLinear())
            for sampler in config.samplers:
                if SAMPLERS[sampler].masked_only and make is Uniform:
                    continue
                for steps in SAMPLER_STEPS[sampler]:
                    repeats = 3 if name == "demo" else 1
                    row = measured(size, process, sampler, steps, repeats)
                    rows.append({"size": name, **row})
    what = "fraction of sampling time outside the network's forward"
    return {"what": what, "target": TARGET, "sizes": SIZES, "rows": rows}


if __name__ == "__main__":
    main("sampling_overhead", Config, measure)
