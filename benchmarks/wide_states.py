"""What thousands of hidden states cost beside a dense chain of 256, and a tensor train beside both.

Networks of the sizes that names and running text are distilled with. One training step (teacher,
student, joint conditional matching, backward pass, AdamW), one draw of a batch from nothing, whose
rows are alike and share what they can, and one of a batch whose rows differ, all on one thread.
Every head has its turn before any has its next; CPU seconds, medians over turns, and ratios to the
dense chain.
Run: python -m benchmarks.wide_states
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.harness import Content, Options, Rows, main
from experiments.text_sizes import SIZES, Sizes
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import JointConditionalMatching, freeze
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.sampler import run
from fewjump.schedule import LogLinear

#: Letters and padding, or letters and space.
VOCAB = 27
DENSE = "dense, 256 states"
HEADS: dict[str, dict[str, Any]] = {
    DENSE: {"kind": "shared-chain", "states": 256},
    "32 blocks, 1,024 states": {"kind": "shared-chain", "states": 1024, "blocks": 32},
    "32 blocks, 2,048 states": {"kind": "shared-chain", "states": 2048, "blocks": 32},
    "64 blocks, 4,096 states": {"kind": "shared-chain", "states": 4096, "blocks": 64},
    "tensor train, bond 16": {"kind": "tensor-train", "bond": 16},
}


def calls(head: dict[str, Any], sizes: Sizes) -> dict[str, Callable[[], object]]:
    """The steps that are timed, each a function that can be called again."""
    torch.manual_seed(0)
    process = Absorbing(VOCAB + 1, LogLinear())
    config = {"process": process.config(), "trunk": sizes.network(), "length": sizes.length}
    teacher = NetworkDenoiser.from_config(config)
    freeze(teacher)
    student = NetworkDenoiser.from_config({**config, "head": head})
    student.warm_start(teacher)
    for parameter in student.head.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    objective = JointConditionalMatching(near=sizes.near, steps=sizes.grid_steps)
    optimiser = torch.optim.AdamW(student.parameters(), lr=0.0)
    batch = torch.randint(VOCAB, (sizes.batch_size, sizes.length), generator=generator_for(1))
    x_t = process.corrupt(batch, 0.0, 0.6, generator_for(2))

    def train() -> None:
        loss, _ = objective(student, teacher, batch, generator_for(3))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def draw() -> Tensor:
        return run(student, len(batch), 1, generator=4, batch_size=len(batch)).samples

    @torch.no_grad()
    def fill() -> Tensor:
        return student(x_t, 0.6).sample(generator_for(5))

    return {"training step": train, "draw": draw, "draw, rows that differ": fill}


@dataclass
class Config(Options):
    """What thousands of hidden states cost beside a dense chain of 256."""

    turns: int = 5
    """How often every head is timed."""


def measure(config: Config, sizes: dict[str, Sizes] = SIZES) -> Content:
    """One row for each corpus, head and step."""
    rows: Rows = []
    for corpus, size in sizes.items():
        steps = {name: calls(head, size) for name, head in HEADS.items()}
        seconds: dict[tuple[str, str], list[float]] = {}
        for turn in range(config.turns + 1):
            for name, each in steps.items():
                for step, call in each.items():
                    begin = time.process_time()
                    call()
                    # The first turn allocates the optimiser's moments and fills caches.
                    if turn:
                        spent = time.process_time() - begin
                        seconds.setdefault((name, step), []).append(spent)
        for (name, step), spent in seconds.items():
            beside = seconds[DENSE, step]
            row = {"corpus": corpus, "length": size.length, "batch": size.batch_size}
            row |= {"head": name, "step": step, "cpu_seconds": statistics.median(spent)}
            row["ratio"] = statistics.median(a / b for a, b in zip(spent, beside))
            rows.append(row)
            print(f"{corpus}, {name}, {step}: {row['cpu_seconds']:.3f} s, {row['ratio']:.2f}")
    return {"vocab": VOCAB, "heads": HEADS, "turns": config.turns, "rows": rows}


if __name__ == "__main__":
    main("wide_states", Config, measure)
