"""The state of one training: its steps, what is watched, what is written."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fewjump.denoiser.base import Condition, Denoiser
from fewjump.denoiser.condition import ConditionedDenoiser
from fewjump.files import check_readable
from fewjump.objective.base import Objective
from fewjump.options.training import FREE_OPTIONS, TrainConfig
from fewjump.random import SampleStreams, fold_seed, seed_dropout
from fewjump.train.conditions import Conditions
from fewjump.train.data import TokenData
from fewjump.train.diagnostics import Diagnostics
from fewjump.train.distributed import StopRequest, TrainingInterrupted, World, whole
from fewjump.train.ema import ExponentialMovingAverage
from fewjump.train.log import METRICS_FILE, RunFolder, TrainingProgress
from fewjump.train.loss import Loss
from fewjump.train.monitor import DivergenceError, Monitor, diagnosis, kept_in, not_finite
from fewjump.train.setup import (
    CONDITION_STREAM,
    DROPOUT_STREAM,
    MONITOR_STREAM,
    NOISE_STREAM,
    SplitModels,
    build_optimiser,
    compile_network,
)
from fewjump.train.state import ResumeError, read_config
from fewjump.train.state_store import StateStore


class Trainer:
    """State of one run; see :func:`fewjump.train.train`, which makes it."""

    def __init__(
        self,
        models: SplitModels,
        objective: Objective,
        source: TokenData | None,
        width: int,
        config: TrainConfig,
        world: World,
        conditions: Conditions | None = None,
    ) -> None:
        self.models, self.config, self.world = models, config, world
        self.conditions = conditions
        self.student = student = models.student
        self.source, self.width = source, width
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.optimiser = build_optimiser(self.parameters, config)
        self.ema = None
        if config.ema is not None:
            self.ema = ExponentialMovingAverage(student, config.ema)
        if config.compile:
            compile_network(student)
        self.objective = objective
        self.loss: nn.Module = Loss(student, models.teacher, objective)
        if world.size > 1 and not models.split:
            cards = [world.device] if world.device.type == "cuda" else None
            self.loss = DistributedDataParallel(
                self.loss, device_ids=cards, broadcast_buffers=False
            )
        self.step = 0
        self.seconds = 0.0
        self.window: dict[str, Tensor] = {}
        self.window_steps = 0
        self.last: dict[str, Any] = {}
        self.monitor = Monitor()
        self.diagnostics = self._make_diagnostics()

    # -- the run ----------------------------------------------------------------------------

    def attach(
        self,
        folder: Path | None,
        identity: dict[str, Any],
        label: str,
        accepted: Callable[[Path], object] | None = None,
    ) -> None:
        """Take up the state that lies in the run folder, and write down the run.

        Nothing is written before the folder is known to be this run's. ``accepted`` is then called
        with it.

        Raises:
            ResumeError: if it is another's, or has done more steps than the run is to have.
        """
        self.folder, self.identity, self.label = folder, identity, label
        self.files: RunFolder | None = None
        self.store: StateStore | None = None
        if folder is not None:
            self.store = StateStore(
                folder,
                identity,
                self.student,
                self.optimiser,
                self.ema,
                self.world,
                self.models.split,
            )
        numbers = None if self.store is None else self.store.load()
        if numbers is not None:
            self.step, self.seconds = numbers["step"], numbers["seconds"]
            self.window = {k: v.to(self.world.device) for k, v in numbers["window"].items()}
            self.window_steps = numbers["window_steps"]
            self.last = {"step": self.step, "seconds": round(self.seconds, 3)}
        if self.step > self.config.steps:
            raise ResumeError(
                f"{folder} has done {self.step} steps, more than the {self.config.steps} asked "
                f"for: give {self.step} or more, or choose a new output folder"
            )
        self.objective.take_up({} if numbers is None else numbers.get("objective", {}))
        if folder is not None and self.world.is_main:
            before = _steps_before(folder)
            if (folder / METRICS_FILE).exists():
                check_readable(folder / METRICS_FILE)
            free = {k: getattr(self.config, k) for k in FREE_OPTIONS}
            self.files = RunFolder(folder, identity | {"free": free})
            self.files.rewind(self.step, None if numbers is None else numbers.get("logged"))
            if accepted is not None:
                accepted(folder)
            if self.step and before not in (None, self.config.steps):
                event = f"steps changed from {before} to {self.config.steps}"
                self.files.log({"step": self.step, "event": event})
        self.world.barrier()
        if numbers is None and folder is not None:
            self._save()
        self.world.barrier()

    def run(self, stop: StopRequest) -> TrainResult:
        """Steps until the end, the clock, or a signal."""
        config, begin, before, first = self.config, time.monotonic(), self.seconds, self.step
        shown = config.progress and self.world.is_main
        progress = TrainingProgress(shown, config.steps, self.step, label=self.label)
        # A run that has had its time does not take a step more whenever it is asked again.
        timed_out = self.step > 0 and self._out_of_time()
        try:
            while self.step < config.steps and not timed_out:
                loss, norm, metrics, stopping = self._step(stop)
                self.step += 1
                self.seconds = before + time.monotonic() - begin
                self._collect({"loss": loss, "grad_norm": norm, **metrics})
                progress.update()
                timed_out = self._out_of_time()
                seen = self.step % config.log_every == 0 or self.step in (1, config.steps)
                if seen or timed_out:
                    self._log(progress)
                last = self.step == config.steps
                if last or stopping or timed_out or self.step % config.save_every == 0:
                    self._save()
                # Another training may follow. Without a folder the result is nowhere else.
                if last:
                    stopping = self.folder is not None and self._asked(stop)
                if stopping:
                    raise TrainingInterrupted(self._how_to_resume())
        finally:
            progress.close()
        early = self.step < config.steps
        if early and self.step > first and self.files is not None:
            self.files.log({"step": self.step, "event": "stopped by max_seconds: not reproducible"})
        return TrainResult(self.student, self.ema, self.step, self.last, early)

    def _asked(self, stop: StopRequest) -> bool:
        """Whether a signal reached one of the processes; all of them must call this."""
        flag = torch.tensor([float(stop.requested)], dtype=torch.float64, device=self.world.device)
        return bool(self.world.mean(flag) > 0)

    def _step(self, stop: StopRequest) -> tuple[Tensor, Tensor, dict[str, Tensor], bool]:
        config, world, n = self.config, self.world, self.step
        seed_dropout(fold_seed(config.seed, DROPOUT_STREAM, n, world.rank), world.device)
        share = config.batch_size // (world.size * config.accumulate)
        seed = fold_seed(config.seed, NOISE_STREAM, n)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr_at(n) * group.get("lr_scale", 1.0)
        self.objective.begin_step(n)
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=world.device)
        sums: dict[str, Tensor] = {}
        for part in range(config.accumulate):
            first = (part * world.size + world.rank) * share
            index = torch.arange(first, first + share)
            batch, condition = self._batch(n, index)
            last = part == config.accumulate - 1
            self.models.gather()
            with nullcontext() if last else self._no_sync():
                loss, metrics = self.loss(batch, SampleStreams(seed, index), condition)
                (loss / config.accumulate).backward()
            total += loss.detach().double() / config.accumulate
            for key, value in metrics.items():
                value = value.detach().double() / config.accumulate
                sums[key] = sums[key] + value if key in sums else value
        flag = torch.tensor(float(stop.requested), dtype=torch.float64, device=world.device)
        total, flag = world.mean(torch.stack([total, flag])).unbind()
        limit = float("inf") if config.clip is None else config.clip
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, limit))
        if not bool(torch.isfinite(total) & torch.isfinite(norm)):
            raise DivergenceError(
                diagnosis(self.step, float(total), float(norm), self.parameters, self.folder)
            )
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.student)
        return total, norm.double(), sums, bool(flag > 0)

    def _batch(self, step: int, index: Tensor) -> tuple[Tensor, Condition | None]:
        """Sequences and their classes, for places in the step's whole batch."""
        device, positions = self.world.device, index + step * self.config.batch_size
        if self.source is None:
            # Nothing is read of it, and nothing in it is kept.
            kept = self.student.process.kept
            blank = next(token for token in range(len(kept) + 1) if token not in kept)
            shape = (index.shape[0], self.width)
            batch = torch.full(shape, blank, dtype=torch.int64, device=device)
        else:
            batch = self.source.batch(positions).to(device, non_blocking=True)
        if self.conditions is None:
            return batch, None
        rows = None if self.source is None else self.source.numbers(positions)
        seed = fold_seed(self.config.seed, CONDITION_STREAM, step)
        return batch, self.conditions.draw(seed, index, rows).to(device)

    def _no_sync(self) -> Any:
        if isinstance(self.loss, DistributedDataParallel):
            return self.loss.no_sync()
        return nullcontext()

    def _out_of_time(self) -> bool:
        limit = self.config.max_seconds
        return limit is not None and self._agree(self.seconds >= limit)

    def _agree(self, mine: bool) -> bool:
        value = torch.tensor(float(mine), dtype=torch.float64, device=self.world.device)
        return bool(self.world.mean(value) > 0)

    # -- what is watched --------------------------------------------------------------------

    def _make_diagnostics(self) -> Diagnostics | None:
        """What watches a distillation; on every process, since split models need all of them."""
        student, teacher = self.student, self.models.teacher
        if teacher is None or not (self.objective.needs_teacher and self.config.monitor):
            return None
        if self.conditions is not None:
            condition = self.conditions.watched()
            if condition is None:
                return None
            condition = condition.to(self.world.device)
            student = ConditionedDenoiser(student, condition)
            teacher = ConditionedDenoiser(teacher, condition)
        samples = max(2, min(32, self.config.batch_size))
        rows = None
        if self.source is not None and not self.objective.coupled:
            rows = self.source.batch(torch.arange(4 * samples))
        share = self.config.batch_size // (self.world.size * self.config.accumulate)
        return Diagnostics(
            student,
            teacher,
            length=self.width,
            seed=fold_seed(self.config.seed, MONITOR_STREAM),
            data=rows if self.objective.needs_data else None,
            rows=rows,
            samples=samples,
            # What fits the memory in a training step fits it here.
            batch_size=min(samples, share),
        )

    def _look(self) -> dict[str, Any]:
        if self.diagnostics is None:
            return {}
        self.models.gather()
        try:
            seen: dict[str, Any] = dict(self.diagnostics.look())
        except ValueError as error:
            # A network whose weights are finite yet may answer what nothing can be drawn from.
            why = "the last updates were too large; lower lr or set clip"
            raise DivergenceError(
                f"step {self.step}: the student cannot be sampled any more ({error}). Likely "
                f"cause: {why}.{kept_in(self.folder)}"
            ) from error
        if self.step == 1 and self.objective.matches_teacher:
            # The teacher does not change: judged once.
            seen["calibration"] = self.diagnostics.calibration()
            seen["calibrated_on"] = "own samples" if self.diagnostics.data is None else "data"
        return seen

    # -- what is written --------------------------------------------------------------------

    def _collect(self, values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            self.window[key] = self.window[key] + value if key in self.window else value
        self.window_steps += 1

    def _log(self, progress: TrainingProgress) -> None:
        keys = sorted(self.window)
        means = torch.stack([self.window[k].to(self.world.device) for k in keys])
        means = self.world.mean(means / self.window_steps).tolist()
        line: dict[str, Any] = {"step": self.step, **dict(zip(keys, means))}
        line["lr"] = self.config.lr_at(self.step - 1)
        line["seconds"] = round(self.seconds, 3)
        self.window, self.window_steps = {}, 0
        self._check_finite()
        line |= self._look()
        if self.world.is_main:
            trouble = self.monitor(line)
            if trouble:
                line["warnings"] = list(trouble)
                line["advice"] = trouble
            if self.files is not None:
                self.files.log(line)
            progress.log(line)
        self.last = line

    def _check_finite(self) -> None:
        if self._agree(not_finite(self.parameters)):
            raise DivergenceError(
                diagnosis(self.step, math.nan, math.nan, self.parameters, self.folder)
            )

    def _save(self) -> None:
        self._check_finite()
        self.models.gather()
        seen = self.objective.before_save(self.step, self.student)
        objective = self.objective.state()
        if seen and self.files is not None:
            self.files.log({"step": self.step, "event": "inspected", **seen})
        if self.store is None:
            return
        keys = sorted(self.window)
        window = self.window
        if keys and self.world.size > 1:
            means = self.world.mean(torch.stack([window[k].double() for k in keys]))
            window = dict(zip(keys, means.unbind()))
        numbers = {
            "step": self.step,
            "seconds": self.seconds,
            "objective": objective,
            "window": window,
            "window_steps": self.window_steps,
            "logged": None if self.files is None else self.files.logged,
        }
        self.store.save(numbers)

    def _how_to_resume(self) -> str:
        if self.folder is None:
            return f"interrupted after step {self.step}; nothing was saved (no output folder)"
        return (
            f"interrupted after step {self.step} of {self.config.steps}; state saved in "
            f"{self.folder}. Run the same command again to go on."
        )


def _steps_before(folder: Path) -> int | None:
    """How many steps the run in a folder was to have, if its configuration can be read."""
    try:
        free = (read_config(folder) or {}).get("free")
    except ValueError:
        return None
    return free.get("steps") if isinstance(free, dict) else None


@dataclass
class TrainResult:
    """What :func:`fewjump.train.train` returns.

    Attributes:
        student: the trained denoiser (the one given), last weights, in eval mode.
        ema: the moving average of its weights, or None.
        step: optimiser steps done, in all sessions together.
        metrics: the last logged line.
        stopped_by_time: whether ``max_seconds`` ended it before the last step.
    """

    student: Denoiser
    ema: ExponentialMovingAverage | None
    step: int
    metrics: dict[str, Any] = field(default_factory=dict)
    stopped_by_time: bool = False

    def averaged(self) -> Denoiser:
        """A copy of the student with the averaged weights (the last ones without an average)."""
        model = copy.deepcopy(self.student)
        if self.ema is not None:
            self.ema.copy_to(model)
        return model.eval()
