"""What every verb does around its training: set the teacher aside, write models down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewjump.checkpoint import save
from fewjump.data import Dataset
from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser, ScoreNetwork
from fewjump.objective import Objective, freeze
from fewjump.train import TrainConfig
from fewjump.train.data import Tokens
from fewjump.train.setup import describe


@contextmanager
def set_aside(teacher: Denoiser) -> Iterator[None]:
    """Freeze a teacher while the block runs, and leave it as it was found."""
    was_training = teacher.training
    trained = [p for p in teacher.parameters() if p.requires_grad]
    freeze(teacher)
    try:
        yield
    finally:
        teacher.train(was_training)
        for parameter in trained:
            parameter.requires_grad_(True)


def keep_teacher(
    teacher: Denoiser, out: str | Path | None, data: Dataset | Tokens | None = None
) -> None:
    """Write the teacher to ``out/teacher``, unless it is there or cannot be written."""
    if out is None or not is_main() or not can_save(teacher):
        return
    Path(out).mkdir(parents=True, exist_ok=True)
    if not (Path(out) / "teacher").exists():
        save(teacher, Path(out) / "teacher", vocabulary=vocabulary_of(data, teacher))


def keep_model(
    model: Denoiser,
    out: str | Path | None,
    data: Dataset | Tokens | None,
    objective: Objective,
    config: TrainConfig,
    step: int,
    **more: Any,
) -> None:
    """Write a trained model to ``out/model``, with how it was trained, where that can be done."""
    if out is None or not is_main() or not can_save(model):
        return
    training = {
        "objective": describe(objective),
        "steps": step,
        "batch_size": config.batch_size,
        "lr": config.lr,
        "ema": config.ema,
        "seed": config.seed,
        **more,
    }
    save(model, Path(out) / "model", vocabulary=vocabulary_of(data, model), training=training)


def describe_model(model: Denoiser) -> Any:
    """The denoiser's own configuration, or for foreign networks its class and process."""
    if can_save(model):
        assert isinstance(model, NetworkDenoiser | ScoreDenoiser)
        return model.config()
    return {"class": type(model).__qualname__, "process": model.process.config()}


def can_save(model: Denoiser) -> bool:
    """Whether a model folder can hold the denoiser."""
    if isinstance(model, ScoreDenoiser):
        return isinstance(model.network, ScoreNetwork)
    return isinstance(model, NetworkDenoiser)


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def vocabulary_of(data: Dataset | Tokens | None, model: Denoiser | None = None) -> Any:
    """What the data say of their tokens; else what the model does, which may be nothing."""
    if isinstance(data, Dataset):
        return data.vocabulary
    return None if model is None else model.vocabulary_config
