"""What a training is put together from: its objective and its networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, cast, get_args

from fewjump.config import options_of
from fewjump.denoiser import (
    HEADS,
    Denoiser,
    NetworkDenoiser,
    ScoreDenoiser,
    TransformerConfig,
)
from fewjump.denoiser.huggingface import HuggingFaceConfig
from fewjump.denoiser.lora import WithTrunk, adapt
from fewjump.objective import (
    ConditionalMatching,
    CrossEntropyELBO,
    JointConditionalMatching,
    LatentMatching,
    Objective,
    ScoreEntropy,
)
from fewjump.objective.base import MatchingObjective
from fewjump.options.matching import DataOptions, Intermediate, JointIntermediate, Part
from fewjump.process import Process
from fewjump.random import initial_weights

Network = TransformerConfig | Mapping[str, Any]

_INITIAL_WEIGHTS = 4


def data_objective(name: str, options: DataOptions | None = None) -> Objective:
    """The objective of a teacher, by name.

    Raises:
        ValueError: for an unknown one.
    """
    makers: dict[str, Callable[..., Objective]] = {
        "cross-entropy": partial(CrossEntropyELBO, "uniform"),
        "elbo": partial(CrossEntropyELBO, "elbo"),
        "score-entropy": ScoreEntropy,
    }
    if name not in makers:
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(makers)}, or an Objective")
    return makers[name](**asdict(options or DataOptions()))


def default_source(with_data: bool) -> Literal["forward", "teacher-rollout"]:
    """Where x_s comes from if nothing else is asked for: the data, or without any the teacher."""
    return "forward" if with_data else "teacher-rollout"


def matching(kind: str, name: str, options: Sequence[Part] = (), **more: Any) -> MatchingObjective:
    """What a kind of student is trained by.

    Args:
        kind: of student.
        name: where x_s comes from; see :func:`fewjump.distill`.
        options: parts of an objective's options. Those that the student's objective does not have
            must be left as they are.
        **more: further options of the objective.

    Raises:
        ValueError: for a name that is none for this kind of student, options of another's, or
            values that do not fit together.
    """
    objective: type[MatchingObjective] = ConditionalMatching
    if kind != "product":
        objective = LatentMatching if kind == "latent" else JointConditionalMatching
    values = values_for(objective, options)
    names = get_args(Intermediate if kind == "product" else JointIntermediate)
    if kind != "product" and name == "student-exact":
        name = "student"
    if name not in names:
        told, other = ("product", "joint") if kind == "product" else ("joint", "product")
        # The command line has one name for both kinds.
        known = ["student-exact" if one == "student" else one for one in names]
        if name in (*get_args(Intermediate), *get_args(JointIntermediate)):
            raise ValueError(
                f"{name!r} is for {other} students, and {kind} is a {told} one; use "
                f"{', '.join(known)} (--matching)"
            )
        raise ValueError(
            f"unknown objective {name!r} for a {told} student; known: {', '.join(known)}, "
            "or an Objective"
        )
    if values.get("rollout_steps") is not None and name != "teacher-rollout":
        raise ValueError(
            "rollout_steps is for the teacher's rollouts: use teacher-rollout (--matching), or "
            "leave it out"
        )
    return cast(Any, objective)(name, **values, **more)


def values_for(objective: type[Objective], options: Sequence[Part]) -> dict[str, Any]:
    """The values of an objective's options among parts of several.

    Raises:
        ValueError: if one is changed that the objective does not have.
    """
    values: dict[str, Any] = {}
    for part in options:
        default = type(part)()
        for option in options_of(type(part)):
            declared = next(
                cls
                for cls in type(part).__mro__
                if option.field in vars(cls).get("__annotations__", {})
            )
            value = getattr(part, option.field)
            if issubclass(objective, declared):
                values[option.field] = value
            elif value != getattr(default, option.field):
                raise ValueError(f"{option.name} is for {declared.whose}")
    return values


def build_teacher(
    process: Process, network: Network | None, length: int, seed: int, objective: Objective
) -> Denoiser:
    """A fresh denoiser; a concrete-score network where score entropy is to train it."""
    config = {"process": process.config(), "trunk": trunk_options(network), "length": length}
    with initial_weights(seed, _INITIAL_WEIGHTS):
        if isinstance(objective, ScoreEntropy):
            if config["trunk"].get("classes") is not None:
                raise ValueError(
                    "score-entropy trains networks without classes; use objective='cross-entropy', "
                    "or leave out classes (--classes)"
                )
            model: Denoiser = ScoreDenoiser.from_config(config)
        else:
            model = NetworkDenoiser.from_config(config)
    # The caller's own object, not an equal one.
    model.process = process
    return model


def build_student(
    teacher: Denoiser,
    kind: str,
    network: Network | None,
    head: Mapping[str, Any] | None,
    warm_start: bool,
    length: int | None,
    seed: int,
    guidance: tuple[float, float] | None = None,
) -> Denoiser:
    """A student of a kind, at the teacher's weights or fresh; see :func:`fewjump.distill`.

    It has the teacher's classes, and takes a guidance scale if ``guidance`` says which.

    Raises:
        ValueError: for an unknown kind, or where there is nothing to start from.
    """
    if kind not in HEADS:
        raise ValueError(f"unknown student {kind!r}; known: {', '.join(sorted(HEADS))}")
    has_weights = next(teacher.parameters(), None) is not None
    plain = kind == "product" and network is None and not head
    plain = plain and guidance == teacher.guidance_range
    if has_weights and not isinstance(teacher, NetworkDenoiser):
        if plain and warm_start:
            return teacher.as_student()
        if network is None and teacher.described() is not None:
            assert isinstance(teacher, ScoreDenoiser)
            network_teacher = teacher.as_network()
            return build_student(network_teacher, kind, None, head, warm_start, length, seed)
        if network is None:
            raise ValueError(
                f"a {type(teacher).__name__} has no transformer to take over; give network=… for "
                "a student that starts afresh, or use student='product' with warm_start=True"
            )
    source = teacher if isinstance(teacher, NetworkDenoiser) and network is None else None
    trunk = trunk_options(source.trunk.config if source is not None else network)
    if teacher.classes is not None:
        trunk |= {"classes": teacher.classes, "guidance": guidance}
    config = {
        "process": teacher.process.config(),
        "trunk": trunk,
        "head": {"kind": kind, **(head or {})},
        "length": length,
        "autocast": source.autocast if source is not None else None,
        "leave_one_out": source is not None and source.leave_one_out,
    }
    with initial_weights(seed, _INITIAL_WEIGHTS):
        student = NetworkDenoiser.from_config(config)
    student.process = teacher.process
    if warm_start and isinstance(teacher, NetworkDenoiser):
        if network is None or student.trunk.config == teacher.trunk.config:
            student.warm_start(teacher)
        else:
            raise ValueError(
                "a warm start needs the teacher's own network sizes; leave out network=…, or "
                "pass warm_start=False"
            )
    return student


def start_at(
    start: Denoiser,
    kind: str,
    teacher: Denoiser,
    guidance: tuple[float, float] | None,
) -> Denoiser:
    """A copy of a student, to be trained against a teacher; see :func:`fewjump.distill`.

    Raises:
        ValueError: for a student of another kind, noise, vocabulary or condition.
    """
    if kind != start.kind:
        raise ValueError(
            f"the start is a {start.kind} student, and {kind} was asked for: give "
            f"student={start.kind!r}"
        )
    for what, own, wanted in (
        ("noise", start.process.config(), teacher.process.config()),
        ("number of tokens", start.clean_vocab_size, teacher.clean_vocab_size),
        ("number of classes", start.classes, teacher.classes),
        ("range of guidance", start.guidance_range, guidance),
    ):
        if own != wanted:
            raise ValueError(
                f"the start has another {what} than the teacher's student has ({own} and "
                f"{wanted}): give a student that was distilled from this teacher"
            )
    return copy.deepcopy(start).requires_grad_(True)


def add_adapters(model: Denoiser, teacher: Denoiser, rank: int, seed: int, fresh: bool) -> None:
    """Low-rank adapters over the teacher's weights in place of weights of the student's own.

    Args:
        model: the student.
        teacher: whose weights it takes over.
        rank: of the adapters.
        seed: of their initial values.
        fresh: whether the student is not to start at the teacher's weights: refused.

    Raises:
        ValueError: where the student does not start at a transformer teacher's weights.
    """
    both = (model, teacher)
    if fresh or not all(isinstance(one, NetworkDenoiser | ScoreDenoiser) for one in both):
        raise ValueError(
            "lora starts at a transformer teacher's weights: give the kind of student by name, "
            "with warm_start=True"
        )
    adapt(cast(WithTrunk, model), cast(WithTrunk, teacher), rank, seed=seed)


def trunk_options(network: Network | HuggingFaceConfig | None) -> dict[str, Any]:
    """Options of a network as plain data."""
    if isinstance(network, TransformerConfig | HuggingFaceConfig):
        return network.config()
    return dict(network or {})
