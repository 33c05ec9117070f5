"""What a training run is put together from: data, identity, optimiser, precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.wrappers import weights_checksum
from fewjump.objective.base import Objective
from fewjump.objective.time_sampling import TimeSampling
from fewjump.options.training import FREE_OPTIONS, TrainConfig
from fewjump.random import fold_seed
from fewjump.train.conditions import Conditions
from fewjump.train.data import TokenData, Tokens
from fewjump.train.distributed import TrainingInterrupted, World
from fewjump.train.monitor import DivergenceError, DiversityError

if TYPE_CHECKING:
    from fewjump.train.sharding import ShardedDenoiser

# Purposes of a seed: two of them never share a stream.
NOISE_STREAM, ORDER_STREAM, DROPOUT_STREAM, MONITOR_STREAM, CONDITION_STREAM = 1, 2, 3, 4, 8
# What all processes raise together: after anything else the others may not be listening.
ON_EVERY_PROCESS = (TrainingInterrupted, DiversityError, DivergenceError)


def open_data(
    objective: Objective,
    data: Tokens | None,
    config: TrainConfig,
    student: Denoiser,
    length: int | None,
) -> tuple[TokenData | None, list[int] | None, int]:
    """The data as a stream with its fingerprint (None without data), and the sequence length."""
    if data is None:
        if objective.needs_data:
            raise ValueError(
                "this objective reads data, got data=None; for data-free distillation use "
                "ConditionalMatching('teacher-rollout')"
            )
        width = length or student.length
        if width is None:
            raise ValueError("without data, give the sequence length: length=…")
        student.check_length(width)
        return None, None, width
    order = fold_seed(config.seed, ORDER_STREAM)
    if objective.coupled:
        source = TokenData(data, student.process.vocab_size, order)
        width = source.length // 2
    else:
        source = TokenData(data, student.clean_vocab_size, order, student.process.mask)
        width = source.length
    student.check_length(width)
    if student.length is not None and student.length != width:
        raise ValueError(
            f"data rows have {width} tokens, but the student was made for {student.length}"
        )
    return source, source.fingerprint(), width


def run_identity(
    config: TrainConfig,
    run_config: Mapping[str, Any] | None,
    rows: list[int] | None,
    width: int,
    objective: Objective,
    student: Denoiser,
    teacher: Denoiser | None,
    conditions: Conditions | None = None,
) -> dict[str, Any]:
    """Plain data that must be equal for a run to go on."""
    options = dataclasses.asdict(config)
    return {
        "run": dict(run_config or {}),
        "train": {k: v for k, v in options.items() if k not in FREE_OPTIONS},
        "objective": describe(objective),
        "data": {"fingerprint": rows, "length": width},
        "student": {"parameters": sum(p.numel() for p in student.parameters())},
        "teacher": None if teacher is None else weights_checksum(teacher),
        **({} if conditions is None else {"conditions": conditions.describe()}),
    }


def describe(objective: Objective) -> dict[str, Any]:
    """An objective's name and options as plain data."""
    options = {
        k: v if isinstance(v, int | float | str | bool | None) else repr_of(v)
        for k, v in sorted(vars(objective).items())
        if not k.startswith("_") and v is not None
    }
    return {"name": type(objective).__name__, **options}


def repr_of(value: Any) -> Any:
    """Lists for tuples, qualified names for functions: the same text in every process."""
    if isinstance(value, TimeSampling):
        return value.describe()
    if isinstance(value, tuple | list):
        return [repr_of(v) if isinstance(v, tuple | list) else v for v in value]
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value))}"


@contextmanager
def networks_in_low_precision(
    denoisers: tuple[Denoiser | None, ...], config: TrainConfig, world: World
) -> Iterator[None]:
    """Run the networks, and only them, in bfloat16: process arithmetic keeps its precision."""
    handles = []
    if config.precision == "bfloat16":
        for denoiser in denoisers:
            if denoiser is None or next(denoiser.parameters(), None) is None:
                continue
            contexts: list[ExitStack] = []

            def enter(*_: Any, contexts: list[ExitStack] = contexts) -> None:
                stack = ExitStack()
                stack.enter_context(torch.autocast(world.device.type, torch.bfloat16))
                contexts.append(stack)

            def leave(*_: Any, contexts: list[ExitStack] = contexts) -> None:
                contexts.pop().close()

            handles.append(denoiser.register_forward_pre_hook(enter))
            handles.append(denoiser.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def blocks_checkpointed(student: Denoiser, config: TrainConfig) -> Iterator[None]:
    """With ``checkpoint_blocks``, compute transformer blocks again in the backward pass.

    Raises:
        ValueError: if it is asked for and the student has no such blocks.
    """
    if not config.checkpoint_blocks:
        yield
        return
    trunks: list[Any] = [
        m for m in student.modules() if hasattr(m, "gradient_checkpointing_enable")
    ]
    if not trunks:
        raise ValueError(
            "checkpoint_blocks=True computes transformer blocks again, and what is trained here "
            "has none: leave it out"
        )
    for trunk in trunks:
        trunk.gradient_checkpointing_enable()
    try:
        yield
    finally:
        for trunk in trunks:
            trunk.gradient_checkpointing_disable()


def build_optimiser(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only.

    A parameter may carry an ``lr_scale``: its learning rate as a multiple of the others'.
    """
    scales: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        scales.setdefault(getattr(parameter, "lr_scale", 1.0), []).append(parameter)
    groups = []
    for scale, members in scales.items():
        matrices, others = [p for p in members if p.dim() >= 2], [p for p in members if p.dim() < 2]
        for chosen, decay in ((matrices, config.weight_decay), (others, 0.0)):
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay, "lr_scale": scale})
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def compile_network(student: Denoiser) -> None:
    """Compile the part of a denoiser that is a network, in place: its blocks, or the whole.

    Raises:
        ValueError: if there is nothing of the kind.
    """
    for name in ("trunk", "network"):
        part = getattr(student, name, None)
        if isinstance(part, nn.Module):
            part = getattr(part, "trunk", part)
            for module in getattr(part, "blocks", [part]):
                module.compile()
            return
    raise ValueError(
        "compile=True compiles a network (a student's .trunk or .network), and what is trained "
        "here has none: leave it out"
    )


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
