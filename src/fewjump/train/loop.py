"""The training loop: one function, exact to resume, the same on any number of processes.

Step n draws from per-sample streams seeded by (seed, n) and indexed by the sample's place in the
step's whole batch, and its data come from a stateless permutation. So what a step computes depends
on the weights, the optimiser and n only; accumulation and distribution split the batch without
changing it; and resuming needs nothing but weights, optimiser, average and n.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fewjump.denoiser.base import Denoiser
from fewjump.objective.base import Metrics, Objective
from fewjump.random import SampleStreams, fold_seed
from fewjump.train.data import TokenData, Tokens
from fewjump.train.distributed import World, join_world
from fewjump.train.ema import ExponentialMovingAverage
from fewjump.train.interrupt import StopRequest, TrainingInterrupted, stop_on_signal
from fewjump.train.keeper import Keeper
from fewjump.train.log import Progress, RunFolder
from fewjump.train.monitor import Monitor
from fewjump.train.options import FREE_OPTIONS, TrainConfig
from fewjump.train.probe import Probe
from fewjump.train.setup import (
    DROPOUT_STREAM,
    MONITOR_STREAM,
    NOISE_STREAM,
    blocks_checkpointed,
    build_optimiser,
    compile_network,
    networks_in_low_precision,
    open_data,
    run_identity,
)
from fewjump.train.split import DivergenceError, SplitModels, not_finite, split_models, whole
from fewjump.train.state import STATE_FILE


@dataclass
class TrainResult:
    """What :func:`train` returns.

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


def train(
    student: Denoiser,
    objective: Objective,
    data: Tokens | None,
    config: TrainConfig,
    *,
    teacher: Denoiser | None = None,
    length: int | None = None,
    out: str | Path | None = None,
    run_config: Mapping[str, Any] | None = None,
    label: str = "train",
) -> TrainResult:
    """Train a denoiser in place; under torchrun, on all its processes.

    With ``out``, the state is saved every ``save_every`` steps, and the same call on the same
    folder goes on where the last checkpoint is: on the CPU the final weights equal those of an
    uninterrupted run bit for bit (same machine, same number of threads).

    Args:
        student: trained in place, moved to the chosen device.
        objective: called on each batch.
        data: (N, L) clean tokens, or None for an objective that needs none.
        config: how to optimise.
        teacher: frozen (:func:`fewjump.objective.freeze`), moved to the device; or None.
        length: sequence length when there are no data; the student's own by default.
        out: run folder: config.yaml, versions.json, metrics.jsonl, training_state.pt.
        run_config: plain data that identify the run beyond ``config`` (process, network, …); part
            of what must be equal to resume.
        label: shown with progress.

    Raises:
        ValueError: for data or options that do not fit together.
        ResumeError: if ``out`` holds a run of another configuration.
        DivergenceError: at the first loss or gradient that is not finite.
        TrainingInterrupted: after Ctrl-C or SIGTERM, with the state saved.
    """
    objective.check(student, teacher)
    if not any(p.requires_grad for p in student.parameters()):
        raise ValueError("the student has no parameters to train")
    source, rows, width = open_data(objective, data, config, student, length)
    with join_world(config.device) as world, stop_on_signal() as stop:
        if config.batch_size % (world.size * config.accumulate):
            raise ValueError(
                f"batch_size ({config.batch_size}) must be a multiple of accumulate × processes "
                f"({config.accumulate} × {world.size})"
            )
        identity = run_identity(
            config, run_config, source, rows, width, objective, student, teacher
        )
        folder = Path(out) if out is not None else None
        student.train()
        try:
            with split_models(student, teacher, config, world) as models:
                trainer = _Trainer(models, objective, source, width, config, world)
                trainer.attach(folder, identity, label)
                with (
                    networks_in_low_precision((models.student, models.teacher), config, world),
                    blocks_checkpointed(models.student, config),
                ):
                    result = trainer.run(stop)
                if result.ema is not None:
                    result.ema.gather()
        finally:
            student.eval()
        result.student = student
        return result


class _Loss(nn.Module):
    """Student and objective as one module, which is what DDP wraps."""

    def __init__(self, student: Denoiser, teacher: Denoiser | None, objective: Objective) -> None:
        super().__init__()
        self.student = student
        # In a tuple the teacher is not a submodule: it is neither trained nor synchronised.
        self.fixed = (teacher, objective)

    def forward(self, batch: Tensor, generator: SampleStreams) -> tuple[Tensor, Metrics]:
        teacher, objective = self.fixed
        return objective(self.student, teacher, batch, generator)


class _Trainer:
    """State of one run; see :func:`train`."""

    def __init__(
        self,
        models: SplitModels,
        objective: Objective,
        source: TokenData | None,
        width: int,
        config: TrainConfig,
        world: World,
    ) -> None:
        self.models, self.config, self.world = models, config, world
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
        self.loss: nn.Module = _Loss(student, models.teacher, objective)
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
        self.probe = self._make_probe()

    # -- the run ----------------------------------------------------------------------------

    def attach(self, folder: Path | None, identity: dict[str, Any], label: str) -> None:
        """Open the run folder and take up the state that lies in it."""
        self.folder, self.identity, self.label = folder, identity, label
        self.files: RunFolder | None = None
        self.keeper: Keeper | None = None
        if folder is not None:
            self.keeper = Keeper(
                folder,
                identity,
                self.student,
                self.optimiser,
                self.ema,
                self.world,
                self.models.split,
            )
        numbers = None if self.keeper is None else self.keeper.load()
        if numbers is not None:
            self.step, self.seconds = numbers["step"], numbers["seconds"]
            self.window = {k: v.to(self.world.device) for k, v in numbers["window"].items()}
            self.window_steps = numbers["window_steps"]
        self.objective.take_up({} if numbers is None else numbers.get("objective", {}))
        if folder is not None and self.world.is_main:
            free = {k: getattr(self.config, k) for k in FREE_OPTIONS}
            self.files = RunFolder(folder, identity | {"free": free})
            self.files.rewind(self.step)
        self.world.barrier()
        if numbers is None and folder is not None:
            self._save()
        self.world.barrier()

    def run(self, stop: StopRequest) -> TrainResult:
        """Steps until the end, the clock, or a signal."""
        config, begin, before = self.config, time.monotonic(), self.seconds
        progress = Progress(
            config.steps, self.step, config.progress and self.world.is_main, self.label
        )
        timed_out = False
        try:
            while self.step < config.steps and not timed_out:
                loss, norm, metrics, stopping = self._step(stop)
                self.step += 1
                self.seconds = before + time.monotonic() - begin
                self._collect({"loss": loss, "grad_norm": norm, **metrics})
                progress.step()
                if self.step % config.log_every == 0 or self.step in (1, config.steps):
                    self._log(progress)
                limit = config.max_seconds
                timed_out = limit is not None and self._agree(self.seconds >= limit)
                last = self.step == config.steps
                if last or stopping or timed_out or self.step % config.save_every == 0:
                    self._save()
                if stopping and not last:
                    raise TrainingInterrupted(self._how_to_resume())
        finally:
            progress.close()
        early = self.step < config.steps
        if early and self.files is not None:
            self.files.log({"step": self.step, "event": "stopped by max_seconds: not reproducible"})
        return TrainResult(self.student, self.ema, self.step, self.last, early)

    def _step(self, stop: StopRequest) -> tuple[Tensor, Tensor, dict[str, Tensor], bool]:
        config, world, n = self.config, self.world, self.step
        torch.manual_seed(fold_seed(config.seed, DROPOUT_STREAM, n, world.rank))
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
            batch = self._batch(n, index)
            last = part == config.accumulate - 1
            self.models.gather()
            with nullcontext() if last else self._no_sync():
                loss, metrics = self.loss(batch, SampleStreams(seed, index))
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
            raise DivergenceError(self._diagnosis(float(total), float(norm)))
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.student)
        return total, norm.double(), sums, bool(flag > 0)

    def _batch(self, step: int, index: Tensor) -> Tensor:
        if self.source is None:
            shape = (index.shape[0], self.width)
            return torch.zeros(shape, dtype=torch.int64, device=self.world.device)
        positions = index + step * self.config.batch_size
        return self.source.batch(positions).to(self.world.device, non_blocking=True)

    def _no_sync(self) -> Any:
        if isinstance(self.loss, DistributedDataParallel):
            return self.loss.no_sync()
        return nullcontext()

    def _agree(self, mine: bool) -> bool:
        value = torch.tensor(float(mine), dtype=torch.float64, device=self.world.device)
        return bool(self.world.mean(value) > 0)

    # -- what is watched --------------------------------------------------------------------

    def _make_probe(self) -> Probe | None:
        """A probe for a distillation; on every process, since split models need all of them."""
        teacher = self.models.teacher
        if teacher is None or not (self.objective.needs_teacher and self.config.monitor):
            return None
        samples = max(2, min(32, self.config.batch_size))
        data = None
        if self.source is not None and self.objective.needs_data:
            data = self.source.batch(torch.arange(4 * samples))
        share = self.config.batch_size // (self.world.size * self.config.accumulate)
        return Probe(
            self.student,
            teacher,
            length=self.width,
            seed=fold_seed(self.config.seed, MONITOR_STREAM),
            data=data,
            samples=samples,
            # What fits the memory in a training step fits it here.
            batch_size=min(samples, share),
        )

    def _look(self) -> dict[str, Any]:
        if self.probe is None:
            return {}
        self.models.gather()
        seen: dict[str, Any] = dict(self.probe.look())
        if self.step == 1:
            # The teacher does not change: judged once.
            seen["calibration"] = self.probe.calibration()
            seen["calibrated_on"] = "own samples" if self.probe.data is None else "data"
        return seen

    # -- what is written --------------------------------------------------------------------

    def _collect(self, values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            self.window[key] = self.window[key] + value if key in self.window else value
        self.window_steps += 1

    def _log(self, progress: Progress) -> None:
        keys = sorted(self.window)
        means = torch.stack([self.window[k].to(self.world.device) for k in keys])
        means = self.world.mean(means / self.window_steps).tolist()
        line: dict[str, Any] = {"step": self.step, **dict(zip(keys, means))}
        line["lr"] = self.config.lr_at(self.step - 1)
        line["seconds"] = round(self.seconds, 3)
        self.window, self.window_steps = {}, 0
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

    def _save(self) -> None:
        if self._agree(not_finite(self.parameters)):
            raise DivergenceError(self._diagnosis(float("nan"), float("nan")))
        self.models.gather()
        seen = self.objective.before_save(self.step, self.student)
        objective = self.objective.state()
        if seen and self.files is not None:
            self.files.log({"step": self.step, "event": "inspected", **seen})
        if self.keeper is None:
            return
        keys = sorted(self.window)
        window = self.window
        if keys and self.models.split:
            means = self.world.mean(torch.stack([window[k].double() for k in keys]))
            window = dict(zip(keys, means.unbind()))
        numbers = {"step": self.step, "seconds": self.seconds, "objective": objective}
        self.keeper.save({**numbers, "window": window, "window_steps": self.window_steps})

    def _how_to_resume(self) -> str:
        if self.folder is None:
            return f"interrupted after step {self.step}; nothing was saved (no output folder)"
        return (
            f"interrupted after step {self.step} of {self.config.steps}; state saved in "
            f"{self.folder}. Run the same command again to go on."
        )

    def _diagnosis(self, loss: float, norm: float) -> str:
        if not_finite(self.parameters):
            what, cause = "the weights are", "the last update overflowed; lower lr or set clip"
        elif loss == float("inf"):
            what = "the loss is +inf, it is"
            cause = (
                "the student gives probability 0 to a token that the target holds; check that "
                "data and process share their tokens, or lower lr"
            )
        elif loss - loss != 0:
            what = f"the loss is {loss}, it is"
            cause = "the network's output overflowed; lower lr, or use precision='float32'"
        else:
            what = f"the gradient norm is {norm}, it is"
            cause = "the loss is too steep here; lower lr, or raise the objective's min_time"
        kept = (
            f" The last good checkpoint is {self.folder / STATE_FILE}."
            if self.folder is not None
            else ""
        )
        return f"step {self.step}: {what} not finite. Likely cause: {cause}.{kept}"
