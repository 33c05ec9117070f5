"""The processes of a torchrun launch: who am I, and how do we add up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
