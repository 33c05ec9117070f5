"""Student and teacher as they are trained: whole, or split over the processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewjump.denoiser.base import Denoiser
from fewjump.options.training import TrainConfig
from fewjump.train.distributed import TrainingInterrupted, World
from fewjump.train.diversity import DiversityError
from fewjump.train.monitor import DivergenceError

if TYPE_CHECKING:
    from fewjump.train.sharding import ShardedDenoiser


# What all processes raise together: after anything else the others may not be listening.
ON_EVERY_PROCESS = (TrainingInterrupted, DiversityError, DivergenceError)


@dataclass
class SplitModels:
    """What the loop trains and asks.

    Attributes:
        student, teacher: the caller's own, or twins of them whose parameters are split.
        parts: the split ones.
    """

    student: Denoiser
    teacher: Denoiser | None
    parts: list[ShardedDenoiser] = field(default_factory=list)

    @property
    def split(self) -> bool:
        return bool(self.parts)

    def gather(self) -> None:
        """Make every method of the denoisers usable until the next backward pass."""
        for part in self.parts:
            part.gather()


@contextmanager
def split_models(
    student: Denoiser, teacher: Denoiser | None, config: TrainConfig, world: World
) -> Iterator[SplitModels]:
    """Move the models to the device and, with ``sharding="full"``, split them meanwhile.

    Afterwards the caller's own objects are whole again, unless something went wrong that the other
    processes may not know of.
    """
    if config.sharding == "none" or world.size == 1:
        student.to(world.device)
        if teacher is not None:
            teacher.to(world.device)
        yield SplitModels(student, teacher)
        return
    from fewjump.train.sharding import make_mesh, shard

    mesh = make_mesh(world)
    parts = [shard(student, mesh)]
    has_weights = teacher is not None and next(teacher.parameters(), None) is not None
    if teacher is not None and has_weights:
        parts.append(shard(teacher, mesh))
    elif teacher is not None:
        teacher.to(world.device)
    for part in parts:
        part.release()
    models = SplitModels(parts[0].twin, parts[1].twin if has_weights else teacher, parts)
    try:
        yield models
    except ON_EVERY_PROCESS:
        for part in parts:
            part.restore()
        raise
    for part in parts:
        part.restore()
