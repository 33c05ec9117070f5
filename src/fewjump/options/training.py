"""Options of the training loop, the learning rate that follows from them, each verb's defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fewjump.config import one_of, require

Decay = Literal["cosine", "linear", "constant"]
Precision = Literal["float32", "bfloat16"]
Sharding = Literal["none", "full"]

# Options that a run may be gone on with when they have changed: how long it is, what is printed,
# when files are written, and how the work is split, which changes the weights to rounding only.
FREE_OPTIONS = (
    "steps",
    "accumulate",
    "device",
    "log_every",
    "save_every",
    "max_seconds",
    "progress",
    "monitor",
    "checkpoint_blocks",
    "sharding",
)


@dataclass(frozen=True)
class TrainConfig:
    """How to optimise.

    Attributes:
        steps: optimiser steps. A run that was finished goes on where this is raised, at the
            learning rate that the new length has there (a decayed one rises again). Its weights are
            then not those of a run that had the new length from the start.
        batch_size: sequences per optimiser step, over all processes and parts: the same options
            give the same training on one process or on eight.
        lr: peak learning rate of AdamW.
        weight_decay: weight decay of AdamW, on tensors of two or more axes.
        betas: decays of AdamW's running means, of the gradient and of its square.
        warmup: steps over which the learning rate rises.
        decay: how the learning rate falls afterwards.
        final_lr: where the learning rate ends, as a share of lr.
        clip: largest gradient norm; None to leave gradients alone.
        accumulate: compute each step in this many parts, to save memory; the same result but for
            rounding.
        ema: decay of the moving average of the weights, in [0, 1), which is what is saved; None
            for no average.
        precision: arithmetic of the networks: bfloat16 is by autocast.
        compile: compile the network with torch.compile.
        checkpoint_blocks: keep only the input of each transformer block for the backward pass and
            compute the block again there: less memory, a third more time, the same gradients.
        sharding: what the processes of a torchrun launch share. none (DDP): each holds the whole
            networks. full (FSDP2): each holds its part of every weight, gradient, average and
            moment, of student and teacher. One process alone holds everything either way.
        seed: seed of every random draw and of the data's order.
        device: where to compute. Default: an accelerator if there is one.
        log_every: steps between lines of metrics.jsonl.
        save_every: steps between checkpoints. The same command on the same folder goes on from the
            last one.
        max_seconds: stop after this time, that of interrupted sessions included; the result then
            depends on the machine's speed.
        progress: show progress.
        monitor: in a distillation, look at draws of the student and at the teacher whenever a line
            is logged, and warn of collapse, ill-conditioning and miscalibration. Never changes the
            weights.

    Raises:
        ValueError: for a value outside its range.
    """

    steps: int = 2000
    batch_size: int = 128
    lr: float = 3e-4
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    decay: Decay = "cosine"
    final_lr: float = 0.0
    clip: float | None = 1.0
    accumulate: int = 1
    ema: float | None = 0.999
    precision: Precision = "float32"
    compile: bool = False
    checkpoint_blocks: bool = False
    sharding: Sharding = "none"
    seed: int = 0
    device: str | None = None
    log_every: int = 50
    save_every: int = 500
    max_seconds: float | None = None
    progress: bool = True
    monitor: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "save_every"):
            require(getattr(self, name) >= 1, f"{name} must be ≥ 1, got {getattr(self, name)}")
        require(0 < self.lr < math.inf, f"lr must be positive, got {self.lr}")
        require(
            all(0 <= beta < 1 for beta in self.betas), f"betas must lie in [0, 1), got {self.betas}"
        )
        require(
            0 <= self.weight_decay < math.inf,
            f"weight_decay must be ≥ 0, got {self.weight_decay}",
        )
        require(self.warmup >= 0, f"warmup must be ≥ 0, got {self.warmup}")
        require(0 <= self.final_lr <= 1, f"final_lr is a share of lr in [0, 1]: {self.final_lr}")
        require(
            self.clip is None or 0 < self.clip < math.inf,
            f"clip must be positive (or None), got {self.clip}",
        )
        require(self.ema is None or 0 <= self.ema < 1, f"ema must be in [0, 1), got {self.ema}")
        require(0 <= self.seed < 1 << 63, f"seed must lie in [0, 2^63), got {self.seed}")
        for name, known in (("decay", Decay), ("precision", Precision), ("sharding", Sharding)):
            one_of(name, getattr(self, name), get_args(known))
        require(
            self.max_seconds is None or 0 < self.max_seconds < math.inf,
            f"max_seconds must be positive (or None), got {self.max_seconds}",
        )
        require(
            self.batch_size % self.accumulate == 0,
            f"batch_size ({self.batch_size}) must be a multiple of accumulate ({self.accumulate})",
        )

    def lr_at(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay == "constant":
            return self.lr
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        share = 1 - progress if self.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.lr * (self.final_lr + (1 - self.final_lr) * share)


#: What each verb starts from.
TEACHER_TRAINING = TrainConfig(lr=1e-3)
DISTILLATION = TrainConfig()
REFINEMENT = TrainConfig(steps=1000, lr=1e-4, ema=0.99, save_every=100)
