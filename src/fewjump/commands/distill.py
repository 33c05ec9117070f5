"""``fewjump distill``: a few-step student from a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

import tyro

from fewjump.commands.arguments import save_options
from fewjump.commands.shared import (
    DocumentOptions,
    document_values,
    named_values,
    refuse_without_data,
    tell_of_lengths,
)
from fewjump.commands.train import LABEL_DROPOUT
from fewjump.config import Source
from fewjump.lock import is_main
from fewjump.options.matching import (
    CorrelationOptions,
    ExpertOptions,
    GapOptions,
    Intermediate,
    JointOptions,
    LatentOptions,
    MatchingOptions,
)
from fewjump.options.sampled import (
    AnchorOptions,
    CouplingOptions,
    HalvingOptions,
    JeffreyOptions,
    LearnedSamplerOptions,
)
from fewjump.options.training import DISTILLATION, TrainConfig
from fewjump.reading import DataKind, ReadingOptions, reading_values
from fewjump.registry import HEADS, METHODS

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.denoiser import Denoiser
    from fewjump.objective import Objective, TimeSampling
    from fewjump.publish.models import Model

if TYPE_CHECKING:
    StudentName: TypeAlias = str
    MethodName: TypeAlias = str
else:
    StudentName = Literal[*HEADS]
    MethodName = Literal["matching", *METHODS]
TimesName = Literal[
    "uniform",
    "importance",
    "importance-pairs",
    "learned-weight",
    "gap-doubling",
    "gap-halving",
]


@dataclass
class Subject:
    """Whom to learn from, and what.

    Attributes:
        teacher: the teacher: what `fewjump sample` takes.
        out: folder of the run.
        data: the data the teacher learned from. Default: none; the teacher's own samples are used.
        kind: how to read a data file.
        length: tokens per sequence, for a teacher that takes any. Default: the teacher's, or 64.
        student: what the student can say: product is the paper's, one table per position. The
            others are joint laws, from which a single step can draw dependent positions.
        method: matching is the paper's, and ours for joint students. In rounds: sdtt, for masked
            product students; dcd and redi, for uniform noise. By a second network: idlm and dimo,
            which need no data, and dmmd. di4c gives joint students the correlations that many steps
            of the teacher make. data-only, vadd (latent students) and e-moe (mixtures of experts)
            learn the data and never ask the teacher, at whose weights they start. lsd trains no
            network, but a few-step sampler of the teacher itself, without data. Each is told of in
            docs/methods.md in the repository.
        intermediate: how the cleaner state is drawn. student-euler is the paper's Algorithm 1;
            forward noises data and is exact; teacher-rollout needs no data. Default: forward, or
            teacher-rollout if there are no data.
        head: options of the student's head as name=value, such as states=64, components=32 or
            lookahead=true. The error for an unknown name lists those that there are.
        times: how training draws its times: importance follows the losses seen, without bias, by t,
            or (importance-pairs, product students) by t and the gap; learned-weight evens them out;
            the gaps (product students) start small and double, or start large and halve, over the
            training.
        warm_start: start from the teacher's weights.
        start: a student to start at instead, a run or a saved model of the kind that --student
            says: idlm, dmmd and dimo then sharpen what, say, matching found. It is not changed.
        lora: rank of a low-rank difference to the teacher's weights, which then are in memory once;
            needs the extra fewjump[lora]. Default: train every weight.
        guidance: least and largest guidance scale, for a teacher with classes: the student then
            takes the scale as an input, and answers in one evaluation as the guided teacher does in
            two. Default: those of the data's samples (fewjump rollouts --guidance), if any.
        label_dropout: of a teacher with classes: share of sequences that are shown without their
            class.
        objective: how any student is compared with its teacher.
        gap: product students: where the teacher is asked.
        joint: joint students: where the teacher is asked, and what is learned from it.
        latent: latent students: what keeps the latent in use.
        halving: the rounds of sdtt, dcd and redi.
        coupling: the pairs of redi.
        anchor: the second network of idlm, dmmd and dimo, and what holds the student to its start.
        jeffrey: the divergence of dimo.
        correlation: the three terms of di4c.
        experts: the mixture of e-moe.
        sampler: the few-step sampler of lsd.
        training: how to optimise.
    """

    teacher: Path = Path("runs/teacher")
    out: Path = Path("runs/student")
    data: Source | None = None
    kind: DataKind = "auto"
    length: int | None = None
    student: StudentName = "product"
    method: MethodName = "matching"
    intermediate: Annotated[Intermediate | None, tyro.conf.arg(name="matching")] = None
    head: tuple[str, ...] = ()
    times: TimesName = "uniform"
    warm_start: bool = True
    start: Path | None = None
    lora: int | None = None
    guidance: tuple[float, float] | None = None
    label_dropout: float = LABEL_DROPOUT
    objective: MatchingOptions = field(default_factory=MatchingOptions)
    gap: GapOptions = field(default_factory=GapOptions)
    joint: JointOptions = field(default_factory=JointOptions)
    latent: LatentOptions = field(default_factory=LatentOptions)
    halving: HalvingOptions = field(default_factory=HalvingOptions)
    coupling: CouplingOptions = field(default_factory=CouplingOptions)
    anchor: AnchorOptions = field(default_factory=AnchorOptions)
    jeffrey: JeffreyOptions = field(default_factory=JeffreyOptions)
    correlation: CorrelationOptions = field(default_factory=CorrelationOptions)
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    sampler: LearnedSamplerOptions = field(default_factory=LearnedSamplerOptions)
    training: TrainConfig = DISTILLATION


@dataclass
class Options(DocumentOptions, ReadingOptions, Subject):
    """Distil a teacher into a student that needs few evaluations.

    The student sees a noisy sequence and learns to answer what the frozen teacher answers at a
    cleaner one (exact conditional distribution matching, arXiv 2512.12889). It starts as a copy of
    the teacher. A joint student is taught whole sequences drawn from the teacher's answer, so that
    it learns which tokens belong together. The same command on the same folder goes on where it
    was stopped.
    """


class Given(NamedTuple):
    """Teacher and data that are opened already.

    Attributes:
        teacher: with the vocabulary of the data.
        data: to learn from.
        network: options of the students' transformer; None for the teacher's own.
    """

    teacher: Model
    data: Dataset
    network: dict[str, Any] | None


def run(
    options: Options,
    accepted: Callable[[Path], object] | None = None,
    given: Given | None = None,
    started: Denoiser | None = None,
) -> int:
    """Distil.

    Args:
        options: of the verb.
        accepted: by default what writes the options down, as the library has it.
        given: in place of what the options call teacher and data.
        started: in place of what they call start.
    """
    from fewjump.api import distill
    from fewjump.data.load import DEFAULT_LENGTH
    from fewjump.publish.models import open_data_like, open_model

    if options.data is None:
        refuse_without_data(options)
    if given is None:
        teacher = open_model(options.teacher, reading=reading_values(options))
    else:
        teacher = given.teacher
    framed = any(teacher.vocabulary.frame)
    if framed and options.method != "matching" and METHODS[options.method].coupled:
        raise ValueError(
            f"this teacher knows texts between special tokens, and --method {options.method} draws "
            "its sequences without them; use --method matching"
        )
    own = teacher.denoiser.length
    if options.data is None and own is not None and options.length not in (None, own):
        raise ValueError(
            f"the model in {teacher.folder} has sequences of {own} tokens, not {options.length}: "
            "leave out --length"
        )
    data = None
    if given is not None:
        data = given.data
    elif options.data is not None:
        data = open_data_like(
            teacher, options.data, options.kind, options.length, **document_values(options)
        )
    elif framed:
        raise ValueError(
            "this teacher knows texts between special tokens, and rollouts within a training begin "
            "without them: run `fewjump rollouts` first, and give its file as --data"
        )
    elif teacher.denoiser.length is None:
        teacher.denoiser.check_length(options.length or DEFAULT_LENGTH)
        teacher.denoiser.length = options.length or DEFAULT_LENGTH
    classes = teacher.denoiser.classes
    if classes is None and options.label_dropout != LABEL_DROPOUT:
        raise ValueError("--label-dropout is for teachers with classes, and this one has none")
    guided = options.guidance is not None and (data is None or not data.scales)
    objective = objective_of(options, guided)
    if not objective.needs_data and (data is None or objective.coupled):
        tell_of_lengths(
            teacher.denoiser,
            "those that this training draws are full ones, and the student learns of them alone; "
            "--method matching from --data learns of every length (`fewjump rollouts --length` "
            "draws some)",
        )
    if given is not None and given.network is not None and objective.keeps_network:
        raise ValueError(
            f"--method {options.method} learns a sampler of its teacher's network, and an exact "
            "posterior has none; leave this student out, or train a teacher"
        )
    if options.start is not None and started is None:
        begun = open_model(options.start)
        if begun.vocabulary != teacher.vocabulary:
            raise ValueError(
                f"--start {options.start} and the teacher have different vocabularies; give a "
                "student that was distilled from this teacher"
            )
        started = begun.denoiser
    # Without data the library is not told what the tokens mean; the teacher's folder knows.
    teacher.denoiser.vocabulary_config = teacher.vocabulary.config()
    distill(
        teacher.denoiser,
        data,
        student=options.student,
        objective=objective,
        network=None if given is None or started is not None else given.network,
        head=named_values("head", options.head),
        warm_start=options.warm_start,
        start=started,
        lora=options.lora,
        guidance=options.guidance,
        label_dropout=options.label_dropout,
        out=options.out,
        accepted=accepted or partial(save_options, options),
        config=options.training,
    )
    if is_main():
        print(f"student: {options.out / 'model'}")
    return 0


def time_sampling(name: TimesName) -> TimeSampling | None:
    """What ``--times`` asks for; None for uniform times."""
    from fewjump.objective import TimeSampling

    if name == "uniform":
        return None
    if name == "importance":
        return TimeSampling(importance=True)
    if name == "importance-pairs":
        return TimeSampling(importance=True, gap_bins=4)
    if name == "learned-weight":
        return TimeSampling(learned_weight=True)
    return TimeSampling(curriculum="doubling" if name == "gap-doubling" else "halving")


def objective_of(options: Options, guided: bool = False) -> Objective:
    """What the student is trained by; ``guided`` by a teacher whose samples are not like the data.

    Raises:
        ValueError: for options of another kind of student, or that start from data where there are
            none.
    """
    from fewjump.assembly import default_source, matching, values_for

    parts = (
        options.objective,
        options.gap,
        options.joint,
        options.latent,
        options.halving,
        options.coupling,
        options.anchor,
        options.jeffrey,
        options.correlation,
        options.experts,
        options.sampler,
    )
    if options.method != "matching":
        for flag, value, default in (
            ("matching", options.intermediate, None),
            ("times", options.times, "uniform"),
        ):
            if value != default:
                raise ValueError(f"--{flag} is for --method matching")
        method = METHODS.named(options.method)
        made = method(**values_for(method, parts))
        if options.data is None and made.needs_data:
            raise ValueError(
                f"--method {options.method} starts from data: give --data, if need be a file of "
                "the teacher's samples (fewjump rollouts)"
            )
        return made
    source = options.intermediate or default_source(options.data is not None and not guided)
    if options.data is None and source != "teacher-rollout":
        raise ValueError(f"--matching {source} starts from data: give --data")
    if options.data is None and options.objective.known is not None:
        raise ValueError("--known shows a part of the data: give --data")
    return matching(options.student, source, parts, times=time_sampling(options.times))
