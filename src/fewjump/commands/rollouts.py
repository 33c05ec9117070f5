"""``fewjump rollouts``: a teacher's samples on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fewjump.commands.shared import SamplerOptions, check_draws, make_sampler
from fewjump.reading import ReadingOptions, reading_values


@dataclass
class Subject:
    """What to draw, and how.

    Attributes:
        path: the teacher: what `fewjump sample` takes.
        out: the file, ending in .npy; for a model with classes in .npz, which holds their labels
            too.
        num_samples: how many samples.
        steps: steps from noise to data: the student learns the law of the teacher run with that
            many.
        seed: of all samples.
        prompt: text the samples begin with.
        length: tokens per sample; several numbers are taken in turn, if the model has padding.
        label: classes, taken in turn, for a model with classes. Default: all of them.
        guidance: scale of classifier-free guidance; or two, between which each sample has one of
            its own, to distil a student that takes the scale as an input. Default: none.
        batch_size: samples between two writes.
        device: where to compute, for example cuda.
        progress: show progress, if it takes a while.
    """

    path: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("runs/rollouts.npy")
    num_samples: int = 10_000
    steps: int = 256
    seed: int = 0
    prompt: str | None = None
    length: tuple[int, ...] = ()
    label: tuple[int, ...] = ()
    guidance: tuple[float, ...] = ()
    batch_size: int = 256
    device: str = "cpu"
    progress: bool = True


@dataclass
class Options(ReadingOptions, SamplerOptions, Subject):
    """Keep a teacher's samples in a file of tokens, to distil from without data.

    `fewjump distill --teacher TEACHER --data FILE` then learns from them as from data, and the
    teacher need not be run again. The same command goes on where it was stopped, and adds to a
    finished file with a larger --num-samples.
    """


def run(options: Options) -> int:
    import torch

    from fewjump.publish import Pipeline
    from fewjump.publish.conditions import read_conditions
    from fewjump.publish.models import open_model
    from fewjump.rollouts import rollouts

    check_draws([options.steps], options.num_samples)
    sampler = make_sampler(options.sampler, options.sampler_options)
    if len(options.guidance) > 2:
        raise ValueError(f"--guidance takes one scale or two, got {len(options.guidance)}")
    denoiser, vocabulary, _ = open_model(options.path, options.device, reading_values(options))
    pipe = Pipeline(denoiser, vocabulary)
    given = read_conditions(
        vocabulary,
        max(1, len(options.length)),
        denoiser.length,
        prompt=options.prompt,
        length=options.length or None,
        padding=pipe.padding,
    )
    rollouts(
        denoiser,
        options.out,
        options.num_samples,
        options.steps,
        sampler=sampler,
        grid=options.grid,
        seed=options.seed,
        length=given.length,
        batch_size=options.batch_size,
        prompt=given.prompt,
        fixed=given.fixed,
        label=torch.tensor(options.label) if options.label else None,
        guidance=(options.guidance[0], options.guidance[-1]) if options.guidance else None,
        vocabulary=vocabulary,
        progress=options.progress,
    )
    print(f"{options.out}: {options.num_samples} samples of {given.length} tokens")
    return 0
