"""``fewjump refine``: a distilled student, improved on its own samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fewjump.commands.arguments import save_options
from fewjump.commands.shared import (
    DocumentOptions,
    document_values,
    refuse_without_data,
    tell_of_lengths,
)
from fewjump.config import Source
from fewjump.lock import is_main
from fewjump.options.matching import KnownOptions
from fewjump.options.sampled import (
    GuardOptions,
    OnPolicyOptions,
    RewardOptions,
    StatesName,
)
from fewjump.options.training import REFINEMENT, TrainConfig
from fewjump.reading import DataKind, ReadingOptions, reading_values

TEACHER = Path("runs/teacher")


@dataclass
class Subject:
    """Whom to refine, and against whom.

    Attributes:
        student: folder of the student: a run or a saved model. It is not changed.
        teacher: the teacher: what `fewjump sample` takes. Default: runs/teacher, or none with a
            reward.
        out: folder of the run.
        data: the data the teacher learned from. Default: none; the student's own samples are used.
        kind: how to read a data file.
        source: where the noisy states come from: data, or the student's own sampling. Default:
            forward, or student if there are no data.
        on_policy: what is minimised, and for which sampler.
        rewards: what samples are worth, in place of a teacher.
        shown: with a reward: a part of every sequence of the data that is given.
        bounds: the guard.
        training: how to optimise the student.
    """

    student: Path = Path("runs/student")
    teacher: Path | None = None
    out: Path = Path("runs/refined")
    data: Source | None = None
    kind: DataKind = "auto"
    source: StatesName | None = None
    on_policy: OnPolicyOptions = field(default_factory=OnPolicyOptions)
    rewards: RewardOptions = field(default_factory=RewardOptions)
    shown: KnownOptions = field(default_factory=KnownOptions)
    bounds: GuardOptions = field(default_factory=GuardOptions)
    training: TrainConfig = REFINEMENT


@dataclass
class Options(DocumentOptions, ReadingOptions, Subject):
    """Refine a few-step student on its own samples, against its teacher or by a reward.

    A stage for after distill. A second network learns what the student's samples look like; where
    it and the teacher disagree, the student is moved towards the teacher (reverse KL, the method of
    distribution matching distillation). That sharpens what the student already does, and can cost
    variety: the entropy of its samples is logged beside the teacher's at every checkpoint, and the
    run stops, keeping the last good student, when it leaves the band. With --reward there is no
    teacher: samples are drawn, the reward is asked what they are worth, and the student is moved
    towards what is worth more, held to where it began by --anchor. The same command on the same
    folder goes on where it was stopped.
    """


def run(options: Options) -> int:
    from fewjump.publish.models import open_data_like, open_models
    from fewjump.refinement import refine

    if options.data is None:
        refuse_without_data(options)
    rewarded = options.rewards.reward is not None
    if rewarded and options.teacher is not None:
        raise ValueError("with --reward the student is held to its own start: leave --teacher out")
    if not rewarded and options.shown != KnownOptions():
        raise ValueError(
            "--known shows a part of the data to a student with a reward: give --reward"
        )
    if options.data is None and options.source == "forward":
        raise ValueError("--source forward starts from data: give --data")
    if options.data is None and options.shown.known is not None:
        raise ValueError("--known shows a part of the data: give --data")
    places = [options.student] if rewarded else [options.student, options.teacher or TEACHER]
    student, *teachers = open_models(places, reading=reading_values(options))
    for teacher in teachers:
        if student.vocabulary != teacher.vocabulary:
            raise ValueError(
                f"the student in {student.folder} and the teacher in {teacher.folder} have "
                "different vocabularies; give the teacher the student was distilled from"
            )
    data = None
    if options.data is None and any(student.vocabulary.frame):
        raise ValueError(
            "this student knows texts between special tokens, and its own samples within a "
            "training begin without them: give --data, whose texts have them; `fewjump rollouts` "
            "draws some"
        )
    if options.data is None:
        tell_of_lengths(
            student.denoiser,
            "its own samples within a training are full ones, and it is refined on those; --data "
            "show every length",
        )
    if options.data is not None:
        source = [*teachers, student][0]
        data = open_data_like(source, options.data, options.kind, **document_values(options))
    # Without data the library is not told what the tokens mean; the models' folders know.
    for model in (student, *teachers):
        model.denoiser.vocabulary_config = model.vocabulary.config()
    refine(
        student.denoiser,
        teachers[0].denoiser if teachers else None,
        data,
        source=options.source,
        bounds=options.bounds,
        out=options.out,
        accepted=partial(save_options, options),
        on_policy=options.on_policy,
        rewards=options.rewards,
        shown=options.shown,
        config=options.training,
    )
    if is_main():
        print(f"refined student: {options.out / 'model'}")
    return 0
