"""Networks whose sizes a file states, built on the meta device first: what they would take is known
before anything is taken.

A configuration of a few bytes can ask for terabytes. On the meta device tensors have shapes and no
memory, and building stops at the first parameter that the weights beside the configuration cannot
hold.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.overrides import TorchFunctionMode

from fewjump.files import check_readable

# Layers tie parameters after they are made, and make small tensors that no file holds.
_MORE_TENSORS, _MORE_NUMBERS = 256, 1 << 22
# transformers makes a dictionary of this many labels while it reads a configuration.
_LABELS = 1 << 16


def contents(files: Sequence[Path]) -> tuple[int, int]:
    """Bytes and number of tensors of files of weights, from their headers alone.

    Raises:
        PermissionError, FileNotFoundError: for a file that cannot be opened.
        ValueError: for one that is damaged.
    """
    tensors = 0
    for file in files:
        check_readable(file)
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as reader:
                    tensors += len(reader.keys())
            else:
                with zipfile.ZipFile(file) as archive:
                    tensors += len(archive.namelist())
        except (SafetensorError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file} is damaged: {error}; copy or save it again") from None
    return sum(file.stat().st_size for file in files), tensors


def check_labels(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a configuration of transformers that is large before it is a network."""
    labels = config.get("num_labels", 0)
    if isinstance(labels, int) and labels > _LABELS:
        raise ValueError(f"num_labels is {labels}; a language model has none, at most {_LABELS}")


class _Unfilled(TorchFunctionMode):
    """Initial values are not drawn: without memory they are nothing, and the way there is slow.

    The first draw on the meta device imports torch's compiler, which takes longer than to load a
    model.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def without_memory(size: int, tensors: int) -> Iterator[None]:
    """Build modules on the meta device, and no more of them than a file can hold.

    Args:
        size: bytes of the weights; a number takes one at least.
        tensors: how many the weights are.

    Raises:
        ValueError: at the first tensor that is too many or too large.
    """
    seen: dict[int, Tensor] = {}
    thread, most = threading.get_ident(), 4 * tensors + _MORE_TENSORS
    modules = numbers = 0

    def parameter(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal numbers
        # Other threads may build networks of their own meanwhile.
        if value is None or id(value) in seen or threading.get_ident() != thread:
            return
        seen[id(value)] = value
        numbers += value.numel()
        if numbers > size + _MORE_NUMBERS or len(seen) > most:
            raise ValueError(
                f"the sizes stated make {len(seen)} tensors of {numbers} numbers and more, which "
                f"weights of {tensors} tensors and {size} bytes cannot hold"
            )

    def submodule(module: nn.Module, name: str, value: nn.Module | None) -> None:
        nonlocal modules
        modules += threading.get_ident() == thread
        if modules > 2 * most:
            raise ValueError(
                f"the sizes stated make {modules} modules and more, which weights of {tensors} "
                "tensors cannot hold"
            )

    hooks = [
        registry.register_module_parameter_registration_hook(parameter),
        registry.register_module_buffer_registration_hook(parameter),
        registry.register_module_module_registration_hook(submodule),
    ]
    try:
        with torch.device("meta"), _Unfilled():
            yield
    finally:
        for hook in hooks:
            hook.remove()
