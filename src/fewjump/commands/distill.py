"""``fewjump distill``: a few-step student from a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fewjump.commands.arguments import save_options
from fewjump.commands.choices import DataKindName, MatchingName, StudentName
from fewjump.commands.training import TrainingOptions, is_main, training_values


@dataclass
class Subject:
    """Whom to learn from, and what."""

    teacher: Path = Path("runs/teacher")
    """Folder of the teacher: a run or a saved model."""

    out: Path = Path("runs/student")
    """Folder of the run."""

    data: str | None = None
    """The data the teacher learned from. Default: none; the teacher's own samples are used."""

    kind: DataKindName = "auto"
    """How to read a data file."""

    student: StudentName = "product"
    """What the student can say: product is the paper's, one table per position. The others are
    joint laws, from which a single step can draw dependent positions."""

    matching: MatchingName | None = None
    """How the cleaner state is drawn. student-euler is the paper's Algorithm 1; forward noises
    data and is exact; teacher-rollout needs no data. Default: forward, or teacher-rollout if there
    are no data."""

    jumps: int | None = None
    """Train for exactly this many equal jumps from noise to data. Default: for any."""

    warm_start: bool = True
    """Start from the teacher's weights."""


@dataclass
class Options(TrainingOptions, Subject):
    """Distil a teacher into a student that needs few evaluations.

    The student sees a noisy sequence and learns to answer what the frozen teacher answers at a
    cleaner one (exact conditional distribution matching, arXiv 2512.12889). It starts as a copy of
    the teacher. The same command on the same folder goes on where it was stopped.
    """

    lr: float = 3e-4
    """Peak learning rate of AdamW."""


def run(options: Options) -> int:
    from fewjump.api import distill
    from fewjump.checkpoint import read_config, save
    from fewjump.commands.models import open_data_like, open_model
    from fewjump.objective import ConditionalMatching

    teacher = open_model(options.teacher)
    data = None
    if options.data is not None:
        data = open_data_like(teacher, options.data, options.kind)
    matching = options.matching or ("forward" if data is not None else "teacher-rollout")
    if data is None and matching != "teacher-rollout":
        raise ValueError(f"--matching {matching} starts from data: give --data")
    if is_main():
        save_options(options, options.out)
    student = distill(
        teacher.denoiser,
        data,
        student=options.student,
        objective=ConditionalMatching(matching, steps=options.jumps),
        warm_start=options.warm_start,
        out=options.out,
        **training_values(options),
    )
    folder = options.out / "model"
    if not is_main():
        return 0
    if data is None:
        # Without data the library was not told what the tokens mean; the teacher's folder knows.
        config = read_config(folder)
        save(student, folder, vocabulary=teacher.vocabulary, training=config["training"])
    print(f"student: {folder}")
    return 0
