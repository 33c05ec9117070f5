"""What a foreign pickle may become: plain values, descriptions of tensors, and inert placeholders.

Nothing here calls, imports or looks up anything that a file names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from fewjump.checkpoint.errors import CheckpointError

STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Types that files name without calling them, or call with plain values.
PLAIN_BUILTINS = _words(
    "list dict set frozenset tuple int long float str unicode bool bytes bytearray complex object "
    "slice range type NoneType"
)

# A pickle that names one of these wants something done: no model needs them.
REFUSED_MODULES = _words(
    "os posix nt posixpath ntpath subprocess sys importlib imp runpy shutil socket pty ctypes "
    "_ctypes operator _operator pickle _pickle cPickle pickletools dill cloudpickle joblib code "
    "codeop types webbrowser multiprocessing threading _thread asyncio signal tempfile pdb bdb "
    "timeit cProfile profile trace ensurepip pip urllib http ftplib smtplib xmlrpc sqlite3 inspect "
    "gc atexit marshal io _io platform commands popen2 builtin zipimport pkgutil site linecache "
    "fileinput distutils setuptools venv doctest unittest test idlelib lib2to3 logging concurrent "
    "select ssl telnetlib nntplib poplib imaplib getpass mmap resource fcntl termios tty"
)
REFUSED_PREFIXES = (
    "torch.hub",
    "torch.jit",
    "torch.serialization",
    "torch.package",
    "torch.utils",
    "torch.distributed",
    "torch.multiprocessing",
    "torch.testing",
    "torch.fx",
    "torch.export",
    "torch.ops",
    "torch._inductor",
    "torch._dynamo",
    "torch.compiler",
    "torch.onnx",
    "numpy.testing",
    "numpy.f2py",
    "numpy.distutils",
)
REFUSED_NAMES = frozenset({("torch", "load"), ("torch", "save"), ("torch", "compile")})


@dataclass(frozen=True)
class Global:
    """A name that the file refers to. Only its text is kept."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:120]


@dataclass(eq=False)
class Foreign:
    """An object of a class that is not rebuilt: what the file stored of it, and nothing more.

    Attributes:
        kind: module and name of the class.
        arguments: what its constructor would have been given.
        state: its attributes, as the file has them.
        entries: items, if it is like a dictionary.
        elements: items, if it is like a list.
    """

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.kind}>"

    def attribute(self, name: str) -> Any:
        """An attribute of the state, None where there is none.

        Objects with ``__slots__`` store a pair of dictionaries.
        """
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        for state in states[:2]:
            if isinstance(state, dict) and name in state:
                return state[name]
        return None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet: where its numbers are in the archive."""

    record: str
    dtype: torch.dtype
    elements: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class StoredStorage:
    """A block of numbers of an archive."""

    record: str
    dtype: torch.dtype
    elements: int


def check_global(found: Global) -> Global:
    """Let a name pass that can be kept as a placeholder.

    Raises:
        CheckpointError: for a function or module that no model needs and an attack does.
    """
    root = found.module.partition(".")[0]
    refused = (
        root in REFUSED_MODULES
        or (found.module, found.name) in REFUSED_NAMES
        or any(f"{found.module}.{found.name}.".startswith(f"{p}.") for p in REFUSED_PREFIXES)
        or (root in ("builtins", "__builtin__") and found.name not in PLAIN_BUILTINS)
        or not found.module
        or found.name.partition(".")[0] in ("__import__", "__builtins__", "__loader__")
    )
    if refused:
        raise CheckpointError(
            f"the file asks for {found}, which no model needs; it was not executed. A checkpoint "
            "holds tensors and plain values only: do not trust this file, and get it again from "
            "its authors"
        )
    return found


def stored_tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """What ``torch._utils._rebuild_tensor_v2`` describes, once it is known to fit its storage.

    Raises:
        CheckpointError: for arguments of another form, and for a shape, stride or offset that
            reaches outside of the storage.
    """
    if len(arguments) < 5 or not isinstance(arguments[0], StoredStorage):
        raise CheckpointError("a tensor without a storage was found; the file is damaged")
    storage, offset, shape, stride = arguments[:4]
    if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride)):
        raise CheckpointError("a tensor whose shape and strides disagree; the file is damaged")
    numbers = (offset, *shape, *stride)
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise CheckpointError(f"a tensor of an impossible shape in {storage.record}")
    count = 1
    for size in shape:
        count *= size
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride))
    if count > storage.elements or (count > 0 and last >= storage.elements):
        raise CheckpointError(
            f"a tensor of shape {shape}, strides {stride} and offset {offset} does not fit its "
            f"storage {storage.record} of {storage.elements} numbers; the file is damaged or was "
            "made to mislead"
        )
    return StoredTensor(storage.record, storage.dtype, storage.elements, offset, shape, stride)


def plain_config(value: Any, depth: int = 0, budget: list[int] | None = None) -> Any:
    """A configuration as plain dictionaries and lists, from OmegaConf's objects or from plain data.

    What is neither becomes None. Interpolations stay the text they are.

    Raises:
        CheckpointError: for a configuration that is deeper or larger than any real one.
    """
    budget = [100_000] if budget is None else budget
    budget[0] -= 1
    if depth > 24 or budget[0] < 0:
        raise CheckpointError("the stored configuration is nested without end; the file is damaged")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Foreign):
        if value.kind.startswith("omegaconf."):
            content = value.attribute("_content")
            content = value.attribute("_val") if content is None else content
            return plain_config(content, depth + 1, budget)
        if value.entries:
            return plain_config(value.entries, depth + 1, budget)
        return None
    if isinstance(value, dict):
        return {
            key: plain_config(entry, depth + 1, budget)
            for key, entry in value.items()
            if isinstance(key, str)
        }
    if isinstance(value, list | tuple):
        return [plain_config(entry, depth + 1, budget) for entry in value]
    return None


def foreign_kinds(value: Any, limit: int = 200_000) -> Iterator[str]:
    """Kinds of all placeholders inside a value, each once."""
    seen: set[int] = set()
    kinds: set[str] = set()
    stack = [value]
    while stack and limit > 0:
        limit -= 1
        item = stack.pop()
        if not isinstance(item, Foreign | dict | list | tuple) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Foreign):
            if item.kind not in kinds:
                kinds.add(item.kind)
                yield item.kind
            stack += [item.state, item.entries, item.elements, item.arguments]
        else:
            stack.extend(item.values() if isinstance(item, dict) else item)
