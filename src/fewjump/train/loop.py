"""The training loop: one function, exact to resume, the same on any number of processes.

Step n draws from per-sample streams seeded by (seed, n) and indexed by the sample's place in the
step's whole batch, and its data come from a stateless permutation. So what a step computes depends
on the weights, the optimiser and n only; accumulation and distribution split the batch without
changing it; and resuming needs nothing but weights, optimiser, average and n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fewjump.denoiser.base import Denoiser
from fewjump.lock import sole_writer
from fewjump.objective.base import Objective
from fewjump.options.training import TrainConfig
from fewjump.train.conditions import Conditions
from fewjump.train.data import Tokens
from fewjump.train.distributed import join_world, stop_on_signal
from fewjump.train.setup import (
    blocks_checkpointed,
    networks_in_low_precision,
    open_data,
    run_identity,
    split_models,
)
from fewjump.train.state import begun_as, check_identity
from fewjump.train.trainer import Trainer, TrainResult


def train(
    student: Denoiser,
    objective: Objective,
    data: Tokens | None,
    config: TrainConfig,
    *,
    teacher: Denoiser | None = None,
    length: int | None = None,
    conditions: Conditions | None = None,
    out: str | Path | None = None,
    run_config: Mapping[str, Any] | None = None,
    accepted: Callable[[Path], object] | None = None,
    prepare: Callable[[], object] | None = None,
    label: str = "train",
) -> TrainResult:
    """Train a denoiser in place; under torchrun, on all its processes.

    With ``out``, the state is saved every ``save_every`` steps, and the same call on the same
    folder goes on where the last checkpoint is: on the CPU the final weights equal those of an
    uninterrupted run bit for bit (same machine, same number of threads). The call may change
    what :data:`fewjump.options.training.FREE_OPTIONS` names, ``steps`` not below those done, and
    the number of processes; anything else is another run. While it lasts no other process may write
    to the folder (:func:`fewjump.lock.sole_writer`).

    Args:
        student: trained in place, moved to the chosen device; one whose weights are all in half
            precision is widened to float32, in which small updates are not lost.
        data: (N, L) clean tokens, or None for an objective that needs none.
        teacher: frozen (:func:`fewjump.objective.freeze`), moved to the device; or None.
        length: sequence length when there are no data; the student's own by default.
        conditions: classes and guidance scales of the sequences, for models with classes: student
            and teacher are then asked under the same ones.
        out: run folder: config.yaml, versions.json, metrics.jsonl, training_state.pt.
        run_config: plain data that identify the run beyond ``config`` (process, network, …); part
            of what must be equal to resume.
        accepted: called by the main process with ``out`` once nothing stands against the run, to
            write more into it; nothing is written there before.
        prepare: called on every process before the models are split and trained, once the folder is
            known not to be another run's: for what costs time.

    Raises:
        ValueError: for data or options that do not fit together.
        ResumeError: if ``out`` holds a run of another configuration, or a damaged state.
        BusyError: if another process writes to ``out``.
        OSError: naming the file, where the disk is full or ``out`` cannot be written.
        DivergenceError: at the first loss or gradient that is not finite.
        TrainingInterrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    _widen(student)
    objective.check(student, teacher)
    if not any(p.requires_grad for p in student.parameters()):
        raise ValueError("the student has no parameters to train")
    source, rows, width = open_data(objective, data, config, student, length)
    if conditions is not None:
        conditions.check(student, teacher, None if source is None else source.rows)
    elif student.classes is not None:
        raise ValueError(
            f"the student has {student.classes} classes, and nothing says which sequence is of "
            "which: give conditions=Conditions(…), or use fewjump.train_teacher and distill"
        )
    folder = Path(out) if out is not None else None
    begun = begun_as(folder)
    objective.settle(student, config.steps, begun.get("objective") or {})
    hold = nullcontext() if folder is None else sole_writer(folder)
    with hold, join_world(config.device) as world, stop_on_signal() as stop:
        if config.batch_size % (world.size * config.accumulate):
            raise ValueError(
                f"batch_size ({config.batch_size}) must be a multiple of accumulate × processes "
                f"({config.accumulate} × {world.size})"
            )
        identity = run_identity(
            config, run_config, rows, width, objective, student, teacher, conditions
        )
        if begun and folder is not None:
            check_identity(folder, begun, identity)
        if prepare is not None:
            prepare()
        student.train()
        try:
            with split_models(student, teacher, config, world) as models:
                trainer = Trainer(models, objective, source, width, config, world, conditions)
                with (
                    networks_in_low_precision((models.student, models.teacher), config, world),
                    blocks_checkpointed(models.student, config),
                ):
                    trainer.attach(folder, identity, label, accepted)
                    result = trainer.run(stop)
                if result.ema is not None:
                    result.ema.gather()
        finally:
            student.eval()
        result.student = student
        return result


def _widen(student: Denoiser) -> None:
    """Put a network in half precision into float32; frozen weights under adapters stay as they are.

    An update of a thousandth of a weight is less than what bfloat16 can tell apart.
    """
    parameters = list(student.parameters())
    half = any(p.is_floating_point() and p.dtype.itemsize < 4 for p in parameters)
    if half and all(p.requires_grad for p in parameters):
        student.float()
