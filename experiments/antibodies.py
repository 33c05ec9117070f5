"""Antibodies: a published masked language model, distilled without data, judged by AntPack.

The teacher is AntiBERTy (Ruffolo et al. 2021, 26M parameters), from the wheel of its package; later
versions hold no weights. The judge is AntPack, in an environment of its own:

    pip download --no-deps antiberty==0.1.3
    unzip antiberty-0.1.3-py3-none-any.whl 'antiberty/trained_models/*'
    cp antiberty/trained_models/vocab.txt antiberty/trained_models/AntiBERTy_md_smooth/
    python3 -m venv antpack && antpack/bin/pip install antpack==0.3.8.6.3

Students learn from the teacher's samples of 64 steps (kept, and gone on with). The trunk stays the
teacher's, so that the states which they learn from are evaluated once for all. Run as

    python -m experiments.antibodies --teacher antiberty/trained_models/AntiBERTy_md_smooth \\
        --judge antpack/bin/python

Seconds are those of a core (process time), since the machine is never idle while this runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.antibody_designs import designs, vocabulary_of
from experiments.antibody_judge import (
    frequency_row,
    leave_one_out,
    numbered,
    spread_row,
    verdict_row,
)
from experiments.frozen_trunk import KeptStates, kept_pairs
from experiments.harness import Content, Options, Rows, digest, kept, main, place
from fewjump import load, save
from fewjump.assembly import build_student
from fewjump.checkpoint import read_config
from fewjump.demo.parts import TEACHER, Clock
from fewjump.denoiser.network import NetworkDenoiser, parameter_counts
from fewjump.objective import freeze
from fewjump.publish.conditions import read_conditions
from fewjump.rollouts import rollouts
from fewjump.sampler import run
from fewjump.train import TrainConfig, train

#: Heads of the students.
HEADS: dict[str, dict[str, Any]] = {
    "product": {},
    "shared-chain": {"states": 256},
    "autoregressive": {"width": 128, "lookahead": True},
    "any-order": {"width": 128},
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


@torch.no_grad()
def held_out_nll(model: NetworkDenoiser, x0: Tensor) -> float:
    """−log p of whole sequences in one evaluation, in nats per residue."""
    process = model.process
    assert process.mask is not None
    x_t = torch.where(process.is_kept(x0), x0, process.mask)[:1]
    law = model(x_t, torch.ones(1, dtype=torch.float64)).expand(len(x0))
    residues = int((x_t == process.mask).sum())
    return float(-law.log_prob(x0).double().mean() / residues)


def alone(
    models: dict[str, NetworkDenoiser], steps: Sequence[int], length: int, count: int
) -> Rows:
    """Core seconds of one sample drawn alone, the teacher's 64 steps in turn with the students'."""
    cells = [(TEACHER, ROLLOUT_STEPS)]
    cells += [(name, k) for name in models if name != TEACHER for k in steps]
    spent: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    for seed in range(count + 1):
        for name, k in cells:
            if seed == 0 and k > 1:
                continue
            prompt, fixed = frame(models[name], length)
            begin = time.process_time()
            run(models[name], 1, k, generator=seed, length=length, prompt=prompt, fixed=fixed)
            # The first one warms up.
            if seed:
                spent[name, k].append(time.process_time() - begin)
    return [
        {"student": name, "steps": k, "seconds": float(np.median(times)), "n": len(times)}
        for (name, k), times in spent.items()
    ]


def measure(config: Config) -> Content:
    """Rows of every model and number of evaluations, times of one sample, designs."""
    clock = Clock()
    teacher = load(config.teacher)
    assert isinstance(teacher, NetworkDenoiser)
    freeze(teacher)
    teacher.autocast = None if config.precision == "float32" else config.precision
    given = frame(teacher, config.length)
    with clock.part("the teacher's samples"):
        path = rollouts(
            teacher,
            config.runs / "antibodies" / "rollouts.npy",
            config.rollouts,
            ROLLOUT_STEPS,
            seed=config.seed,
            length=config.length,
            batch_size=16,
            prompt=given[0],
            fixed=given[1],
            vocabulary=vocabulary_of(teacher),
            progress=True,
        )
    x0 = torch.from_numpy(np.load(path).astype(np.int64))
    laboratory = Laboratory(config, teacher, x0, clock)
    models = {TEACHER: teacher, **{kind: laboratory.student(kind) for kind in config.students}}
    rows = [laboratory.row(TEACHER, ROLLOUT_STEPS, lambda: x0)]
    # What costs least comes first.
    for steps in sorted({*config.steps, *config.teacher_steps}):
        for name, model in models.items():
            if steps not in (config.teacher_steps if name == TEACHER else config.steps):
                continue
            count = config.samples
            if name == TEACHER and steps > 1:
                count = config.teacher_samples
            draw = partial(laboratory.sampled, name, model, steps, count)
            rows.append(laboratory.row(name, steps, draw))
    sharpened = [
        laboratory.sharpened(name, model, temperature)
        for temperature in config.temperatures
        for name, model in models.items()
    ]
    with clock.part("designs"):
        designed, loops = designs(laboratory, models)
    with clock.part("one sample at a time"):
        times = alone(models, (1, 4), config.length, config.alone)
    half = len(x0) // 2
    words = laboratory.words(x0)
    return {
        "rollouts": len(x0),
        "learned": len(laboratory.learned),
        "reference": {
            "nearest": leave_one_out(words),
            **frequency_row(words[:half], words[half:]),
        },
        "training": config.training,
        "trained": {kind: laboratory.training(kind) for kind in config.students},
        "near": config.near,
        "held_out_nll": {
            name: held_out_nll(model, laboratory.held_out) for name, model in models.items()
        },
        "learned_nll": {
            name: held_out_nll(model, laboratory.learned) for name, model in models.items()
        },
        "rows": rows,
        "sharpened": sharpened,
        "alone": times,
        "designs": designed,
        "loops": loops,
    }


if __name__ == "__main__":
    main("antibodies", Config, measure)
