"""Networks split over the processes of a launch (FSDP2), and put together again.

The caller's own object stays an ordinary module. What is trained meanwhile is a twin that takes
over its parameters, a part on each process; the original holds nothing until they come back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fewjump.denoiser.base import Denoiser
from fewjump.train.distributed import World, whole


@dataclass
class ShardedDenoiser:
    """A denoiser, and its twin whose parameters are split.

    Attributes:
        given: the caller's; empty from :meth:`release` to :meth:`restore`.
        twin: to be trained, or asked.
    """

    given: Denoiser
    twin: Denoiser

    def roots(self) -> list[FSDPModule]:
        """The modules that hold what belongs to no block."""
        return _roots(self.twin)

    def gather(self) -> None:
        """Have the roots' parameters ready, whichever of the denoiser's methods is called next."""
        for root in self.roots():
            root.unshard()

    def release(self) -> None:
        """Free the whole parameters of ``given``."""
        for parameter in self.given.parameters():
            parameter.data = parameter.data.new_empty(0)

    def restore(self) -> None:
        """Put the whole parameters back into ``given``; every process must call this."""
        for root in self.roots():
            root.reshard()
        values = dict(self.twin.named_parameters(remove_duplicate=False))
        for name, parameter in self.given.named_parameters(remove_duplicate=False):
            if not parameter.numel() or parameter.numel() != values[name].numel():
                parameter.data = whole(values[name].detach())


def make_mesh(world: World) -> DeviceMesh:
    """All processes in one row."""
    return init_device_mesh(world.device.type, (world.size,))


def shard(denoiser: Denoiser, mesh: DeviceMesh) -> ShardedDenoiser:
    """Split a denoiser's parameters; :meth:`ShardedDenoiser.release` then frees its own.

    Every transformer block is one unit, gathered when it runs; embeddings, head and the rest stay
    gathered until the backward pass ends, because a large vocabulary's loss reads the head late.
    Two denoisers may have parameters in common: both are split before either is released.

    Args:
        denoiser: whole and equal on every process, on any device.

    Raises:
        ValueError: for a denoiser that contains no network to split.
    """
    memo: dict[int, object] = {id(denoiser.process): denoiser.process}
    memo |= {id(p): p for p in denoiser.parameters()}
    memo |= {id(b): b for b in denoiser.buffers()}
    twin = copy.deepcopy(denoiser, memo)
    scales = {
        name: value
        for name, parameter in twin.named_parameters()
        if (value := getattr(parameter, "lr_scale", None)) is not None
    }
    for leaf in _leaves(twin):
        units = list(_units(leaf))
        for unit in units:
            fully_shard(unit, mesh=mesh)
        # Without units the root must return tensors itself: its backward pass starts from them.
        fully_shard(leaf if units else _network(leaf), mesh=mesh, reshard_after_forward=False)
    for name, parameter in twin.named_parameters():
        if name in scales:
            parameter.lr_scale = scales[name]  # pyright: ignore[reportAttributeAccessIssue]
    return ShardedDenoiser(denoiser, twin)


def _leaves(denoiser: Denoiser) -> Iterator[Denoiser]:
    """Denoisers with parameters that contain no other denoiser: those that are called."""
    inner = [m for m in denoiser.modules() if isinstance(m, Denoiser) and m is not denoiser]
    if not inner:
        if next(denoiser.parameters(), None) is not None:
            yield denoiser
        return
    for child in denoiser.children():
        for module in child.modules():
            if isinstance(module, Denoiser):
                yield from _leaves(module)
                break


def _units(denoiser: Denoiser) -> Iterator[nn.Module]:
    """The repeated parts of its networks: members of the outermost lists of modules of one class
    that take and return tensors."""
    for name, module in denoiser.named_modules():
        last = name.rpartition(".")[2]
        # ALBERT's are called albert_layers.
        if isinstance(module, nn.ModuleList) and last.rpartition("_")[2] in _LISTS:
            yield from (m for m in module if next(m.parameters(), None) is not None)


_LISTS = ("blocks", "layers", "layer")


def _network(denoiser: Denoiser) -> nn.Module:
    """The network of a denoiser without units, which is split as one."""
    for name in ("network", "trunk"):
        part = getattr(denoiser, name, None)
        if isinstance(part, nn.Module):
            inside = {id(p) for p in part.parameters()}
            own = set(part.modules())
            outside = [module for module in denoiser.modules() if module not in own]
            if any(id(p) in inside for m in outside for p in m.parameters(recurse=False)):
                raise ValueError(
                    f"the network of this {type(denoiser).__name__} has parameters in common with "
                    f"its head and no list of layers ({', '.join(_LISTS)}) to split by; use "
                    "sharding='none'"
                )
            return part
    raise ValueError(
        f"a {type(denoiser).__name__} has no network (.network or .trunk) to split; "
        "use sharding='none'"
    )


def _roots(denoiser: nn.Module) -> list[FSDPModule]:
    """Split modules that lie in no other split module."""
    if isinstance(denoiser, FSDPModule):
        return [denoiser]
    return [root for child in denoiser.children() for root in _roots(child)]


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be split."""
    if not isinstance(target, DTensor):
        target.copy_(value)
        return
    part = distribute_tensor(
        value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )
    target.to_local().copy_(part.to_local())
