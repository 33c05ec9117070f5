"""Every few-step method with one teacher, one budget and exact judges: chains with a known law.

A teacher is trained on samples of the reference chain (V = 8, L = 32), once with a mask and once
with uniform noise. Each method then trains a student of it with as many teacher evaluations as any
other, by ``fewjump compare``; the chain itself is the judge. Run as

    python -m experiments.methods

It goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.harness import Content, Options, Rows, kept, main, place
from experiments.wall_clock import TEACHER
from fewjump import load
from fewjump.api import train_teacher
from fewjump.commands import compare
from fewjump.commands.compare_budget import cost_of
from fewjump.demo.parts import Clock, made_once
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.meter import ChainMeter, quality
from fewjump.problem import MarkovChain, reference_markov_chain
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import fold_seed, generator_for
from fewjump.schedule import LogLinear

EXACT = "exact teacher"
CHAIN = {"student": "shared-chain", "head": ["states=32"], "lr": 0.003}
MIXTURE = {"student": "mixture", "head": ["components=16"], "lr": 0.003}
NOISE = {"student": "latent", "head": ["categories=0", "position_size=8"]}
ANY = {"student": "any-order", "head": ["width=32"], "lr": 0.003}
LATENT = {"student": "latent", "head": ["size=64", "categories=0"], "lr": 0.003}
#: Of what asks its teacher nothing: as many steps as at one evaluation each.
ALONE = {"jumps": 4, "steps": 1000}
#: What `fewjump distill` is told for each method, by noise. Those of distribution matching are a
#: published method (with noise as an input too, where its paper has that), and the same over a head
#: of ours.
BOTH: dict[str, dict[str, Any]] = {
    "conditional matching": {"jumps": 4},
    "joint shared-chain": {**CHAIN, "jumps": 4, "near": 0.1},
    "joint any-order": {**ANY, "jumps": 4, "near": 0.1},
    "Di4C mixture": {**MIXTURE, "method": "di4c"},
    "Di4C shared-chain": {**CHAIN, "method": "di4c"},
    "data-only shared-chain": {**CHAIN, **ALONE, "method": "data-only"},
    "VADD": {**LATENT, **ALONE, "method": "vadd"},
    "E-MoE": {**MIXTURE, **ALONE, "method": "e-moe"},
    "D-MMD product": {"method": "dmmd", "jumps": 4, "lr": 0.0003, "auxiliary-steps": 40},
    "D-MMD latent": {**NOISE, "method": "dmmd", "jumps": 4, "lr": 0.0003, "auxiliary-steps": 40},
    "D-MMD shared-chain": {**CHAIN, "method": "dmmd", "lr": 0.001, "auxiliary-steps": 40},
    "DiMO product": {"method": "dimo", "lr": 0.0003, "auxiliary-steps": 40},
    "DiMO latent": {**NOISE, "method": "dimo", "lr": 0.0003, "auxiliary-steps": 40},
    "DiMO shared-chain": {**CHAIN, "method": "dimo", "lr": 0.001, "auxiliary-steps": 40},
    "LSD": {"method": "lsd", "jumps": 8, "lr": 0.001},
    "IDLM product": {"method": "idlm", "lr": 0.0003, "auxiliary-steps": 40},
    "IDLM shared-chain": {**CHAIN, "method": "idlm", "lr": 0.001, "auxiliary-steps": 40},
}
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "masked": {**BOTH, "SDTT": {"method": "sdtt", "jumps-before": 64, "rounds": 5}},
    "uniform": {
        **BOTH,
        "DCD": {"method": "dcd", "jumps-before": 64, "rounds": 5},
        "ReDi": {"method": "redi", "rounds": 2, "pairs": 1000, "pair-steps": 32, "steps": 1500},
    },
}


@dataclass(frozen=True)
class Sizes:
    """Budget of the experiment.

    Attributes:
        length: L.
        sequences: that the teacher learns from, and the students that read data.
        teacher_steps: optimiser steps of the teacher.
        evaluations: of one sequence, that a method may ask of its teacher.
        samples: of a cell.
        steps: at which students are judged.
        teacher_grid: at which the teacher is.
    """

    length: int = 32
    sequences: int = 20_000
    teacher_steps: int = 1500
    batch_size: int = 64
    evaluations: int = 64_000
    samples: int = 4096
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    teacher_grid: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    network: dict[str, Any] = field(
        default_factory=lambda: {"hidden": 64, "blocks": 2, "heads": 4, "condition_dim": 32}
    )


@dataclass
class Config(Options):
    """Every few-step method with one teacher, one budget and an exact judge.

    Attributes:
        seeds: trainings of every student.
        noises: masked, uniform.
    """

    seeds: int = 3
    noises: tuple[str, ...] = ("masked", "uniform")


def process_of(noise: str, vocab_size: int) -> Process:
    """The forward process of a noise's name."""
    if noise == "masked":
        return Absorbing(vocab_size + 1, LogLinear())
    return Uniform(vocab_size, LogLinear())


def judged(
    name: str, seed: int, model: Denoiser, meter: ChainMeter, steps: tuple[int, ...], file: Path
) -> Rows:
    """Rows of one model: bigrams and likelihood under the chain, by number of steps."""
    # Ancestral steps of uniform noise forget the noise that a rectified student goes by.
    sampler = "flow-matching" if name == "ReDi" else "ancestral"

    def compute() -> Rows:
        rows = quality(model, meter, steps, sampler, seeds=(seed,), model=name)
        return [{"student": name, "seed": seed, **asdict(row)} for row in rows]

    return kept(file, compute)


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """Teachers, students and what the chain says of their samples."""
    sizes = Sizes() if sizes is None else sizes
    clock, chain = Clock(), reference_markov_chain(sizes.length)
    meter = ChainMeter(chain, sizes.samples)
    rows: Rows = []
    costs: Rows = []
    for noise in config.noises:
        found, spent = of_noise(noise, chain, meter, sizes, config, clock)
        rows += [{"noise": noise, **row} for row in found]
        costs += [{"noise": noise, **row} for row in spent]
    reference = [asdict(row) for row in meter.reference()]
    return {"sizes": asdict(sizes), "reference": reference, "rows": rows, "costs": costs}


def of_noise(
    noise: str,
    chain: MarkovChain,
    meter: ChainMeter,
    sizes: Sizes,
    config: Config,
    clock: Clock,
) -> tuple[Rows, Rows]:
    """Rows and costs under one noise."""
    process, about = process_of(noise, chain.vocab_size), asdict(sizes)
    folder = place(config.runs / "methods", noise, about, config.seed)
    data = folder / "data.npy"
    tokens = chain.sample(sizes.sequences, generator_for(config.seed, 1))
    if not data.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(data, tokens.numpy())
    teacher = made_once(
        folder / "teacher",
        lambda out: train_teacher(
            tokens,
            process,
            network=sizes.network,
            steps=sizes.teacher_steps,
            batch_size=sizes.batch_size,
            lr=2e-3,
            seed=fold_seed(config.seed, 2),
            out=out,
        ),
    )
    seeds = list(range(config.seed, config.seed + config.seeds))
    plan = {
        "teacher": str(folder / "teacher"),
        "data": str(data),
        "steps": list(sizes.steps[:1]),
        "teacher-steps": list(sizes.teacher_grid[:1]),
        "seeds": seeds,
        "samples": 64,
        "matched-entropy": False,
        "teacher-evaluations": sizes.evaluations,
        "shared": {"batch-size": sizes.batch_size, "lr": 0.001},
        "students": METHODS[noise],
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    with clock.part(f"{noise}: students"):
        compare.run(compare.Options(folder / "plan.yaml", folder / "students", progress=False))
    rows: Rows = []
    costs: Rows = []
    exact = chain.denoiser(process)
    with clock.part(f"{noise}: the chain's verdict"):
        for name, model in ((EXACT, exact), (TEACHER, teacher)):
            grid = sizes.teacher_grid
            file = folder / "judged" / f"{name}.json"
            rows += judged(name, config.seed, model, meter, grid, file)
        for name in METHODS[noise]:
            for seed in seeds:
                run = folder / "students" / "students" / name / str(seed)
                costs.append({"student": name, "seed": seed, **cost_of(run)})
                file = folder / "judged" / f"{name}-{seed}.json"
                student = load(run / "model")
                rows += judged(name, seed, student, meter, sizes.steps, file)
    return rows, costs


if __name__ == "__main__":
    main("methods", Config, measure)
