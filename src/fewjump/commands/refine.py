"""``fewjump refine``: a distilled student, improved on its own samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fewjump.commands.arguments import save_options
from fewjump.commands.shared import (
    DataKindName,
    DocumentOptions,
    document_values,
    refuse_without_data,
)
from fewjump.config import Source
from fewjump.lock import is_main
from fewjump.options.sampled import GuardOptions, OnPolicyOptions, StatesName
from fewjump.options.training import REFINEMENT, TrainConfig
from fewjump.reading import ReadingOptions, reading_values


@dataclass
class Subject:
    """Whom to refine, and against whom.

    Attributes:
        student: folder of the student: a run or a saved model. It is not changed.
        teacher: the teacher: what `fewjump sample` takes.
        out: folder of the run.
        data: the data the teacher learned from. Default: none; the student's own samples are used.
        kind: how to read a data file.
        source: where the noisy states come from: data, or the student's own sampling. Default:
            forward, or student if there are no data.
        on_policy: what is minimised, and for which sampler.
        bounds: the guard.
        training: how to optimise the student.
    """

    student: Path = Path("runs/student")
    teacher: Path = Path("runs/teacher")
    out: Path = Path("runs/refined")
    data: Source | None = None
    kind: DataKindName = "auto"
    source: StatesName | None = None
    on_policy: OnPolicyOptions = field(default_factory=OnPolicyOptions)
    bounds: GuardOptions = field(default_factory=GuardOptions)
    training: TrainConfig = REFINEMENT


@dataclass
class Options(DocumentOptions, ReadingOptions, Subject):
    """Refine a few-step student on its own samples, against its teacher.

    A stage for after distill. A second network learns what the student's samples look like; where
    it and the teacher disagree, the student is moved towards the teacher (reverse KL, the method of
    distribution matching distillation). That sharpens what the student already does, and can cost
    variety: the entropy of its samples is logged beside the teacher's at every checkpoint, and the
    run stops, keeping the last good student, when it leaves the band. The same command on the same
    folder goes on where it was stopped.
    """


def run(options: Options) -> int:
    from fewjump.publish.models import open_data_like, open_models
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
        source=options.source,
        bounds=options.bounds,
        out=options.out,
        accepted=partial(save_options, options),
        on_policy=options.on_policy,
        config=options.training,
    )
    if is_main():
        print(f"refined student: {options.out / 'model'}")
    return 0
