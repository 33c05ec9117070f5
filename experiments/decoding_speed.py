"""Drawing from autoregressive heads side by side: passes and seconds against the walk.

Students of one Markov chain, whose tokens depend on their neighbours as letters do, draw in one
evaluation of the trunk: by the walk from position to position, by fixed-point iteration, and by
draft and verification, one sequence at a time and in batches. Run as
``python -m experiments.decoding_speed``; about ten minutes on one core, most of it training.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.harness import Content, Options, Rows, digest, kept, main, place
from fewjump.api import distill
from fewjump.demo.parts import made_once
from fewjump.denoiser import Denoiser
from fewjump.problem import MarkovChain
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.sampler import run
from fewjump.schedule import LogLinear

STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "any-order": ("any-order", {"width": 64, "neighbours": (1,)}),
    "autoregressive, attention": ("autoregressive", {"width": 64, "causal": "attention"}),
    "autoregressive, GRU": ("autoregressive", {"width": 64}),
}
Ways = dict[str, dict[str, Any]]
DRAFT = ("shared-chain", {"states": 64})


@dataclass
class Config(Options):
    """Seconds and passes of each way to draw from an autoregressive head."""

    vocab_size: int = 27
    """Tokens of the chain."""

    length: int = 64
    """Tokens of a sequence."""

    training_steps: int = 300
    """Optimiser steps of each student."""

    batches: tuple[int, ...] = (1, 8, 64)
    """Sequences drawn together."""

    repeats: int = 5
    """Timings of core seconds, of which the median is kept; the ways take turns."""


def chain(config: Config) -> MarkovChain:
    """A chain whose rows are about as flat as those of letters."""
    generator = generator_for(config.seed, 1)
    shape = (config.vocab_size, config.vocab_size)
    logits = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return MarkovChain(
        torch.full((config.vocab_size,), 1 / config.vocab_size, dtype=torch.float64),
        logits.softmax(-1),
        config.length,
    )


def student(config: Config, kind: str, head: dict[str, Any]) -> Denoiser:
    """A student of the chain, trained once."""
    settings = (config.vocab_size, config.length, config.training_steps, config.seed, head)

    def make(folder: Path) -> Denoiser:
        problem = chain(config)
        return distill(
            problem.denoiser(Absorbing(config.vocab_size + 1, LogLinear())),
            problem.sample(20_000, generator_for(config.seed, 2)),
            student=kind,
            head=head,
            network={"hidden": 32, "blocks": 1, "heads": 2},
            steps=config.training_steps,
            batch_size=16,
            lr=5e-3,
            seed=config.seed,
            out=folder,
        )

    return made_once(place(config.runs, f"decoding {kind}", *settings), make)


def in_turns(model: Denoiser, batch: int, config: Config, ways: Ways) -> dict[str, dict[str, Any]]:
    """The median over repeats of each way's core seconds, one after the other in every repeat."""
    spent: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, dict[str, Any]] = {}
    for repeat in range(config.repeats + 1):
        for way, options in ways.items():
            begin = time.process_time()
            result = run(model, batch, 1, generator=config.seed, **options)
            # The first one warms up.
            if repeat:
                spent[way].append(time.process_time() - begin)
            found[way] = {"samples": result.samples}
            if result.decoding is not None:
                found[way]["passes"] = result.decoding.passes / result.decoding.sequences
                found[way]["acceptance"] = getattr(result.decoding, "acceptance", None)
    return {way: row | {"seconds": statistics.median(spent[way])} for way, row in found.items()}


def measure(config: Config) -> Content:
    """A row per student, way and batch."""
    draft = student(config, *DRAFT)
    rows: Rows = []
    for name, (kind, head) in STUDENTS.items():
        model = student(config, kind, head)
        ways: Ways = {
            "sequential": {},
            "fixed-point": {"decoding": "fixed-point"},
            "draft, itself": {"decoding": "draft"},
            "draft, shared-chain": {"draft": draft},
        }
        for batch in config.batches:

            def compute(model: Denoiser = model, batch: int = batch, ways: Ways = ways) -> Rows:
                found = in_turns(model, batch, config, ways)
                walk = found["sequential"]
                return [
                    {
                        "way": way,
                        "seconds": row["seconds"],
                        "speed_up": walk["seconds"] / row["seconds"],
                        "passes": row.get("passes"),
                        "acceptance": row.get("acceptance"),
                        "same_samples": bool((row["samples"] == walk["samples"]).all()),
                    }
                    for way, row in found.items()
                ]

            key = digest(name, batch, config.repeats, config.training_steps, list(ways), "in turns")
            each = kept(place(config.runs, f"decoding rows {name}", key) / "rows.json", compute)
            rows += [{"student": name, "batch": batch, **row} for row in each]
    return {"length": config.length, "vocab_size": config.vocab_size, "rows": rows}


if __name__ == "__main__":
    main("decoding_speed", Config, measure)
