"""Two verbs in Python: train a teacher from data, distil a teacher into a student.

Both run the loop of :func:`fewjump.train.train`, under torchrun on all its processes, and return
the model with averaged weights. With ``out`` the run can be killed and repeated: it goes on where
it was. The folder then holds

    model/     the result, for fewjump.load
    teacher/   the teacher (distill only)
    config.yaml, versions.json, metrics.jsonl, training_state.pt
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from fewjump.checkpoint import save
from fewjump.config import ConfigError, from_dict
from fewjump.data import Dataset
from fewjump.denoiser import (
    HEADS,
    Denoiser,
    LatentHead,
    NetworkDenoiser,
    ScoreDenoiser,
    ScoreNetwork,
    TransformerConfig,
)
from fewjump.denoiser.huggingface import HuggingFaceConfig
from fewjump.denoiser.low_rank import adapt, is_low_rank, merged
from fewjump.objective import (
    ConditionalMatching,
    CrossEntropyELBO,
    JointConditionalMatching,
    LatentMatching,
    Objective,
    ScoreEntropy,
    freeze,
)
from fewjump.objective.conditional import Intermediate
from fewjump.objective.joint import JointIntermediate
from fewjump.process import Absorbing, Process
from fewjump.random import fold_seed
from fewjump.train import TrainConfig, TrainResult, train
from fewjump.train.data import Tokens
from fewjump.train.setup import describe

Network = TransformerConfig | Mapping[str, Any]

_INITIAL_WEIGHTS = 4


def train_teacher(
    data: Dataset | Tokens,
    process: Process,
    *,
    network: Network | Denoiser | None = None,
    objective: Objective | str = "cross-entropy",
    steps: int = 2000,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    out: str | Path | None = None,
    **options: Any,
) -> Denoiser:
    """Train a denoiser from clean data.

    Args:
        data: a :class:`~fewjump.data.Dataset` (its training part is used), or (N, L) tokens.
        process: the forward process; an absorbing one counts its mask on top of the data's tokens.
        network: sizes of the transformer (a TransformerConfig, or its options without
            ``vocab_size``), or a denoiser to train in place.
        objective: ``cross-entropy`` (fast, the default), ``elbo`` (the likelihood bound),
            ``score-entropy`` (trains a concrete-score network), or an objective.
        steps, batch_size, lr, seed: of the training; see :class:`~fewjump.train.TrainConfig`.
        out: run folder; None keeps nothing on disk.
        **options: other fields of :class:`~fewjump.train.TrainConfig` (``ema``, ``warmup``, …).

    Returns:
        The teacher with averaged weights, in eval mode.

    Raises:
        ValueError: for options that are unknown or do not fit together; see also
            :func:`fewjump.train.train`.
    """
    config = _train_config(steps=steps, batch_size=batch_size, lr=lr, seed=seed, **options)
    tokens = data.train if isinstance(data, Dataset) else data
    chosen = objective if isinstance(objective, Objective) else _data_objective(objective)
    if chosen.needs_teacher:
        raise ValueError(f"{type(chosen).__name__} needs a teacher; use fewjump.distill")
    if isinstance(network, Denoiser):
        model = network
    else:
        if len(tokens.shape) != 2:
            raise ValueError(f"data must be (N, L) tokens, got shape {tuple(tokens.shape)}")
        model = _build(process, network, int(tokens.shape[1]), seed, chosen)
    run = {"verb": "train", "denoiser": _describe_model(model)}
    result = train(model, chosen, tokens, config, out=out, run_config=run, label="teacher")
    return _finish(result, out, data, chosen, config)


def distill(
    teacher: Denoiser,
    data: Dataset | Tokens | None = None,
    *,
    student: str | Denoiser = "product",
    objective: Objective | str | None = None,
    network: Network | None = None,
    head: Mapping[str, Any] | None = None,
    warm_start: bool = True,
    lora: int | None = None,
    steps: int = 2000,
    batch_size: int = 128,
    lr: float = 3e-4,
    ema: float | None = 0.999,
    seed: int = 0,
    out: str | Path | None = None,
    **options: Any,
) -> Denoiser:
    """Distil a teacher into a student by exact conditional distribution matching.

    A product student (one table per position) matches per position, and can at best be the
    teacher. A joint student (``mixture``, ``chain``, ``mixture-of-chains``, ``autoregressive``,
    ``latent``) matches the joint conditional, and can draw dependent positions in one step. The
    encoder of a latent student comes with the model that is returned, but is not in ``model/``.

    Args:
        teacher: any denoiser, an exact one of a problem included. It is frozen while this runs
            and is not changed, but moves to the training's device.
        data: clean data as for :func:`train_teacher`; None distils without data, from the
            teacher's own rollouts.
        student: kind of student (a head: ``product``, ``chain``, …), or a denoiser to train in
            place.
        objective: an objective, or the name of how x_s is drawn. For a product student
            ``forward``, ``student-euler`` (the paper's Algorithm 1), ``student-exact``,
            ``student-trapezoidal`` or ``teacher-rollout`` of
            :class:`~fewjump.objective.ConditionalMatching`; for a joint one
            ``forward``, ``student`` (or ``student-exact``, the same) or ``teacher-rollout`` of
            :class:`~fewjump.objective.JointConditionalMatching`, with s close to the data
            (:func:`joint_near`). By default ``forward``, which is exact and free, or
            ``teacher-rollout`` without data.
        network: the student's transformer; the teacher's by default. Needed for no teacher, but
            an exact teacher has none, and then the default sizes are used.
        head: further options of the student's head.
        warm_start: start the student at the teacher's weights, where the teacher has some and
            ``network`` does not ask for another network.
        lora: rank of a student that is the frozen teacher plus a low-rank difference
            (:mod:`fewjump.denoiser.low_rank`): the weights are in memory once. What is returned
            and saved is an ordinary denoiser. None trains every weight.
        steps, batch_size, lr, ema, seed: see :class:`~fewjump.train.TrainConfig`.
        out: run folder; None keeps nothing on disk.
        **options: other fields of :class:`~fewjump.train.TrainConfig`.

    Returns:
        The student with averaged weights, in eval mode.

    Raises:
        ValueError: for options that are unknown or do not fit together; see also
            :func:`fewjump.train.train`.
    """
    config = _train_config(steps=steps, batch_size=batch_size, lr=lr, ema=ema, seed=seed, **options)
    tokens = data.train if isinstance(data, Dataset) else data
    length = teacher.length if tokens is None else int(tokens.shape[-1])
    if isinstance(student, Denoiser):
        model = student
    else:
        model = _build_student(teacher, student, network, head, warm_start, length, seed)
    if model.vocabulary_config is None:
        model.vocabulary_config = teacher.vocabulary_config
    trained = [p for p in teacher.parameters() if p.requires_grad]
    if lora is not None:
        _adapt(model, teacher, lora, seed, own=isinstance(student, Denoiser) or not warm_start)
    chosen = _matching(objective, data is not None, model, steps)
    run = {
        "verb": "distill",
        "denoiser": _describe_model(model),
        "warm_start": warm_start,
    }
    if lora is not None:
        run["lora"] = lora
    was_training = teacher.training
    freeze(teacher)
    try:
        chosen.check(model, teacher)
        if out is not None and _is_main() and _can_save(teacher):
            Path(out).mkdir(parents=True, exist_ok=True)
            if not (Path(out) / "teacher").exists():
                save(teacher, Path(out) / "teacher", vocabulary=_vocabulary(data, teacher))
        result = train(
            model,
            chosen,
            tokens,
            config,
            teacher=teacher,
            length=length,
            out=out,
            run_config=run,
            label="distill",
        )
    finally:
        teacher.train(was_training)
        for parameter in trained:
            parameter.requires_grad_(True)
    return _finish(result, out, data, chosen, config)


# -- putting together ---------------------------------------------------------------------------


def _train_config(**options: Any) -> TrainConfig:
    try:
        return from_dict(TrainConfig, options)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _data_objective(name: str) -> Objective:
    known = {
        "cross-entropy": lambda: CrossEntropyELBO("uniform"),
        "elbo": lambda: CrossEntropyELBO("elbo"),
        "score-entropy": ScoreEntropy,
    }
    if name not in known:
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(known)}, or an Objective")
    return known[name]()


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


def _matching(
    objective: Objective | str | None, with_data: bool, student: Denoiser, steps: int
) -> Objective:
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


def _build(
    process: Process, network: Network | None, length: int, seed: int, objective: Objective
) -> Denoiser:
    """A fresh denoiser; a concrete-score network where score entropy is to train it."""
    config = {"process": process.config(), "trunk": _trunk(network), "length": length}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, _INITIAL_WEIGHTS))
        if isinstance(objective, ScoreEntropy):
            model: Denoiser = ScoreDenoiser.from_config(config)
        else:
            model = NetworkDenoiser.from_config(config)
    # The caller's own object, not an equal one.
    model.process = process
    return model


def _build_student(
    teacher: Denoiser,
    kind: str,
    network: Network | None,
    head: Mapping[str, Any] | None,
    warm_start: bool,
    length: int | None,
    seed: int,
) -> Denoiser:
    # Heads other than the product one register themselves when their module is imported.
    if kind not in HEADS:
        raise ValueError(f"unknown student {kind!r}; known: {', '.join(sorted(HEADS))}")
    has_weights = next(teacher.parameters(), None) is not None
    plain = kind == "product" and network is None and not head
    if has_weights and not isinstance(teacher, NetworkDenoiser):
        if plain and warm_start:
            model = copy.deepcopy(teacher).requires_grad_(True)
            model.evaluations = 0
            return model
        if network is None and _can_save(teacher):
            assert isinstance(teacher, ScoreDenoiser)
            network_teacher = teacher.as_network()
            return _build_student(network_teacher, kind, None, head, warm_start, length, seed)
        if network is None:
            raise ValueError(
                f"a {type(teacher).__name__} has no transformer to take over; give network=… for "
                "a student that starts afresh, or use student='product' with warm_start=True"
            )
    source = teacher if isinstance(teacher, NetworkDenoiser) and network is None else None
    config = {
        "process": teacher.process.config(),
        "trunk": _trunk(source.trunk.config if source is not None else network),
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


def _adapt(model: Denoiser, teacher: Denoiser, rank: int, seed: int, own: bool) -> None:
    if own or not isinstance(model, NetworkDenoiser) or not isinstance(teacher, NetworkDenoiser):
        raise ValueError(
            "lora starts at a transformer teacher's weights: give the kind of student by name, "
            "with warm_start=True"
        )
    adapt(model, teacher, rank, seed=seed)


def _trunk(network: Network | HuggingFaceConfig | None) -> dict[str, Any]:
    if isinstance(network, TransformerConfig | HuggingFaceConfig):
        return network.config()
    return dict(network or {})


# -- writing down -------------------------------------------------------------------------------


def _describe_model(model: Denoiser) -> Any:
    """The denoiser's own configuration, or for foreign networks its class and process."""
    if _can_save(model):
        assert isinstance(model, NetworkDenoiser | ScoreDenoiser)
        return model.config()
    return {"class": type(model).__qualname__, "process": model.process.config()}


def _can_save(model: Denoiser) -> bool:
    if isinstance(model, ScoreDenoiser):
        return isinstance(model.network, ScoreNetwork)
    return isinstance(model, NetworkDenoiser)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _vocabulary(data: Dataset | Tokens | None, model: Denoiser | None = None) -> Any:
    """What the data say of their tokens; else what the model does, which may be nothing."""
    if isinstance(data, Dataset):
        return data.vocabulary
    return None if model is None else model.vocabulary_config


def _finish(
    result: TrainResult,
    out: str | Path | None,
    data: Dataset | Tokens | None,
    objective: Objective,
    config: TrainConfig,
) -> Denoiser:
    model = result.averaged()
    if isinstance(model, NetworkDenoiser) and is_low_rank(model):
        model = merged(model)
    if out is not None and _is_main() and _can_save(model):
        training = {
            "objective": describe(objective),
            "steps": result.step,
            "batch_size": config.batch_size,
            "lr": config.lr,
            "ema": config.ema,
            "seed": config.seed,
            "stopped_by_time": result.stopped_by_time,
            "seconds": result.metrics.get("seconds"),
        }
        slim = for_sampling(model)
        save(slim, Path(out) / "model", vocabulary=_vocabulary(data, model), training=training)
    return model
