"""The third verb in Python: refine a distilled student on its own samples.

The run folder is that of :mod:`fewjump.api`: ``model/`` is the refined student, ``teacher/`` the
teacher, and repeating the call on the folder goes on where it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewjump.assembly import values_for
from fewjump.config import changed
from fewjump.data import Dataset
from fewjump.data.dataset import tokens_of
from fewjump.denoiser import Denoiser
from fewjump.denoiser.wrappers import weights_checksum
from fewjump.objective import OnPolicyRefinement, RewardRefinement, freeze
from fewjump.objective.on_policy import StudentWithAuxiliary, auxiliary_for
from fewjump.options.matching import KnownOptions
from fewjump.options.sampled import (
    GuardOptions,
    OnPolicyOptions,
    RewardOptions,
    StatesName,
)
from fewjump.options.training import REFINEMENT, TrainConfig
from fewjump.random import fold_seed
from fewjump.runs import describe_model, finish, keeping, run_folder, set_aside
from fewjump.sampler import sample
from fewjump.sampler.run import prompt_of_kept
from fewjump.train import TrainResult, train
from fewjump.train.data import Tokens
from fewjump.train.ema import ExponentialMovingAverage
from fewjump.train.monitor import DiversityError, DiversityGuard
from fewjump.train.state_store import load_weights

_GUARD_SEED = 5


def refine(
    student: Denoiser,
    teacher: Denoiser | None = None,
    data: Dataset | Tokens | None = None,
    *,
    source: StatesName | None = None,
    auxiliary: Denoiser | None = None,
    out: str | Path | None = None,
    accepted: Callable[[Path], object] | None = None,
    on_policy: OnPolicyOptions | None = None,
    rewards: RewardOptions | None = None,
    shown: KnownOptions | None = None,
    bounds: GuardOptions | None = None,
    config: TrainConfig = REFINEMENT,
    **options: Any,
) -> Denoiser:
    """Refine a few-step student on its own samples, against its teacher or by a reward.

    A stage for after :func:`fewjump.distill`. Against a teacher it lowers the reverse KL between
    what the student emits and the teacher's chain
    (:class:`~fewjump.objective.OnPolicyRefinement`). By a reward it raises what the samples are
    worth, and holds the student to where it starts
    (:class:`~fewjump.objective.RewardRefinement`). Before a state is saved, every ``save_every``
    steps, and at the end, the entropies of the student's samples must lie in a band
    (:class:`~fewjump.train.monitor.DiversityGuard`), or the run stops.

    Args:
        student: the denoiser to refine; product or joint. It is copied, not changed.
        teacher: frozen while this runs, not changed, but moved to the training's device. Needed,
            unless there is a reward; then there is none.
        data: clean data as for :func:`fewjump.distill`, or None.
        source: ``forward`` (states from noised data) or ``student`` (its own); by default
            ``forward`` with data, else ``student``.
        auxiliary: network that learns the student's samples; by default a copy of the teacher, or
            for a teacher without weights a product network on a copy of the student's trunk.
        out: run folder; None keeps nothing on disk.
        accepted: called with ``out`` once nothing stands against the run, to write more into it.
        on_policy: what is minimised, and for which sampler.
        rewards: the reward, and how closely the student is held.
        shown: with a reward: a part of every sequence of the data that is given.
        bounds: the guard.
        config: how to optimise.
        **options: fields of these to change, such as ``lr=1e-4, jumps=2, auxiliary_steps=100,
            band=(0.5, 2)`` or ``reward=is_board, anchor=0.05``
            (:class:`~fewjump.options.sampled.OnPolicyOptions`,
            :class:`~fewjump.options.sampled.RewardOptions`,
            :class:`~fewjump.options.matching.KnownOptions`,
            :class:`~fewjump.options.sampled.GuardOptions`).

    Returns:
        The refined student with averaged weights, in eval mode.

    Raises:
        ValueError: for options that do not fit together, for a student with classes, and where
            ``out`` holds what is not this run's; see also :func:`fewjump.train.train`.
        DiversityError: if the student left the band. With ``out``, ``model/`` then holds the last
            good one.
    """
    if student.classes is not None:
        raise ValueError(
            "refine is for students without classes; distil one for a range of guidance instead "
            "(guidance=(low, high), --guidance LOW HIGH)"
        )
    given = (
        on_policy or OnPolicyOptions(),
        rewards or RewardOptions(),
        shown or KnownOptions(),
        bounds or GuardOptions(),
        config,
    )
    minimised, rewarded, parts, limits, config = changed(options, *given)
    by_reward = rewarded.reward is not None
    if by_reward and (teacher is not None or auxiliary is not None):
        raise ValueError(
            "a reward holds the student to its own start, and no network learns its samples: leave "
            "teacher and auxiliary out, or the reward"
        )
    if not by_reward and teacher is None:
        raise ValueError("refine needs the student's teacher, or a reward (reward=…)")
    if teacher is not None and teacher.process.config() != student.process.config():
        raise ValueError(
            f"the teacher has the noise {teacher.process!r} and the student {student.process!r}: "
            "give the teacher that the student was distilled from"
        )
    tokens = None if data is None else tokens_of(data)
    chosen = source or ("student" if tokens is None else "forward")
    kind = RewardRefinement if by_reward else OnPolicyRefinement
    objective = kind(chosen, **values_for(kind, (minimised, rewarded, parts)))
    if tokens is None and objective.needs_data:
        raise ValueError("source='forward' and known= begin from data: give some")
    length = student.length if tokens is None else int(tokens.shape[-1])
    if length is None:
        raise ValueError("the student has no length of its own; give data")
    own = copy.deepcopy(student).requires_grad_(True)
    model, told = own, {}
    if teacher is None:
        teacher = freeze(copy.deepcopy(student))
    else:
        if auxiliary is None:
            helper = auxiliary_for(teacher, own, config.seed)
        else:
            helper = copy.deepcopy(auxiliary).requires_grad_(True)
        model = StudentWithAuxiliary(own, helper, minimised.auxiliary_lr)
        told = {"auxiliary": describe_model(helper)}
    for each in (student, teacher):
        each.check_length(length)
    # What draws have in common with data beside their law: where they end, what frames them.
    rows = None if tokens is None else torch.as_tensor(tokens[: limits.guard_samples]).long()

    def few() -> Tensor:
        given = prompt_of_kept(student.process, None if rows is None else rows[:1].expand(2, -1))
        return sample(student, 2, 1, length=length, generator=config.seed, **given)

    objective.rehearse(few)
    run = {
        "verb": "refine",
        "denoiser": describe_model(own),
        "start": weights_checksum(own),
        **told,
    }

    def watch() -> None:
        if not limits.guard:
            return
        seed = fold_seed(config.seed, _GUARD_SEED)
        objective.watch(
            DiversityGuard(
                own,
                None if by_reward else teacher,
                grid=objective.few_step_times(),
                length=length,
                samples=limits.guard_samples,
                rows=rows,
                band=limits.band,
                seed=seed,
            )
        )

    with run_folder(out):
        stopped = {}
        try:
            with set_aside(teacher):
                result = train(
                    model,
                    objective,
                    tokens,
                    config,
                    teacher=teacher,
                    length=length,
                    out=out,
                    run_config=run,
                    accepted=keeping(teacher, data, accepted),
                    prepare=watch,
                    label="refine",
                )
        except DiversityError as error:
            if out is None:
                raise DiversityError(
                    f"{error}. Nothing was saved: give out=… to keep the last good student"
                ) from None
            result, stopped = _last_good(model, Path(out), config), {"stopped_by_guard": str(error)}
        refined = finish(result, out, data, objective, config, **stopped)
        if stopped:
            raise DiversityError(
                f"{stopped['stopped_by_guard']}. The last good student, of step {result.step}, is "
                f"in {Path(str(out)) / 'model'}"
            )
        return refined


def _last_good(model: Denoiser, out: Path, config: TrainConfig) -> TrainResult:
    """What the run had when its state was last saved."""
    average = None if config.ema is None else ExponentialMovingAverage(model, config.ema)
    return TrainResult(model, average, load_weights(out, model, average))
