"""Two verbs in Python: train a teacher from data, distil a teacher into a student.

Both run the loop of :func:`fewjump.train.train`, under torchrun on all its processes, and return
the model with averaged weights. With ``out`` the run can be killed and repeated: it goes on where
it was. The folder then holds

    model/     the result, for fewjump.load
    teacher/   the teacher (distill only)
    config.yaml, versions.json, metrics.jsonl, training_state.pt
    rounds/1/, rounds/2/, …   the earlier trainings of a distillation in rounds, each such a folder
    pairs.npy, pairs.json     samples that a round learns with their noise, where it does
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewjump.assembly import (
    Network,
    add_adapters,
    build_student,
    build_teacher,
    data_objective,
    default_source,
    matching,
    start_at,
    trunk_options,
)
from fewjump.config import changed
from fewjump.data import Dataset
from fewjump.data.dataset import labels_of, scales_of, tokens_of
from fewjump.denoiser import Denoiser
from fewjump.denoiser.wrappers import weights_checksum
from fewjump.objective import Objective, freeze
from fewjump.options.training import DISTILLATION, TEACHER_TRAINING, TrainConfig
from fewjump.process import Process
from fewjump.registry import OBJECTIVES
from fewjump.runs import (
    Round,
    coupled_with_noise,
    describe_model,
    finish,
    keeping,
    plan_rounds,
    run_folder,
    set_aside,
)
from fewjump.train import train
from fewjump.train.conditions import Numbers, conditions_for
from fewjump.train.data import Tokens


def train_teacher(
    data: Dataset | Tokens,
    process: Process,
    *,
    network: Network | Denoiser | None = None,
    objective: Objective | str = "cross-entropy",
    classes: int | None = None,
    labels: Numbers | None = None,
    label_dropout: float = 0.1,
    out: str | Path | None = None,
    accepted: Callable[[Path], object] | None = None,
    config: TrainConfig = TEACHER_TRAINING,
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
        classes: K, for a teacher that is told the class of a sequence, one of {0..K−1}
            (:mod:`fewjump.denoiser.condition`).
        labels: (N,) class of each of the training sequences; the data set's own by default.
        label_dropout: probability in [0, 1) that a training sequence is shown without its class:
            what the model says of no class is learned from these, and guidance needs it.
        out: run folder; None keeps nothing on disk.
        accepted: called with ``out`` once nothing stands against the run, to write more into it.
        config: how to optimise.
        **options: fields of it to change, such as ``steps=500, lr=1e-3``.

    Returns:
        The teacher with averaged weights, in eval mode.

    Raises:
        ValueError: for options that are unknown or do not fit together, and where ``out`` holds
            what is not this run's; see also :func:`fewjump.train.train`.
    """
    (config,) = changed(options, config)
    tokens = tokens_of(data)
    chosen = objective if isinstance(objective, Objective) else data_objective(objective)
    if chosen.needs_teacher:
        raise ValueError(f"{type(chosen).__name__} needs a teacher; use fewjump.distill")
    if isinstance(network, Denoiser):
        if network.process.config() != process.config() or classes not in (None, network.classes):
            raise ValueError(
                f"the network given has the process {network.process!r} and "
                f"{network.classes or 'no'} classes: give its own, network.process, and leave out "
                "classes"
            )
        model = network
    else:
        if len(tokens.shape) != 2:
            raise ValueError(f"data must be (N, L) tokens, got shape {tuple(tokens.shape)}")
        length = int(tokens.shape[1])
        sizes = network if classes is None else {**trunk_options(network), "classes": classes}
        model = build_teacher(process, sizes, length, config.seed, chosen)
    conditions = None
    if model.classes is not None:
        found = labels_of(data) if labels is None else labels
        if found is None:
            raise ValueError(
                "these data have no labels: give labels=…, an .npz file of tokens and labels, or "
                "leave out classes (--classes)"
            )
        conditions = conditions_for(model.classes, found, label_dropout=label_dropout)
    elif labels is not None:
        raise ValueError("labels are for a model with classes; give classes=… (--classes)")
    run = {"verb": "train", "denoiser": describe_model(model)}
    with run_folder(out):
        result = train(
            model,
            chosen,
            tokens,
            config,
            conditions=conditions,
            out=out,
            run_config=run,
            accepted=accepted,
            label="teacher",
        )
        return finish(result, out, data, chosen, config)


def distill(
    teacher: Denoiser,
    data: Dataset | Tokens | None = None,
    *,
    student: str | Denoiser = "product",
    objective: Objective | str | None = None,
    network: Network | None = None,
    head: Mapping[str, Any] | None = None,
    warm_start: bool = True,
    start: Denoiser | None = None,
    lora: int | None = None,
    labels: Numbers | None = None,
    guidance: tuple[float, float] | None = None,
    label_dropout: float = 0.1,
    out: str | Path | None = None,
    accepted: Callable[[Path], object] | None = None,
    config: TrainConfig = DISTILLATION,
    **options: Any,
) -> Denoiser:
    """Distil a teacher into a student by exact conditional distribution matching.

    A product student (one table per position) matches per position, and can at best be the teacher.
    A joint student (any other head) matches the joint conditional, and can draw dependent positions
    in one step. The encoder of a latent student comes with the model that is returned, but is not
    in ``model/``.

    Args:
        teacher: any denoiser, an exact one of a problem included. It is frozen while this runs
            and is not changed, but moves to the training's device.
        data: clean data as for :func:`train_teacher`; None distils without data, from the
            teacher's own rollouts.
        student: kind of student (``product``, ``mixture``, ``shared-mixture``, ``chain``,
            ``mixture-of-chains``, ``shared-chain``, ``autoregressive``, ``any-order``,
            ``tensor-train``, ``latent``), or a denoiser to train in place. An objective that keeps
            the teacher's network (:class:`~fewjump.objective.SamplerDistillation`) takes none, and
            nothing that shapes one.
        objective: an objective, or its name in :data:`fewjump.registry.OBJECTIVES`, with its
            default options; or the name of how x_s is drawn. For a product student
            ``forward``, ``student-euler`` (the paper's Algorithm 1), ``student-exact``,
            ``student-trapezoidal`` or ``teacher-rollout`` of
            :class:`~fewjump.objective.ConditionalMatching`; for a joint one ``forward``,
            ``student`` (or ``student-exact``, the same) or ``teacher-rollout`` of
            :class:`~fewjump.objective.JointConditionalMatching`, with s close to the data
            (:func:`~fewjump.objective.teacher_time.joint_near`). By default ``forward``, or
            ``teacher-rollout`` without data. One in rounds, such as
            :class:`~fewjump.objective.SelfDistillation`, is as many trainings, which share the
            steps.
        network: the student's transformer; the teacher's by default, and of default sizes where
            the teacher (an exact one) has none.
        head: further options of the student's head.
        warm_start: start the student at the teacher's weights, where the teacher has some and
            ``network`` does not ask for another network.
        start: a student of that kind to start at, in place of the teacher's weights; it is copied.
        lora: rank of a student that is the frozen teacher plus a low-rank difference
            (:mod:`fewjump.denoiser.lora`): the weights are in memory once. What is returned and
            saved is an ordinary denoiser. None trains every weight.
        labels: (N,) class of each training sequence, for a teacher with classes; the data set's
            own by default. Without data classes are drawn evenly.
        guidance: least and largest guidance scale. The student then takes the scale as an input,
            and answers in one evaluation as the teacher, guided by it, does in two. Each sequence
            has the scale that it was drawn with, where the data say so
            (:func:`fewjump.rollouts.rollouts`), else one drawn uniformly. Guided samples are not
            distributed as the data: without such data, x_t and x_s come from the guided teacher
            (``teacher-rollout``, then the default).
        label_dropout: as for :func:`train_teacher`.
        out: run folder; None keeps nothing on disk.
        accepted: called with ``out`` once nothing stands against the run, to write more into it.
        config: how to optimise.
        **options: fields of it to change, such as ``steps=500, lr=1e-3``.

    Returns:
        The student with averaged weights, in eval mode.

    Raises:
        ValueError: for options that are unknown or do not fit together, and where ``out`` holds
            what is not this run's; see also :func:`fewjump.train.train`.
    """
    (config,) = changed(options, config)
    if isinstance(objective, str) and objective in OBJECTIVES:
        objective = OBJECTIVES[objective]()
    tokens = None if data is None else tokens_of(data)
    length = teacher.length if tokens is None else int(tokens.shape[-1])
    if length is not None:
        teacher.check_length(length)
    own = labels_of(data) if labels is None else labels
    scales = scales_of(data) if labels is None else None
    if guidance is None and teacher.classes is not None:
        guidance = teacher.guidance_range
        if guidance is None and scales is not None:
            guidance = float(scales.min()), float(scales.max())
    conditions = conditions_for(
        teacher.classes, own, scales, guidance=guidance, label_dropout=label_dropout
    )
    if lora is not None and guidance != teacher.guidance_range:
        raise ValueError(
            "lora keeps the teacher's network, which takes no guidance scale; leave out one of them"
        )
    if labels is not None and conditions is None:
        raise ValueError("labels are for a teacher with classes, and this one has none")
    if isinstance(objective, Objective) and objective.keeps_network:
        shaped = student != "product" or network is not None or head or not warm_start
        if shaped or start is not None or lora is not None or guidance != teacher.guidance_range:
            raise ValueError(
                f"{type(objective).__name__} keeps the teacher's network and learns a sampler of "
                "it: leave out student, network, head, warm_start, start, lora and guidance (on "
                "the command line the flags of these names)"
            )
        model = teacher
    elif start is not None:
        shaped = network is not None or head or not warm_start or lora is not None
        if shaped or isinstance(student, Denoiser):
            raise ValueError(
                "a student that starts at another keeps its network and head: name its kind, and "
                "leave out network, head, warm_start and lora; or leave out start"
            )
        model = start_at(start, student, teacher, guidance)
    elif isinstance(student, Denoiser):
        if network is not None or head or not warm_start:
            raise ValueError(
                "a student that is built already has its network, head and weights: leave out "
                "network, head and warm_start, or name its kind"
            )
        model = student
    else:
        model = build_student(
            teacher, student, network, head, warm_start, length, config.seed, guidance
        )
    if model.vocabulary_config is None:
        model.vocabulary_config = teacher.vocabulary_config

    with run_folder(out), set_aside(teacher):
        if lora is not None:
            fresh = isinstance(student, Denoiser) or not warm_start
            add_adapters(model, teacher, lora, config.seed, fresh)
        if isinstance(objective, Objective):
            chosen = objective
        else:
            like_data = data is not None and (guidance is None or scales is not None)
            chosen = matching(model.kind, objective or default_source(like_data))
        if conditions is not None and conditions.labels is None and chosen.needs_data:
            raise ValueError(
                "the teacher has classes, and these data have no labels: give labels=…, an .npz "
                "file of tokens and labels, or objective='teacher-rollout' (--matching)"
            )
        if guidance is not None and scales is None and not chosen.needs_teacher:
            raise ValueError(
                f"{type(chosen).__name__} learns the data as they are, and a guidance scale is of "
                "guided samples: give some that say theirs (fewjump rollouts --guidance), leave "
                "guidance out, or use --method matching"
            )
        run = {"verb": "distill", "denoiser": describe_model(model), "warm_start": warm_start}
        if lora is not None:
            run["lora"] = lora
        if start is not None:
            run["start"] = weights_checksum(start)
        # The last training's folder is the run's own; while it is not begun, nothing may lie there
        # that would look like another run's: options do not.
        keep = keeping(teacher, data, accepted)
        early = None if accepted is None or out is None else lambda _: accepted(Path(out))

        def learn(
            each: Round, model: Denoiser, teacher: Denoiser, told: Callable[[Path], object] | None
        ) -> Denoiser:
            here, on = tokens, conditions
            if each.objective.coupled:
                pairs = coupled_with_noise(teacher, each, model, length, guidance)
                here, on = (
                    pairs.train,
                    conditions
                    and replace(conditions, labels=labels_of(pairs), scales=scales_of(pairs)),
                )
            result = train(
                each.objective.trained(model, teacher, each.config.seed),
                each.objective,
                here,
                each.config,
                teacher=teacher,
                length=length,
                conditions=on,
                out=each.folder,
                run_config=run,
                accepted=told,
                label=each.label,
            )
            return finish(result, each.folder, data, each.objective, each.config)

        *earlier, last = plan_rounds(chosen, config, out)
        for each in earlier:
            teacher = learn(each, model, teacher, early)
            model = copy.deepcopy(teacher).requires_grad_(True)
            freeze(teacher)
            if lora is not None:
                add_adapters(model, teacher, lora, each.config.seed, False)
        return learn(last, model, teacher, keep)
