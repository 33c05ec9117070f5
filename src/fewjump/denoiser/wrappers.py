"""Wrappers around a network, and the marks that they leave in the names of its tensors.

A network that was saved from inside ``torch.compile``, ``DistributedDataParallel`` or a training
class has names such as ``model._orig_mod.module.encoder.weight``.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Collection, Iterable
from typing import TypeVar

import torch
from torch import nn

# torch.compile, DataParallel and DistributedDataParallel, FSDP, activation checkpointing.
MARKS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What classes that hold a network call it.
HOLDERS = ("model", "backbone")

Module = TypeVar("Module", bound=nn.Module)


def unwrapped(module: Module) -> Module:
    """A module without the wrappers around it and inside of it, on the same parameters.

    The module itself where there are none.
    """
    while len(module._modules) == 1 and (mark := next(iter(module._modules))) in MARKS:
        module = module._modules[mark]  # type: ignore[assignment]
    inner = {n: None if child is None else unwrapped(child) for n, child in module._modules.items()}
    if all(inner[name] is child for name, child in module._modules.items()):
        return module
    twin = copy.copy(module)
    twin.__dict__["_modules"] = inner
    return twin


def bare_name(name: str) -> str:
    """A tensor's name without the marks of wrappers, nor the holders that it begins with."""
    return split_name(name)[1]


def split_name(name: str) -> tuple[list[str], str]:
    """The holders that a tensor's name begins with, and what remains of it without marks."""
    parts = [part for part in name.split(".") if part not in MARKS]
    count = 0
    while count < len(parts) - 1 and parts[count] in HOLDERS:
        count += 1
    return parts[:count], ".".join(parts[count:])


def matched_names(found: Iterable[str], expected: Collection[str]) -> dict[str, str]:
    """The network's name of each of a file's tensors; the bare name where it has none.

    Args:
        found: names in the file.
        expected: names of the network's tensors.

    Raises:
        ValueError: if two names become one.
    """
    known = set(expected)
    own = {bare_name(name): name for name in known}
    out: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in found:
        bare = bare_name(name)
        out[name] = name if name in known else own.get(bare, bare)
        other = taken.setdefault(out[name], name)
        if other != name:
            raise ValueError(
                f"two tensors are called {out[name]} once wrappers are stripped, {other} and "
                f"{name}; leave one of the models in the file"
            )
    return out


def weights_checksum(module: nn.Module) -> str:
    """A checksum of every tensor of a module: which teacher this is."""
    value = 0
    for name, tensor in sorted(unwrapped(module).state_dict().items()):
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"
