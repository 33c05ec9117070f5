"""Molecules of the MOSES benchmark: a masked teacher and its students, judged by the benchmark.

The data sets and the metrics are those of ``molsets`` 0.3.1, unmodified, in an environment of its
own, of CPython 3.11:

    python3 -m venv moses
    moses/bin/pip install torch==2.13.0 'numpy<2' 'pandas<2' scipy tqdm matplotlib rdkit
    moses/bin/pip install --no-deps molsets==0.3.1 fcd_torch==1.0.7

Run as

    python -m experiments.molecules --judge moses/bin/python

It goes on where it was stopped, and ``--teacher-steps`` may be raised later: the teacher is then
trained further, and new students are distilled from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.harness import Content, Options, Rows, kept, main, place
from experiments.molecule_data import Judge, data_folder, molecules
from experiments.text_quality import with_ends
from experiments.wall_clock import TEACHER
from fewjump.api import train_teacher
from fewjump.data import Dataset
from fewjump.demo.parts import Clock
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear


@dataclass(frozen=True)
class Sizes:
    """Budget of the experiment.

    Attributes:
        hidden, blocks, heads: of the teacher's transformer.
        every: teacher steps after which ``curve`` of its samples are judged.
    """

    hidden: int = 192
    blocks: int = 6
    heads: int = 4
    batch_size: int = 64
    teacher_lr: float = 2e-3
    teacher_ema: float = 0.9995
    every: int = 500
    curve: int = 256


@dataclass(kw_only=True)
class Config(Options):
    """Molecules: a masked teacher, its students, and the MOSES benchmark.

    Attributes:
        judge: python of an environment with the benchmark.
        data: train.csv.gz of the benchmark, test.csv.gz beside it; by default the judge's.
        longest: tokens of the molecules that are learned; 57 takes them all.
        teacher_steps: optimiser steps of the teacher.
        precision: arithmetic of the trainings.
    """

    judge: Path
    data: Path | None = None
    longest: int = 30
    teacher_steps: int = 10_000
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Laboratory:
    """Data, judge, and where everything is kept.

    Attributes:
        config, sizes: what is asked for.
        data: the molecules.
        judge: says what samples are worth.
        clock: says on the terminal what is going on.
    """

    config: Config
    sizes: Sizes
    data: Dataset
    judge: Judge
    clock: Clock

    @property
    def common(self) -> dict[str, Any]:
        """Options of every training."""
        return {
            "batch_size": self.sizes.batch_size,
            "precision": self.config.precision,
            "seed": self.config.seed,
            "weight_decay": 0.01,
            "save_every": 100,
        }

    def folder(self, name: str, *about: Any) -> Path:
        """Of a model and its rows; ``about`` is what it depends on beside teacher's sizes."""
        sizes = self.sizes
        parts: list[Any] = [len(self.data), self.data.length, self.config.precision]
        parts += [sizes.hidden, sizes.blocks, sizes.heads, sizes.batch_size, sizes.teacher_lr]
        parts += [sizes.teacher_ema, *about]
        label = f"{name}-{self.config.longest}-{self.config.seed}"
        return place(self.config.runs / "molecules", label, *parts)

    def teacher(self, steps: int) -> Denoiser:
        """Trained up to ``steps``, from where it was stopped. A constant rate lets it go on."""
        sizes = self.sizes
        return train_teacher(
            self.data,
            Absorbing(self.data.vocab_size + 1, LogLinear()),
            network={
                "hidden": sizes.hidden,
                "blocks": sizes.blocks,
                "heads": sizes.heads,
                "condition_dim": 32,
                "time_conditioned": False,
            },
            steps=steps,
            lr=sizes.teacher_lr,
            decay="constant",
            ema=sizes.teacher_ema,
            out=self.folder(TEACHER),
            **self.common,
        )

    def drawn(self, model: Denoiser, steps: int, count: int) -> list[str]:
        """SMILES of samples."""
        found = draw(model, count, steps, generator=self.config.seed, batch_size=256)
        return self.data.vocabulary.decode(found.samples)

    def validity(self, smiles: list[str]) -> dict[str, Any]:
        """Share of valid molecules, and of valid ones no two of which are alike."""
        names = self.judge.canonical(smiles)
        valid = torch.tensor([float(name is not None) for name in names])
        row: dict[str, Any] = {"n": len(names)}
        row |= with_ends("valid", bootstrap(valid, mean, generator_for(1)))
        return {**row, "different": len(set(names) - {None}) / len(names)}

    def curve(self) -> tuple[Denoiser, Rows]:
        """The teacher, and the validity of its samples at L steps while it was trained."""
        sizes, last = self.sizes, self.config.teacher_steps
        rows: Rows = []
        teacher = None
        for steps in range(sizes.every, last + 1, sizes.every):
            file = self.folder(TEACHER) / f"judged-{steps}.json"
            if steps + sizes.every > last or not file.is_file():
                with self.clock.part("training the teacher"):
                    teacher = self.teacher(steps)
                judged = partial(self._judged, teacher)
                rows.append({"teacher_steps": steps, **kept(file, judged)})
                print(rows[-1], flush=True)
            else:
                rows.append({"teacher_steps": steps, **kept(file, dict)})
        if teacher is None:
            raise ValueError(f"--teacher-steps must be at least {sizes.every}")
        return teacher, rows

    def _judged(self, teacher: Denoiser) -> dict[str, Any]:
        smiles = self.drawn(teacher, self.data.length, self.sizes.curve)
        return {**self.validity(smiles), "examples": smiles[:8]}


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """The teacher's curve."""
    sizes = Sizes() if sizes is None else sizes
    file = config.data or data_folder(config.judge) / "train.csv.gz"
    shared = config.runs / "molecules"
    data = molecules(file, config.longest, shared)
    print(data.description, flush=True)
    judge = Judge(config.judge, config.longest, shared)
    laboratory = Laboratory(config, sizes, data, judge, Clock())
    teacher, curve = laboratory.curve()
    return {"data": data.description, "sizes": asdict(sizes), "curve": curve}


if __name__ == "__main__":
    main("molecules", Config, measure)
