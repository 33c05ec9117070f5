"""What a training is put together from: its configuration, its objective, its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

import torch

from fewjump.config import ConfigError, from_dict
from fewjump.denoiser import (
    HEADS,
    Denoiser,
    LatentHead,
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
from fewjump.objective.conditional import Intermediate
from fewjump.objective.joint import JointIntermediate
from fewjump.objective.known import KnownName
from fewjump.process import Absorbing, Process
from fewjump.random import fold_seed
from fewjump.runs import can_save
from fewjump.train import TrainConfig

Network = TransformerConfig | Mapping[str, Any]

_INITIAL_WEIGHTS = 4


def train_config(**options: Any) -> TrainConfig:
    """A checked configuration; raises ValueError for an unknown or wrong option."""
    try:
        return from_dict(TrainConfig, options)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def data_objective(
    name: str, known: KnownName | None = None, known_share: float = 0.5
) -> Objective:
    """The objective of a teacher, by name, with a part of every sequence shown clean if asked.

    Raises:
        ValueError: for an unknown one.
    """
    shown: dict[str, Any] = {"known": known, "known_share": known_share}
    makers: dict[str, Callable[[], Objective]] = {
        "cross-entropy": lambda: CrossEntropyELBO("uniform", **shown),
        "elbo": lambda: CrossEntropyELBO("elbo", **shown),
        "score-entropy": lambda: ScoreEntropy(**shown),
    }
    if name not in makers:
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(makers)}, or an Objective")
    return makers[name]()


def is_joint(student: Denoiser) -> bool:
    """Whether a denoiser is a network whose head says more than one table per position."""
    return isinstance(student, NetworkDenoiser) and student.kind != "product"


def joint_near(process: Process) -> float:
    """s/t of the default joint objective: 0.1 under a mask, 0.02 otherwise.

    At equal s a visible token says more than one that may be noise. On a Markov chain of four
    tokens (4 positions, 2.4 nats) the bias, ``fewjump.problem.mixture_bias``, is 0.0004 nats per
    position at these two shares; at 0.1 the uniform process has 0.006.
    """
    return 0.1 if isinstance(process, Absorbing) else 0.02


def default_kl_warmup(steps: int) -> int:
    """Steps before the KL of a latent student's objective has its full weight: half of them."""
    return steps // 2


def for_sampling(model: Denoiser) -> Denoiser:
    """The denoiser without what only training needs (a latent student's encoder)."""
    if not (isinstance(model, NetworkDenoiser) and isinstance(model.head, LatentHead)):
        return model
    if model.head.encoder is None:
        return model
    head = model.head.without_encoder()
    slim = NetworkDenoiser(model.trunk, head, model.process, model.length, model.autocast)
    slim.vocabulary_config = model.vocabulary_config
    return slim.train(model.training)


def matching(
    objective: Objective | str | None, with_data: bool, student: Denoiser, steps: int
) -> Objective:
    """The objective of a distillation: itself, or what the name of a source of x_s means.

    Raises:
        ValueError: for a name that is none for this kind of student.
    """
    if isinstance(objective, Objective):
        return objective
    name = objective or ("forward" if with_data else "teacher-rollout")
    joint = is_joint(student)
    if not joint:
        for known in get_args(Intermediate):
            if name == known:
                return ConditionalMatching(known)
        names = get_args(Intermediate)
    else:
        name = "student" if name == "student-exact" else name
        for known in get_args(JointIntermediate):
            if name == known:
                near = joint_near(student.process)
                if isinstance(student, NetworkDenoiser) and student.kind == "latent":
                    return LatentMatching(known, near=near, kl_warmup=default_kl_warmup(steps))
                return JointConditionalMatching(known, near=near)
        names = get_args(JointIntermediate)
    kind = "joint" if joint else "product"
    raise ValueError(
        f"unknown objective {name!r} for a {kind} student; known: {', '.join(names)}, "
        "or an Objective"
    )


def build_teacher(
    process: Process, network: Network | None, length: int, seed: int, objective: Objective
) -> Denoiser:
    """A fresh denoiser; a concrete-score network where score entropy is to train it."""
    config = {"process": process.config(), "trunk": trunk_options(network), "length": length}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, _INITIAL_WEIGHTS))
        if isinstance(objective, ScoreEntropy):
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
) -> Denoiser:
    """A student of a kind, at the teacher's weights or fresh; see :func:`fewjump.distill`.

    Raises:
        ValueError: for an unknown kind, or where there is nothing to start from.
    """
    if kind not in HEADS:
        raise ValueError(f"unknown student {kind!r}; known: {', '.join(sorted(HEADS))}")
    has_weights = next(teacher.parameters(), None) is not None
    plain = kind == "product" and network is None and not head
    if has_weights and not isinstance(teacher, NetworkDenoiser):
        if plain and warm_start:
            return teacher.as_student()
        if network is None and can_save(teacher):
            assert isinstance(teacher, ScoreDenoiser)
            network_teacher = teacher.as_network()
            return build_student(network_teacher, kind, None, head, warm_start, length, seed)
        if network is None:
            raise ValueError(
                f"a {type(teacher).__name__} has no transformer to take over; give network=… for "
                "a student that starts afresh, or use student='product' with warm_start=True"
            )
    source = teacher if isinstance(teacher, NetworkDenoiser) and network is None else None
    config = {
        "process": teacher.process.config(),
        "trunk": trunk_options(source.trunk.config if source is not None else network),
        "head": {"kind": kind, **(head or {})},
        "length": length,
        "autocast": source.autocast if source is not None else None,
        "leave_one_out": source is not None and source.leave_one_out,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, _INITIAL_WEIGHTS))
        student = NetworkDenoiser.from_config(config)
    student.process = teacher.process
    if warm_start and isinstance(teacher, NetworkDenoiser):
        if student.trunk.config == teacher.trunk.config:
            student.warm_start(teacher)
        else:
            raise ValueError(
                "a warm start needs the teacher's own network sizes; leave out network=…, or "
                "pass warm_start=False"
            )
    return student


def add_adapters(model: Denoiser, teacher: Denoiser, rank: int, seed: int, own: bool) -> None:
    """Low-rank adapters over the teacher's weights in place of weights of the student's own.

    Raises:
        ValueError: where the student does not start at a transformer teacher's weights.
    """
    both = (model, teacher)
    if own or not all(isinstance(one, NetworkDenoiser | ScoreDenoiser) for one in both):
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
