"""Teacher and students of the experiment on antibodies, their samples, and where all is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.antibody_judge import (
    frequency_row,
    numbered,
    spread_row,
    verdict_row,
)
from experiments.frozen_trunk import KeptStates, kept_pairs
from experiments.harness import Options, digest, kept, place
from fewjump import load, save
from fewjump.assembly import build_student
from fewjump.checkpoint import read_config
from fewjump.data import Vocabulary
from fewjump.demo.parts import TEACHER, Clock
from fewjump.denoiser.network import NetworkDenoiser, parameter_counts
from fewjump.publish.conditions import read_conditions
from fewjump.rollouts import rollouts
from fewjump.sampler import run
from fewjump.train import TrainConfig, train

#: Heads of the students.
HEADS: dict[str, dict[str, Any]] = {
    "product": {},
    "shared-chain": {"states": 256},
    "autoregressive": {"width": 128, "lookahead": True},
    "any-order": {"width": 128, "neighbours": (1,)},
}
ROLLOUT_STEPS = 64


@dataclass(kw_only=True)
class Config(Options):
    """Antibodies: students of a published masked language model, without data.

    Attributes:
        teacher: folder of the model, with vocab.txt.
        judge: python of an environment with antpack.
        length: tokens of a sample, the two of the frame included.
        rollouts: the teacher's samples to learn from, the held-out tenth included.
        samples: of a student's cell.
        steps: evaluations of the students.
        teacher_steps: evaluations of the teacher below 64.
        teacher_samples: of a teacher's cell.
        students: kinds that are made.
        temperatures: of students in one evaluation and of the teacher in 64, beside 1.
        training: optimiser steps of a student.
        batch_size: pairs of states per optimiser step.
        near: least and largest share of positions that is hidden where the teacher is asked.
        designs: fillings of a framework by a student.
        teacher_designs: fillings of a framework by the teacher.
        alone: samples that are drawn one at a time, to time it.
        precision: of the networks; bfloat16, by autocast, pays where the processor multiplies in it
            (avx512_bf16: 39 milliseconds an evaluation of a sequence, 76 in float32).
    """

    teacher: Path
    judge: Path
    length: int = 122
    rollouts: int = 1000
    samples: int = 500
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    teacher_steps: tuple[int, ...] = (1, 4, 16)
    teacher_samples: int = 128
    students: tuple[str, ...] = tuple(HEADS)
    temperatures: tuple[float, ...] = (0.95, 0.9, 0.8)
    training: int = 1500
    batch_size: int = 32
    near: tuple[float, float] = (0.05, 0.4)
    designs: int = 200
    teacher_designs: int = 48
    alone: int = 4
    precision: Literal["float32", "bfloat16"] = "float32"


def vocabulary_of(model: NetworkDenoiser) -> Vocabulary:
    """What a model's tokens stand for."""
    assert model.vocabulary_config is not None
    return Vocabulary.from_config(model.vocabulary_config)


@dataclass(frozen=True)
class Laboratory:
    """Teacher, rollouts, and where everything is kept.

    Attributes:
        config: what is asked for.
        teacher: frozen.
        x0: (N, L) its samples of 64 steps, the last tenth of which no student sees.
        clock: says on the terminal what is going on.
    """

    config: Config
    teacher: NetworkDenoiser
    x0: Tensor
    clock: Clock

    @property
    def learned(self) -> Tensor:
        """The sequences that students learn from."""
        return self.x0[: len(self.x0) - len(self.x0) // 10]

    @property
    def held_out(self) -> Tensor:
        """Those that they never see."""
        return self.x0[len(self.learned) :]

    def words(self, tokens: Tensor) -> list[str]:
        """Amino-acid letters of token rows."""
        texts = vocabulary_of(self.teacher).decode(tokens)
        return ["".join(text.split()) for text in texts]

    def folder(self, name: str) -> Path:
        """Of a model and its rows; another number of rollouts is another model."""
        config = self.config
        about: list[Any] = [len(self.x0), config.length, config.seed]
        if name != TEACHER:
            about += [HEADS[name], config.training, config.batch_size, config.near]
        return place(config.runs / "antibodies", name, *about)

    def student(self, kind: str) -> NetworkDenoiser:
        """A student whose head alone is trained, or the finished one."""
        config, out = self.config, self.folder(kind)
        if (out / "model" / "config.json").is_file():
            found = load(out / "model")
            assert isinstance(found, NetworkDenoiser)
            return found
        student = build_student(
            self.teacher, kind, None, HEADS[kind], True, config.length, config.seed
        )
        assert isinstance(student, NetworkDenoiser)
        student.trunk = self.teacher.trunk
        with self.clock.part("the trunk on the states that students learn from"):
            pairs = kept_pairs(
                self.teacher,
                self.learned,
                config.near,
                config.seed,
                config.runs / "antibodies" / f"features-{digest(config.near, config.seed)}",
            )
        options = TrainConfig(
            steps=config.training,
            batch_size=config.batch_size,
            lr=3e-3,
            weight_decay=0.01,
            ema=0.99,
            seed=config.seed,
            save_every=500,
            monitor=False,
        )
        with self.clock.part(f"distilling {kind}"):
            begin = time.process_time()
            result = train(
                student, KeptStates(self.teacher, pairs), None, options, out=out, label=kind
            )
            seconds = time.process_time() - begin
        found = result.averaged()
        assert isinstance(found, NetworkDenoiser)
        found.vocabulary_config = self.teacher.vocabulary_config
        training = {"core_seconds": round(seconds, 1), "head": parameter_counts(found)["head"]}
        save(found, out / "model", training=training)
        return found

    def training(self, kind: str) -> dict[str, Any]:
        """Core seconds that a student was trained for, and parameters of its head."""
        return read_config(self.folder(kind) / "model")["training"]

    def sampled(self, name: str, model: NetworkDenoiser, steps: int, count: int) -> Tensor:
        """Samples (N, L), drawn once and gone on with."""
        path = self.folder(name) / f"samples-{steps}.npy"
        given = frame(model, self.config.length)
        rollouts(
            model,
            path,
            count,
            steps,
            seed=self.config.seed + 1,
            length=self.config.length,
            batch_size=64,
            prompt=given[0],
            fixed=given[1],
            vocabulary=vocabulary_of(model),
        )
        return torch.from_numpy(np.load(path).astype(np.int64))

    def sharpened(self, name: str, model: NetworkDenoiser, temperature: float) -> dict[str, Any]:
        """What the judge says of samples at a temperature: one evaluation, or the teacher's 64."""
        config, slow = self.config, name == TEACHER
        steps, count = (ROLLOUT_STEPS, config.teacher_samples) if slow else (1, config.samples)
        prompt, fixed = (None if one is None else one[0] for one in frame(model, config.length))

        def samples() -> Tensor:
            return run(
                model,
                count,
                steps,
                generator=config.seed + 2,
                length=config.length,
                batch_size=64,
                prompt=prompt,
                fixed=fixed,
                temperature=temperature,
            ).samples

        return self.row(name, steps, samples, temperature)

    def row(
        self, name: str, steps: int, samples: Callable[[], Tensor], temperature: float = 1.0
    ) -> dict[str, Any]:
        """What the judge says of a model's samples at a number of evaluations."""
        config, reference = self.config, self.words(self.x0)

        def compute() -> dict[str, Any]:
            words = self.words(samples())
            verdicts = numbered(config.judge, words)
            found = verdict_row(words, verdicts) | frequency_row(words, reference)
            return found | spread_row(words, self.words(self.learned))

        with self.clock.part(f"{name} at {steps}, temperature {temperature:g}"):
            key = digest(config.samples, config.teacher_samples, config.seed, temperature)
            found = kept(self.folder(name) / f"row-{steps}-{key}.json", compute)
        return {"student": name, "steps": steps, "temperature": temperature, **found}


def frame(model: NetworkDenoiser, length: int) -> tuple[Tensor | None, Tensor | None]:
    """The tokens around every sequence as a prompt (1, L), and which positions they are."""
    given = read_conditions(vocabulary_of(model), 1, None, length=length)
    return given.prompt, given.fixed
