"""A pickle machine that can build tensors' descriptions and plain containers, and nothing else.

Python's own unpickler calls whatever a file names. This one interprets the same instructions over
data alone: there is no call, no import and no attribute access in it, so that a file can at worst
be refused. Names other than the few below become :class:`~fewjump.checkpoint.pickled.Foreign`
placeholders. Memory is bounded by the size of the file: counts are checked against the bytes
that are left before anything is allocated, and copies are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.pickled import (
    STORAGE_TYPES,
    Foreign,
    Global,
    StoredStorage,
    check_global,
    stored_tensor,
)

FindStorage = Callable[[str, str, int], StoredStorage]
_MARK = object()
_MAX_INT_BYTES = 64
_COPY_BUDGET = 1 << 24


def unpickle(data: bytes, find_storage: FindStorage) -> Any:
    """The value a pickle describes.

    Args:
        data: the pickle, protocol 2 to 5.
        find_storage: (storage type, key, number of elements) → the checked block of the archive.

    Raises:
        CheckpointError: for anything that is not a whole, harmless pickle.
    """
    machine = _Machine(data, find_storage)
    try:
        return machine.run()
    except (IndexError, struct.error, UnicodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the pickle is damaged near byte {machine.at} of {len(data)}: "
            f"{type(error).__name__}; copy or download the file again"
        ) from None


class _Machine:
    def __init__(self, data: bytes, find_storage: FindStorage) -> None:
        self.data, self.at, self.find_storage = data, 0, find_storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.copies = 0

    # -- reading ----------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        if count < 0 or count > len(self.data) - self.at:
            raise CheckpointError(
                f"the pickle ends early: {count} bytes are announced at byte {self.at}, "
                f"{len(self.data) - self.at} are left; copy or download the file again"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0 or end - self.at > 4096:
            raise CheckpointError(f"the pickle is damaged: no end of the line at byte {self.at}")
        return self.take(end + 1 - self.at)[:-1].decode("utf-8")

    def text(self, form: str) -> str:
        return self.take(self.number(form)).decode("utf-8", "replace")

    def long(self, count: int) -> int:
        if count > _MAX_INT_BYTES:
            raise CheckpointError(f"an integer of {count} bytes is in the pickle; none needs that")
        return int.from_bytes(self.take(count), "little", signed=True)

    # -- the stack --------------------------------------------------------------------------

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise CheckpointError(f"the pickle is damaged: empty stack at byte {self.at}")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def copied(self, items: Any) -> Any:
        """``items`` itself, counted: the same container may be copied again and again."""
        self.copies += len(items) + 1
        if self.copies > _COPY_BUDGET + 8 * len(self.data):
            raise CheckpointError("the pickle copies itself without end; do not trust this file")
        return items

    # -- running ----------------------------------------------------------------------------

    def run(self) -> Any:
        while True:
            code = self.take(1)
            if code == b".":
                if len(self.stack) != 1 or self.marks:
                    raise CheckpointError("the pickle is damaged: it ends in the middle of a value")
                return self.stack[0]
            step = _OPERATIONS.get(code)
            if step is None:
                raise CheckpointError(
                    f"instruction {code!r} at byte {self.at - 1} of the pickle is not one that "
                    "checkpoints use; the file is damaged or was made to mislead"
                )
            step(self)

    def set_items(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise CheckpointError("the pickle is damaged: a key without a value")
        into = target.entries if isinstance(target, Foreign) else target
        if type(into) is not dict:
            raise CheckpointError(f"the pickle sets an item of a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2]):
            key = _as_key(key)
            if key in into:
                raise CheckpointError(f"the key {str(key)[:80]!r} occurs twice in one dictionary")
            into[key] = value

    def append(self, target: Any, items: list[Any]) -> None:
        into = target.elements if isinstance(target, Foreign) else target
        if type(into) is not list:
            raise CheckpointError(f"the pickle appends to a {type(target).__name__}")
        into.extend(items)

    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise CheckpointError(
                f"the pickle calls a {type(function).__name__}; the file is damaged or was made to "
                "mislead"
            )
        known = _KNOWN_CALLS.get((function.module, function.name))
        if known is not None:
            return known(self, arguments)
        if function.name == "_reconstructor" and arguments:
            return self.new(arguments[0], ())
        return self.new(function, arguments)

    def new(self, cls: Any, arguments: Any) -> Any:
        if not isinstance(cls, Global) or type(arguments) is not tuple:
            raise CheckpointError(f"the pickle makes an instance of a {type(cls).__name__}")
        if cls.name == "type":
            raise CheckpointError("the pickle makes a class of its own, which no model needs")
        if (cls.module, cls.name) in _KNOWN_CALLS:
            return self.call(cls, arguments)
        return Foreign(str(cls), arguments)

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Foreign):
            if target.state is not None:
                raise CheckpointError(f"the pickle sets the state of a {target.kind} twice")
            target.state = state
        elif type(target) is not dict:
            raise CheckpointError(
                f"the pickle sets attributes of a {type(target).__name__}; the file is damaged or "
                "was made to mislead"
            )

    def persistent(self) -> StoredStorage:
        known = self.pop()
        if (
            type(known) is not tuple
            or len(known) != 5
            or known[0] != "storage"
            or not isinstance(known[1], Global)
            or known[1].module not in ("torch", "torch.storage")
            or known[1].name not in STORAGE_TYPES
            or type(known[2]) is not str
            or type(known[4]) is not int
        ):
            raise CheckpointError(
                "the pickle refers to outside data in a form that torch.save does not write; the "
                f"storages that can be read are {', '.join(STORAGE_TYPES)}"
            )
        return self.find_storage(known[1].name, known[2], known[4])


# -- calls that are understood -------------------------------------------------------------------


def _empty_dict(machine: _Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    pairs = arguments[0] if arguments and not isinstance(arguments[0], Global) else ()
    if pairs is None:
        return out
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in machine.copied(pairs)
    ):
        raise CheckpointError("a dictionary is made from something that is no list of pairs")
    machine.set_items(out, [part for pair in pairs for part in pair])
    return out


def _collect(make: Callable[[Any], Any]) -> Callable[[_Machine, tuple[Any, ...]], Any]:
    def build(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
        items = arguments[0] if arguments else ()
        if not isinstance(items, list | tuple | bytes | frozenset | set):
            raise CheckpointError("a container is made from something that is not one")
        return make(machine.copied(items))

    return build


def _encode(machine: _Machine, arguments: tuple[Any, ...]) -> bytes:
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise CheckpointError("_codecs.encode is called in a form that pickle does not write")
    return machine.copied(arguments[0]).encode("latin1", "strict")


def _tensor(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    del machine
    return stored_tensor(arguments)


def _parameter(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    del machine
    return arguments[0]


def _as_key(value: Any) -> Any:
    """A dictionary's key: plain and cheap to hash, or a placeholder that stands for itself."""
    if value is None or isinstance(value, bool | float | str | bytes | Global):
        return value
    if isinstance(value, int) and abs(value) < 1 << 64:
        return value
    if type(value) is tuple and len(value) <= 8 and all(isinstance(v, int | str) for v in value):
        return value
    if isinstance(value, Foreign):
        return value
    raise CheckpointError(f"a dictionary has a {type(value).__name__} as key; the file is damaged")


def _keys(items: Any) -> list[Any]:
    return [_as_key(item) for item in items]


_KNOWN_CALLS: dict[tuple[str, str], Callable[[_Machine, tuple[Any, ...]], Any]] = {
    ("collections", "OrderedDict"): _empty_dict,
    ("collections", "defaultdict"): _empty_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _collect(tuple),
    ("_codecs", "encode"): _encode,
}
for _module in ("builtins", "__builtin__"):
    _KNOWN_CALLS |= {
        (_module, "dict"): _empty_dict,
        (_module, "list"): _collect(list),
        (_module, "tuple"): _collect(tuple),
        (_module, "set"): _collect(lambda items: set(_keys(items))),
        (_module, "frozenset"): _collect(lambda items: frozenset(_keys(items))),
    }


# -- instructions --------------------------------------------------------------------------------

_Operation = Callable[[_Machine], None]


def _push(value: Callable[[_Machine], Any]) -> _Operation:
    def step(machine: _Machine) -> None:
        machine.stack.append(value(machine))

    return step


def _protocol(machine: _Machine) -> None:
    version = machine.number("B")
    if version > 5:
        raise CheckpointError(f"the pickle has protocol {version}; 2 to 5 are known")


def _global(machine: _Machine) -> Global:
    return check_global(Global(machine.line(), machine.line()))


def _stack_global(machine: _Machine) -> Global:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise CheckpointError("the pickle names something by other means than text")
    return check_global(Global(module, name))


def _tuple(count: int) -> Callable[[_Machine], Any]:
    def value(machine: _Machine) -> Any:
        items = [machine.pop() for _ in range(count)]
        return tuple(reversed(items))

    return value


def _reduce(machine: _Machine) -> Any:
    arguments, function = machine.pop(), machine.pop()
    return machine.call(function, arguments)


def _newobj(machine: _Machine) -> Any:
    arguments, cls = machine.pop(), machine.pop()
    return machine.new(cls, arguments)


def _newobj_ex(machine: _Machine) -> Any:
    machine.pop()
    return _newobj(machine)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items(machine.stack[-1], [key, value])


def _set_items(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.set_items(machine.stack[-1], items)


def _append(machine: _Machine) -> None:
    item = machine.pop()
    machine.append(machine.stack[-1], [item])


def _appends(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.append(machine.stack[-1], items)


def _add_items(machine: _Machine) -> None:
    items, target = machine.pop_mark(), machine.stack[-1]
    if type(target) is not set:
        raise CheckpointError(f"the pickle adds to a {type(target).__name__}")
    target.update(_keys(items))


def _dict(machine: _Machine) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    machine.set_items(out, machine.pop_mark())
    return out


def _pop(machine: _Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _pop_mark(machine: _Machine) -> None:
    machine.pop_mark()


def _frame(machine: _Machine) -> None:
    machine.number("Q")


_OPERATIONS: dict[bytes, _Operation] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": _pop,
    b"1": _pop_mark,
    b"2": _push(lambda m: m.stack[-1]),
    b"N": _push(lambda m: None),
    b"\x88": _push(lambda m: True),
    b"\x89": _push(lambda m: False),
    b"J": _push(lambda m: m.number("i")),
    b"K": _push(lambda m: m.number("B")),
    b"M": _push(lambda m: m.number("H")),
    b"\x8a": _push(lambda m: m.long(m.number("B"))),
    b"\x8b": _push(lambda m: m.long(m.number("I"))),
    b"G": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    b"X": _push(lambda m: m.text("I")),
    b"\x8c": _push(lambda m: m.text("B")),
    b"\x8d": _push(lambda m: m.text("Q")),
    b"B": _push(lambda m: m.take(m.number("I"))),
    b"C": _push(lambda m: m.take(m.number("B"))),
    b"\x8e": _push(lambda m: m.take(m.number("Q"))),
    b"T": _push(lambda m: m.take(m.number("I"))),
    b"U": _push(lambda m: m.take(m.number("B"))),
    b"]": _push(lambda m: []),
    b")": _push(lambda m: ()),
    b"}": _push(lambda m: {}),
    b"\x8f": _push(lambda m: set()),
    b"l": _push(lambda m: m.pop_mark()),
    b"t": _push(lambda m: tuple(m.pop_mark())),
    b"d": _push(_dict),
    b"\x91": _push(lambda m: frozenset(_keys(m.pop_mark()))),
    b"\x85": _push(_tuple(1)),
    b"\x86": _push(_tuple(2)),
    b"\x87": _push(_tuple(3)),
    b"a": _append,
    b"e": _appends,
    b"s": _set_item,
    b"u": _set_items,
    b"\x90": _add_items,
    b"c": _push(_global),
    b"\x93": _push(_stack_global),
    b"R": _push(_reduce),
    b"\x81": _push(_newobj),
    b"\x92": _push(_newobj_ex),
    b"b": lambda m: m.build(),
    b"Q": _push(lambda m: m.persistent()),
    b"q": lambda m: m.remember(m.number("B")),
    b"r": lambda m: m.remember(m.number("I")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": _push(lambda m: m.memo[m.number("B")]),
    b"j": _push(lambda m: m.memo[m.number("I")]),
}
