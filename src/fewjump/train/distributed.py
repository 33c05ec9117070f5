"""This process: its place among those of a torchrun launch, and signals that ask it to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from fewjump.device import usable_device


@dataclass(frozen=True)
class World:
    """This process among ``size``; ``device`` is where it computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Average of a tensor over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def barrier(self) -> None:
        """Wait for every process."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_world(device: str | torch.device | None = None) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone without it.

    torchrun sets RANK, LOCAL_RANK, WORLD_SIZE and the rendezvous address. The back end is nccl on
    CUDA and gloo on the CPU. A process group that exists already is used and left in place.

    Args:
        device: ``cpu``, ``cuda``, …; by default CUDA where there is one. A bare ``cuda`` becomes
            the process's own card.

    Raises:
        ValueError: see :func:`fewjump.device.usable_device`.
    """
    chosen = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    owned = not dist.is_initialized()
    if owned:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        if owned:
            _leave()


# What a thread of gloo needs, at most, to let go of the tensors of work that is done.
_SETTLE_SECONDS = 0.2


def _leave() -> None:
    """Destroy the process group once its threads hold no tensor.

    DDP and FSDP keep the group, and so its threads, past ``destroy_process_group``. One that still
    holds the tensors of the last collective when the interpreter ends aborts the process with
    "terminate called without an active exception" (pytorch/pytorch#179291), and torchrun then
    counts a finished run as failed.
    """
    time.sleep(_SETTLE_SECONDS)
    dist.destroy_process_group()


class TrainingInterrupted(KeyboardInterrupt):
    """Training was asked to stop; its state is saved and the message says how to go on."""


class StopRequest:
    """Set once a signal arrived; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM within the block (in the main thread; elsewhere nothing is set)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    previous = {kind: signal.signal(kind, request._handle) for kind in kinds}
    try:
        yield request
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)


def whole(value: Tensor) -> Tensor:
    """The whole of a tensor that may be split; every process must call this."""
    gathered = getattr(value, "full_tensor", None)
    return value if gathered is None else gathered()


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor that may be split (a DTensor)."""
    part = getattr(value, "to_local", None)
    return value if part is None else part()
