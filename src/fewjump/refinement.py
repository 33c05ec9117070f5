"""The third verb in Python: refine a distilled student on its own samples.

The run folder is that of :mod:`fewjump.api`: ``model/`` is the refined student, ``teacher/`` the
teacher, and repeating the call on the folder goes on where it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fewjump.assembly import train_config
from fewjump.data import Dataset
from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser
from fewjump.denoiser.wrappers import unwrapped, weights_checksum
from fewjump.objective import OnPolicyRefinement
from fewjump.objective.auxiliary import StudentWithAuxiliary
from fewjump.objective.on_policy import Estimator, Source
from fewjump.random import fold_seed
from fewjump.runs import describe_model, keep_model, keep_teacher, run_folder, set_aside
from fewjump.train import TrainConfig, train
from fewjump.train.data import Tokens
from fewjump.train.diversity import DiversityError, DiversityGuard
from fewjump.train.ema import ExponentialMovingAverage
from fewjump.train.keeper import load_weights

_GUARD_SEED, _AUXILIARY_WEIGHTS = 5, 6


def refine(
    student: Denoiser,
    teacher: Denoiser,
    data: Dataset | Tokens | None = None,
    *,
    jumps: int | None = None,
    grid: Sequence[float] | None = None,
    source: Source | None = None,
    estimator: Estimator = "auto",
    draws: int = 4,
    data_weight: float = 0.0,
    auxiliary: Denoiser | None = None,
    auxiliary_lr: float = 3.0,
    auxiliary_steps: int = 200,
    band: tuple[float, float] | None = (0.7, 1.3),
    guard_samples: int = 256,
    steps: int = 1000,
    batch_size: int = 128,
    lr: float = 1e-4,
    ema: float | None = 0.99,
    save_every: int = 100,
    seed: int = 0,
    out: str | Path | None = None,
    accepted: Callable[[Path], object] | None = None,
    **options: Any,
) -> Denoiser:
    """Lower the reverse KL between what a few-step student emits and its teacher's chain.

    A stage for after :func:`fewjump.distill`; see
    :class:`~fewjump.objective.OnPolicyRefinement` for what is minimised and how. The student's
    variety is watched: before a state is saved, every ``save_every`` steps, and at the end, the
    entropies of its samples must lie in a band
    (:class:`~fewjump.train.diversity.DiversityGuard`), or the run stops.

    Args:
        student: the denoiser to refine; product or joint. It is copied, not changed.
        teacher: frozen while this runs, not changed, but moved to the training's device.
        data: clean data as for :func:`fewjump.distill`, or None.
        jumps: steps of the sampler that is refined, equal ones; 1 by default.
        grid: its times from 1 to 0, in place of ``jumps``.
        source: ``forward`` (states from noised data) or ``student`` (its own); by default
            ``forward`` with data, else ``student``.
        estimator, draws, data_weight: see :class:`~fewjump.objective.OnPolicyRefinement`.
        auxiliary: network that learns the student's samples; by default a copy of the teacher, or
            for a teacher without weights a product network on a copy of the student's trunk.
        auxiliary_lr: its learning rate, as a multiple of ``lr``.
        auxiliary_steps: steps in which it learns alone, included in ``steps``.
        band: (low, high) of the guard; None for no guard.
        guard_samples: sequences each of its measurements draws.
        steps, batch_size, lr, ema, save_every, seed: see :class:`~fewjump.train.TrainConfig`.
        out: run folder; None keeps nothing on disk.
        accepted: called with ``out`` once nothing stands against the run, to write more into it.
        **options: other fields of :class:`~fewjump.train.TrainConfig`.

    Returns:
        The refined student with averaged weights, in eval mode.

    Raises:
        ValueError: for options that do not fit together, and where ``out`` holds what is not this
            run's; see also :func:`fewjump.train.train`.
        DiversityError: if the student left the band. With ``out``, ``model/`` then holds the last
            good one.
    """
    config = train_config(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        ema=ema,
        save_every=save_every,
        seed=seed,
        **options,
    )
    if auxiliary_steps >= steps:
        raise ValueError(
            f"auxiliary_steps ({auxiliary_steps}) leaves the student none of the {steps} steps; "
            "lower it, or raise steps"
        )
    tokens = data.train if isinstance(data, Dataset) else data
    chosen_source: Source = source or ("student" if tokens is None else "forward")
    if grid is None and jumps is None:
        jumps = 1
    objective = OnPolicyRefinement(
        chosen_source,
        steps=jumps,
        grid=grid,
        draws=draws,
        estimator=estimator,
        warmup=auxiliary_steps,
        data_weight=data_weight,
    )
    length = student.length if tokens is None else int(tokens.shape[-1])
    if length is None:
        raise ValueError("the student has no length of its own; give data")
    for model in (student, teacher):
        model.check_length(length)
    own = copy.deepcopy(student).requires_grad_(True)
    helper = _auxiliary(auxiliary, teacher, own, seed)
    pair = StudentWithAuxiliary(own, helper, auxiliary_lr)
    run = {
        "verb": "refine",
        "denoiser": describe_model(own),
        "start": weights_checksum(own),
        "auxiliary": describe_model(helper),
        "auxiliary_lr": auxiliary_lr,
    }

    def keep(folder: Path) -> None:
        keep_teacher(teacher, folder, data)
        if accepted is not None:
            accepted(folder)

    with run_folder(out):
        try:
            with set_aside(teacher):
                objective.check(pair, teacher)
                if band is not None:
                    objective.watch(
                        DiversityGuard(
                            own,
                            teacher,
                            grid=objective.grid,
                            length=length,
                            samples=guard_samples,
                            band=band,
                            seed=fold_seed(seed, _GUARD_SEED),
                        )
                    )
                result = train(
                    pair,
                    objective,
                    tokens,
                    config,
                    teacher=teacher,
                    length=length,
                    out=out,
                    run_config=run,
                    accepted=keep,
                    label="refine",
                )
        except DiversityError as error:
            message = _rescue(str(error), pair, out, data, objective, config)
            raise DiversityError(message) from None
        averaged = result.averaged()
        assert isinstance(averaged, StudentWithAuxiliary)
        seconds = result.metrics.get("seconds")
        return _keep(averaged.student, out, data, objective, config, result.step, seconds=seconds)


def _auxiliary(given: Denoiser | None, teacher: Denoiser, student: Denoiser, seed: int) -> Denoiser:
    if given is not None:
        return copy.deepcopy(given).requires_grad_(True)
    product = isinstance(teacher, NetworkDenoiser) and teacher.kind == "product"
    if product or isinstance(teacher, ScoreDenoiser):
        return teacher.as_student()
    if not isinstance(student, NetworkDenoiser):
        raise ValueError(
            f"neither a {type(teacher).__name__} nor a {type(student).__name__} says what the "
            "auxiliary network should be; give auxiliary=…, a denoiser with a product law"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_seed(seed, _AUXILIARY_WEIGHTS))
        helper = NetworkDenoiser.from_config({**student.config(), "head": {"kind": "product"}})
    helper.trunk.load_state_dict(unwrapped(student.trunk).state_dict())
    helper.process = student.process
    return helper


def _keep(
    student: Denoiser,
    out: str | Path | None,
    data: Dataset | Tokens | None,
    objective: OnPolicyRefinement,
    config: TrainConfig,
    step: int,
    **more: Any,
) -> Denoiser:
    """The student in eval mode, written to ``model/`` if there is a run folder."""
    student.eval()
    keep_model(student, out, data, objective, config, step, **more)
    return student


def _rescue(
    message: str,
    pair: StudentWithAuxiliary,
    out: str | Path | None,
    data: Dataset | Tokens | None,
    objective: OnPolicyRefinement,
    config: TrainConfig,
) -> str:
    """Write the last good student to ``model/``; the message that says so."""
    if out is None:
        return f"{message}. Nothing was saved: give out=… to keep the last good student"
    average = None if config.ema is None else ExponentialMovingAverage(pair, config.ema)
    step = load_weights(Path(out), pair, average)
    if average is not None:
        average.copy_to(pair)
    _keep(pair.student, out, data, objective, config, step, stopped_by_guard=message)
    return f"{message}. The last good student, of step {step}, is in {Path(out) / 'model'}"
