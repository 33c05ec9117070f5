"""``fewjump refine``: a distilled student, improved on its own samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fewjump.commands.arguments import save_options
from fewjump.commands.choices import DataKindName
from fewjump.commands.documents import DocumentOptions, document_values, refuse_without_data
from fewjump.commands.training import TrainingOptions, training_values
from fewjump.lock import is_main
from fewjump.reading import ReadingOptions, reading_values


@dataclass
class Subject:
    """Whom to refine, and against whom."""

    student: Path = Path("runs/student")
    """Folder of the student: a run or a saved model. It is not changed."""

    teacher: Path = Path("runs/teacher")
    """Folder of the teacher: a run or a saved model."""

    out: Path = Path("runs/refined")
    """Folder of the run."""

    data: str | None = None
    """The data the teacher learned from. Default: none; the student's own samples are used."""

    kind: DataKindName = "auto"
    """How to read a data file."""

    jumps: int = 1
    """Equal jumps from noise to data of the sampler that is refined: those it will be used with."""

    source: Literal["forward", "student"] | None = None
    """Where the noisy states come from: data, or the student's own sampling. Default: forward, or
    student if there are no data."""

    estimator: Literal["auto", "score", "expected"] = "auto"
    """How the gradient is estimated: expected sums tokens out (product and mixture students),
    score draws them (every student). Default: expected where there is one."""

    draws: int = 4
    """The student's samples for each noisy state."""

    data_weight: float = 0.0
    """Weight of the data's own likelihood in the loss: it keeps the student from dropping part of
    the data. Needs data."""

    auxiliary_lr: float = 3.0
    """Learning rate of the network that learns the student's samples, as a multiple of lr."""

    auxiliary_steps: int = 200
    """Steps, of all steps, in which that network learns alone."""

    band: tuple[float, float] = (0.7, 1.3)
    """The run stops when an entropy of the student's samples falls below the first number times,
    or rises above the second number times, what it was at the start (or is for the teacher)."""

    guard: bool = True
    """Watch the entropies."""

    guard_samples: int = 256
    """Sequences to measure them on."""


@dataclass
class Options(TrainingOptions, DocumentOptions, ReadingOptions, Subject):
    """Refine a few-step student on its own samples, against its teacher.

    A stage for after distill. A second network learns what the student's samples look like; where
    it and the teacher disagree, the student is moved towards the teacher (reverse KL, the method of
    distribution matching distillation). That sharpens what the student already does, and can cost
    variety: the entropy of its samples is logged beside the teacher's at every checkpoint, and the
    run stops, keeping the last good student, when it leaves the band. The same command on the same
    folder goes on where it was stopped.
    """

    steps: int = 1000
    """Optimiser steps."""

    lr: float = 1e-4
    """Peak learning rate of AdamW, for the student."""

    ema: float | None = 0.99
    """Decay of the moving average of the weights, which is what is saved; None for none."""

    save_every: int = 100
    """Steps between checkpoints, at which the student's variety is measured. The same command on
    the same folder goes on from the last one."""


def run(options: Options) -> int:
    from fewjump.commands.models import open_data_like, open_models
    from fewjump.refinement import refine

    if options.data is None:
        refuse_without_data(options)
    student, teacher = open_models(
        [options.student, options.teacher], reading=reading_values(options)
    )
    if student.vocabulary != teacher.vocabulary:
        raise ValueError(
            f"the student in {student.folder} and the teacher in {teacher.folder} have different "
            "vocabularies; give the teacher the student was distilled from"
        )
    if options.data is None and options.source == "forward":
        raise ValueError("--source forward starts from data: give --data")
    data = None
    if options.data is not None:
        data = open_data_like(teacher, options.data, options.kind, **document_values(options))
    # Without data the library is not told what the tokens mean; the models' folders know.
    student.denoiser.vocabulary_config = student.vocabulary.config()
    teacher.denoiser.vocabulary_config = teacher.vocabulary.config()
    refine(
        student.denoiser,
        teacher.denoiser,
        data,
        jumps=options.jumps,
        source=options.source,
        estimator=options.estimator,
        draws=options.draws,
        data_weight=options.data_weight,
        auxiliary_lr=options.auxiliary_lr,
        auxiliary_steps=options.auxiliary_steps,
        band=options.band if options.guard else None,
        guard_samples=options.guard_samples,
        out=options.out,
        accepted=partial(save_options, options),
        **training_values(options),
    )
    if is_main():
        print(f"refined student: {options.out / 'model'}")
    return 0
