"""One restricted unpickler: a pickle becomes plain values and inert placeholders, or is refused.

It is the standard library's in its pure Python form, with every instruction that would look up,
call or change something replaced or left out: a name stays a name, and a call of it makes a
placeholder unless it is one of a few that are known. Memory is bounded by the size of the file.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fewjump.reading import CheckpointError, reason

COPY_BUDGET = 1 << 20
MAX_LINE = 4096


# -- what a pickle may become --------------------------------------------------------------------


@dataclass(frozen=True)
class Global:
    """A name that the file refers to. Only its text is kept."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:120]


class PlainDict(dict[Any, Any]):
    """A dictionary that takes a key once, and only one that is cheap to hash."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if as_key(key) in self:
            raise CheckpointError(f"the key {str(key)[:80]!r} occurs twice in one dictionary")
        super().__setitem__(key, value)


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
    entries: dict[Any, Any] = field(default_factory=PlainDict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.kind}>"

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """As a list does."""
        self.elements.append(value)

    def extend(self, values: list[Any]) -> None:
        """As a list does."""
        self.elements.extend(values)

    def attribute(self, name: str) -> Any:
        """An attribute of the state, None where there is none.

        Objects with ``__slots__`` store a pair of dictionaries.
        """
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        for state in states[:2]:
            if isinstance(state, dict) and name in state:
                return state[name]
        return None


def as_key(value: Any) -> Any:
    """A dictionary's key: plain and cheap to hash, or a placeholder that stands for itself."""
    if value is None or isinstance(value, bool | float | str | bytes | Global | Foreign):
        return value
    if isinstance(value, int) and abs(value) < 1 << 64:
        return value
    if type(value) is tuple and len(value) <= 8 and all(isinstance(v, int | str) for v in value):
        return value
    raise CheckpointError(f"a dictionary has a {type(value).__name__} as key; the file is damaged")


# -- names ---------------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Modules of the standard library whose objects are data. No model needs any other of it.
_PLAIN_MODULES = _words(
    "_codecs abc argparse array builtins collections contextlib copy copy_reg copyreg dataclasses "
    "datetime decimal enum fractions functools itertools numbers pathlib queue random re string "
    "textwrap time typing uuid warnings weakref zoneinfo"
)
# Names of Python 2's standard library, and packages that are there to run something.
_REFUSED_PACKAGES = _words(
    "cPickle cloudpickle commands dill distutils imp joblib pip popen2 setuptools"
)
_REFUSED_PREFIXES = tuple(
    f"{prefix}."
    for prefix in _words(
        "torch.load torch.save torch.compile torch.hub torch.jit torch.serialization torch.package "
        "torch.utils torch.distributed torch.multiprocessing torch.testing torch.fx torch.export "
        "torch.ops torch._inductor torch._dynamo torch.compiler torch.onnx "
        "numpy.testing numpy.f2py numpy.distutils"
    )
)
# Types that files name without calling them, or call with plain values.
_PLAIN_BUILTINS = _words(
    "NoneType bool bytearray bytes complex dict float frozenset int list long object range set "
    "slice str tuple type unicode"
)


def check_global(found: Global) -> Global:
    """Let a name pass that can be kept as a placeholder.

    Raises:
        CheckpointError: for a function or module that no model needs and an attack does.
    """
    root = found.module.partition(".")[0]
    standard = root in sys.stdlib_module_names or root in _REFUSED_PACKAGES or not root
    refused = (
        (standard and root not in _PLAIN_MODULES)
        or f"{found.module}.{found.name}.".startswith(_REFUSED_PREFIXES)
        or (root == "builtins" and found.name not in _PLAIN_BUILTINS)
        or found.name.partition(".")[0] in ("__import__", "__builtins__", "__loader__")
    )
    if refused:
        raise CheckpointError(
            f"the file asks for {found}, which no model needs; it was not executed. A checkpoint "
            "holds tensors and plain values only: do not trust this file, and get it again from "
            "its authors"
        )
    return found


# -- the unpickler -------------------------------------------------------------------------------


class _Bytes:
    """The file that the unpickler reads: never more is handed out than there is."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise CheckpointError(
                f"the pickle ends early: {count} bytes are announced at byte {self.at}, "
                f"{len(self.data) - self.at} are left; copy or download the file again"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def readline(self) -> bytes:
        end = self.data.find(b"\n", self.at, self.at + MAX_LINE)
        if end < 0:
            raise CheckpointError(f"the pickle is damaged: no end of the line at byte {self.at}")
        return self.read(end + 1 - self.at)


class _Instructions(dict[int, Callable[..., None]]):
    """What each instruction does."""

    def __missing__(self, code: int) -> Callable[..., None]:
        raise CheckpointError(
            f"the pickle holds the instruction {bytes([code])!r}, which checkpoints do not use; "
            "the file is damaged or was made to mislead"
        )


# What the standard library may carry out: these make, move and fill plain values. GLOBAL,
# STACK_GLOBAL and BINPERSID end in find_class and persistent_load.
_SAFE = (
    pickle.PROTO + pickle.STOP + pickle.MARK + pickle.POP + pickle.POP_MARK + pickle.DUP
    + pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE
    + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG1 + pickle.BINFLOAT
    + pickle.BINUNICODE + pickle.SHORT_BINUNICODE + pickle.BINUNICODE8
    + pickle.BINBYTES + pickle.SHORT_BINBYTES + pickle.BINBYTES8
    + pickle.BINSTRING + pickle.SHORT_BINSTRING
    + pickle.EMPTY_LIST + pickle.APPEND + pickle.APPENDS
    + pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
    + pickle.SETITEM + pickle.SETITEMS + pickle.EMPTY_SET
    + pickle.BINPUT + pickle.LONG_BINPUT + pickle.MEMOIZE + pickle.BINGET + pickle.LONG_BINGET
    + pickle.GLOBAL + pickle.STACK_GLOBAL + pickle.BINPERSID
)  # fmt: skip


class Unpickler(pickle._Unpickler):
    """Reads one pickle.

    Args:
        data: the pickle, protocol 2 to 5.
        find: what a reference to data outside of the pickle stands for.
        calls: (module, name) → what a call of it with a tuple of arguments makes, beside those of
            plain containers. What is returned must be plain, or refuse to be filled and changed.
    """

    dispatch = _Instructions({code: pickle._Unpickler.dispatch[code] for code in _SAFE})
    # Of the standard library: what is being made, what waits for it behind marks, and how to get
    # what came after the last mark.
    stack: list[Any]
    metastack: list[list[Any]]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self, data: bytes, find: Callable[[Any], Any], calls: Mapping[tuple[str, str], KnownCall]
    ) -> None:
        self.file, self.find = _Bytes(data), find
        self.calls = {**_PLAIN_CALLS, **calls}
        self.copies = 0
        # Texts of Python 2 stay the bytes they are.
        super().__init__(self.file, encoding="bytes")

    def load(self) -> Any:
        """Plain values and containers; :class:`Foreign` for objects, :class:`Global` for names.

        Raises:
            CheckpointError: for anything that is not a whole, harmless pickle.
        """
        try:
            value = super().load()
        except CheckpointError:
            raise
        except Exception as error:  # The standard library does not say what damage may raise.
            raise CheckpointError(
                f"the pickle is damaged near byte {self.file.at} of {len(self.file.data)}: "
                f"{type(error).__name__}: {reason(error, 100)}; copy or download the file again"
            ) from None
        if self.stack or self.metastack:
            raise CheckpointError("the pickle is damaged: it ends in the middle of a value")
        return value

    def find_class(self, module: str, name: str) -> Global:
        """A name, as its text; :func:`check_global` may refuse it."""
        return check_global(Global("builtins" if module == "__builtin__" else module, name))

    def persistent_load(self, pid: Any) -> Any:
        """What a reference to data outside of the pickle stands for."""
        return self.find(pid)

    def counted(self, items: Any) -> Any:
        """``items``, about to be copied: the same container may be copied again and again."""
        self.copies += len(items) + 1
        if self.copies > COPY_BUDGET + 8 * len(self.file.data):
            raise CheckpointError("the pickle copies itself without end; do not trust this file")
        return items

    def load_frame(self) -> None:
        # A frame says how much to read at once, and all of it is here.
        self.file.read(8)

    dispatch[pickle.FRAME[0]] = load_frame

    def load_empty_dict(self) -> None:
        self.stack.append(PlainDict())

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dict

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise CheckpointError(f"the pickle adds to a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(map(as_key, items))

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(map(as_key, items)))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, arguments))

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_reduce

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Foreign) and target.state is None:
            target.state = state
        elif not isinstance(target, PlainDict):
            raise CheckpointError(
                f"the pickle sets attributes of a {type(target).__name__}, or sets them twice; the "
                "file is damaged or was made to mislead"
            )

    dispatch[pickle.BUILD[0]] = load_build

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise CheckpointError(
                f"the pickle calls a {type(function).__name__}; the file is damaged or was made to "
                "mislead"
            )
        known = self.calls.get((function.module, function.name))
        if known is not None:
            return known(self, arguments)
        if function.name == "_reconstructor" and arguments:
            return self._call(arguments[0], ())
        # type(None) is how a pickle says NoneType.
        if function.name == "type" and len(arguments) != 1:
            raise CheckpointError("the pickle makes a class of its own, which no model needs")
        return Foreign(str(function), arguments)


KnownCall: TypeAlias = Callable[[Unpickler, tuple[Any, ...]], Any]


def _dict(unpickler: Unpickler, arguments: tuple[Any, ...]) -> PlainDict:
    out = PlainDict()
    # The default of a defaultdict is left aside; Python 2 gives pairs.
    pairs = arguments[0] if arguments and not isinstance(arguments[0], Global) else None
    for key, value in unpickler.counted(() if pairs is None else pairs):
        out[key] = value
    return out


def _encode(unpickler: Unpickler, arguments: tuple[Any, ...]) -> bytes:
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise CheckpointError("_codecs.encode is called in a form that pickle does not write")
    return unpickler.counted(arguments[0]).encode("latin1")


_PLAIN_CALLS: dict[tuple[str, str], KnownCall] = {
    ("collections", "OrderedDict"): _dict,
    ("collections", "defaultdict"): _dict,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): lambda u, arguments: set(map(as_key, u.counted(arguments[0]))),
    ("builtins", "frozenset"): lambda u, arguments: frozenset(map(as_key, u.counted(arguments[0]))),
}
