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
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from experiments.antibody_designs import designs
from experiments.antibody_judge import (
    frequency_row,
    leave_one_out,
)
from experiments.antibody_models import ROLLOUT_STEPS, Config, Laboratory, frame, vocabulary_of
from experiments.harness import Content, Rows, main
from fewjump import load
from fewjump.demo.parts import TEACHER, Clock
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import freeze
from fewjump.rollouts import rollouts
from fewjump.sampler import run


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
            run(
                models[name],
                1,
                k,
                "ancestral",
                generator=seed,
                length=length,
                prompt=prompt,
                fixed=fixed,
            )
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
