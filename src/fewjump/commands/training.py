"""Options that ``train`` and ``distill`` share: those of :class:`fewjump.train.TrainConfig`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass
class TrainingOptions:
    """How to optimise."""

    steps: int = 2000
    """Optimiser steps. The same command with more of them goes on from the end of a finished run,
    at the learning rate that a run of the new length has there."""

    batch_size: int = 128
    """Sequences per optimiser step, over all processes."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""

    weight_decay: float = 0.0
    """Weight decay of AdamW."""

    warmup: int = 100
    """Steps over which the learning rate rises."""

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls afterwards."""

    clip: float | None = 1.0
    """Largest gradient norm, or None."""

    accumulate: int = 1
    """Compute each step in this many parts, to save memory. The result is the same."""

    ema: float | None = 0.999
    """Decay of the moving average of the weights, which is what is saved; None for none."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network."""

    compile: bool = False
    """Compile the network with torch.compile."""

    checkpoint_blocks: bool = False
    """Compute each block again in the backward pass: less memory, a third more time."""

    sharding: Literal["none", "full"] = "none"
    """Under torchrun: none, every process holds the whole networks; full, each holds a part
    (FSDP2)."""

    seed: int = 0
    """Seed of every random draw."""

    device: str | None = None
    """Where to compute. Default: an accelerator if there is one."""

    log_every: int = 50
    """Steps between lines of metrics.jsonl."""

    save_every: int = 500
    """Steps between checkpoints. The same command on the same folder goes on from the last one."""

    max_seconds: float | None = None
    """Stop after this time; the result then depends on the machine's speed."""

    progress: bool = True
    """Show progress."""

    monitor: bool = True
    """In a distillation, watch for collapse, ill-conditioning and a miscalibrated teacher."""


def training_values(options: TrainingOptions) -> dict[str, Any]:
    """The options by name, for the library's functions, which check the values."""
    return {field.name: getattr(options, field.name) for field in fields(TrainingOptions)}
