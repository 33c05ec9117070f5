"""``fewjump distill``: a few-step student from a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewjump.commands.arguments import save_options
from fewjump.commands.choices import (
    DataKindName,
    MatchingName,
    StudentName,
    TimesName,
)
from fewjump.commands.documents import (
    DocumentOptions,
    KnownOptions,
    document_values,
    refuse_without_data,
)
from fewjump.commands.training import TrainingOptions, training_values
from fewjump.lock import is_main
from fewjump.reading import ReadingOptions, reading_values

if TYPE_CHECKING:
    from fewjump.objective import Objective, TimeSampling
    from fewjump.process import Process

NearName = Literal["zero", "uniform", "adaptive"]


@dataclass
class Subject:
    """Whom to learn from, and what."""

    teacher: Path = Path("runs/teacher")
    """The teacher: folder of a run or of a saved model, hf:owner/name of the hub, or a folder of a
    masked language model of transformers."""

    out: Path = Path("runs/student")
    """Folder of the run."""

    data: str | None = None
    """The data the teacher learned from. Default: none; the teacher's own samples are used."""

    kind: DataKindName = "auto"
    """How to read a data file."""

    length: int | None = None
    """Tokens per sequence, for a teacher that takes any. Default: the teacher's, or 64."""

    student: StudentName = "product"
    """What the student can say: product is the paper's, one table per position. The others are
    joint laws, from which a single step can draw dependent positions."""

    matching: MatchingName | None = None
    """How the cleaner state is drawn. student-euler is the paper's Algorithm 1; forward noises
    data and is exact; teacher-rollout needs no data. Default: forward, or teacher-rollout if there
    are no data."""

    head: tuple[str, ...] = ()
    """Sizes of the student's head as name=value, such as states=64 or components=32. The error for
    an unknown name lists those that there are."""

    near: NearName | float | None = None
    """Joint students: where the teacher is asked. A share of the noise time in (0, 1); zero, next
    to the data; uniform, anywhere below; or adaptive, as far as its own doubt allows.
    Default: 0.1 for a masked teacher, 0.02 for others."""

    draws: int = 1
    """Joint students: sequences drawn from the teacher for each that is noised. For a latent one:
    draws of its latent."""

    consistency: float = 0.0
    """Joint students: share in [0, 1] of the loss whose target is the student's own answer at a
    cleaner state."""

    data_weight: float = 0.0
    """Joint students: weight of the data's own likelihood in the loss."""

    free_bits: float = 0.0
    """Latent students: nats per sequence that the latent may carry for nothing."""

    kl_warmup: int | None = None
    """Latent students: steps over which the price of what the latent carries rises from 0 to its
    full height. Default: half of the steps."""

    jumps: int | None = None
    """Train for exactly this many equal jumps from noise to data. Default: for any."""

    max_gap: float = 1.0
    """Product students: largest time between the student's state and the cleaner one, in (0, 1]."""

    times: TimesName = "uniform"
    """How training draws its times: importance follows the losses seen, without bias, by t, or
    (importance-pairs, product students) by t and the gap; learned-weight evens them out; the gaps
    (product students) start small and double, or start large and halve, over the training."""

    warm_start: bool = True
    """Start from the teacher's weights."""

    lora: int | None = None
    """Rank of a low-rank difference to the teacher's weights, which then are in memory once; needs
    the extra fewjump[lora]. Default: train every weight."""


@dataclass
class Options(TrainingOptions, DocumentOptions, ReadingOptions, KnownOptions, Subject):
    """Distil a teacher into a student that needs few evaluations.

    The student sees a noisy sequence and learns to answer what the frozen teacher answers at a
    cleaner one (exact conditional distribution matching, arXiv 2512.12889). It starts as a copy of
    the teacher. A joint student is taught whole sequences drawn from the teacher's answer, so that
    it learns which tokens belong together. The same command on the same folder goes on where it
    was stopped.
    """

    lr: float = 3e-4
    """Peak learning rate of AdamW."""


def run(options: Options) -> int:
    from fewjump.api import distill
    from fewjump.commands.models import open_data_like, open_model
    from fewjump.data.load import DEFAULT_LENGTH

    if options.data is None:
        refuse_without_data(options)
    teacher = open_model(options.teacher, reading=reading_values(options))
    data = None
    if options.data is not None:
        data = open_data_like(
            teacher, options.data, options.kind, options.length, **document_values(options)
        )
    elif any(teacher.vocabulary.frame):
        raise ValueError(
            "this teacher knows texts between special tokens, and rollouts within a training begin "
            "without them: run `fewjump rollouts` first, and give its file as --data"
        )
    elif teacher.denoiser.length is None:
        teacher.denoiser.check_length(options.length or DEFAULT_LENGTH)
        teacher.denoiser.length = options.length or DEFAULT_LENGTH
    matching = options.matching or ("forward" if data is not None else "teacher-rollout")
    if data is None and matching != "teacher-rollout":
        raise ValueError(f"--matching {matching} starts from data: give --data")
    if data is None and options.known is not None:
        raise ValueError("--known shows a part of the data: give --data")
    objective = objective_of(options, matching, teacher.denoiser.process)
    # Without data the library is not told what the tokens mean; the teacher's folder knows.
    teacher.denoiser.vocabulary_config = teacher.vocabulary.config()
    distill(
        teacher.denoiser,
        data,
        student=options.student,
        objective=objective,
        head=head_options(options.head),
        warm_start=options.warm_start,
        lora=options.lora,
        out=options.out,
        accepted=partial(save_options, options),
        **training_values(options),
    )
    if is_main():
        print(f"student: {options.out / 'model'}")
    return 0


def time_sampling(options: Options) -> TimeSampling | None:
    """What ``--times`` asks for; None for uniform times."""
    from fewjump.objective import TimeSampling

    if options.times == "uniform":
        return None
    if options.times == "importance":
        return TimeSampling(importance=True)
    if options.times == "importance-pairs":
        return TimeSampling(importance=True, gap_bins=4)
    if options.times == "learned-weight":
        return TimeSampling(learned_weight=True)
    curriculum = "doubling" if options.times == "gap-doubling" else "halving"
    return TimeSampling(curriculum=curriculum, curriculum_steps=options.steps)


def objective_of(options: Options, matching: MatchingName, process: Process) -> Objective:
    """Matching per position for a product student, of the joint conditional for the others.

    Raises:
        ValueError: for options of the one given to the other.
    """
    from fewjump.assembly import default_kl_warmup, joint_near
    from fewjump.objective import ConditionalMatching, JointConditionalMatching, LatentMatching

    defaults = Subject()
    latent = {"free_bits": options.free_bits, "kl_warmup": options.kl_warmup}
    if options.student != "latent":
        given = [name for name, value in latent.items() if value != getattr(defaults, name)]
        if given:
            flag = given[0].replace("_", "-")
            raise ValueError(f"--{flag} is for latent students; use --student latent")
    joint = {
        "near": options.near,
        "draws": options.draws,
        "consistency": options.consistency,
        "data_weight": options.data_weight,
    }
    if options.student == "product":
        given = [name for name, value in joint.items() if value != getattr(defaults, name)]
        if given:
            flag = given[0].replace("_", "-")
            raise ValueError(
                f"--{flag} is for joint students; choose one, such as --student chain, or leave "
                "it out"
            )
        return ConditionalMatching(
            matching,
            steps=options.jumps,
            max_gap=options.max_gap,
            times=time_sampling(options),
            known=options.known,
            known_share=options.known_share,
        )
    if options.max_gap != defaults.max_gap:
        raise ValueError(
            "--max-gap is for --student product; joint students say where the teacher is asked "
            "with --near"
        )
    if matching in ("student-euler", "student-trapezoidal"):
        raise ValueError(
            f"--matching {matching} draws every position on its own, which is the paper's form "
            "for --student product; use forward, student-exact or teacher-rollout"
        )
    intermediate = "student" if matching == "student-exact" else matching
    near = joint_near(process) if options.near is None else options.near
    if options.student == "latent":
        if options.consistency:
            raise ValueError(
                "--consistency is not for latent students, whose encoder is shown the teacher's "
                "state; leave it out"
            )
        if options.times != "uniform":
            raise ValueError("--times is not for latent students; leave it out")
        warmup = default_kl_warmup(options.steps)
        return LatentMatching(
            intermediate,
            near=near,
            draws=options.draws,
            data_weight=options.data_weight,
            free_bits=options.free_bits,
            kl_warmup=warmup if options.kl_warmup is None else options.kl_warmup,
            steps=options.jumps,
            known=options.known,
            known_share=options.known_share,
        )
    return JointConditionalMatching(
        intermediate,
        near=near,
        draws=options.draws,
        consistency=options.consistency,
        data_weight=options.data_weight,
        times=time_sampling(options),
        steps=options.jumps,
        known=options.known,
        known_share=options.known_share,
    )


def head_options(words: Sequence[str]) -> dict[str, Any]:
    """``name=value`` words as a mapping; values as YAML reads them.

    Raises:
        ValueError: for a word of another form.
    """
    import yaml

    out: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"--head takes name=value, such as states=64; got {word!r}")
        try:
            out[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--head {name}: {value!r} is neither a value nor a list") from None
    return out
