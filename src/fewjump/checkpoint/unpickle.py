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
from fewjump.checkpoint.machine import FindStorage, KnownCall, Machine, Operation, as_key
from fewjump.checkpoint.pickled import Global, check_global, stored_tensor


def unpickle(data: bytes, find_storage: FindStorage) -> Any:
    """The value a pickle describes.

    Args:
        data: the pickle, protocol 2 to 5.
        find_storage: (storage type, key, number of elements) → the checked block of the archive.

    Raises:
        CheckpointError: for anything that is not a whole, harmless pickle.
    """
    machine = Machine(data, find_storage, _OPERATIONS, _KNOWN_CALLS)
    try:
        return machine.run()
    except (IndexError, struct.error, UnicodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the pickle is damaged near byte {machine.at} of {len(data)}: "
            f"{type(error).__name__}; copy or download the file again"
        ) from None


# -- calls that are understood -------------------------------------------------------------------


def _empty_dict(machine: Machine, arguments: tuple[Any, ...]) -> dict[Any, Any]:
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


def _collect(make: Callable[[Any], Any]) -> KnownCall:
    def build(machine: Machine, arguments: tuple[Any, ...]) -> Any:
        items = arguments[0] if arguments else ()
        if not isinstance(items, list | tuple | bytes | frozenset | set):
            raise CheckpointError("a container is made from something that is not one")
        return make(machine.copied(items))

    return build


def _encode(machine: Machine, arguments: tuple[Any, ...]) -> bytes:
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise CheckpointError("_codecs.encode is called in a form that pickle does not write")
    return machine.copied(arguments[0]).encode("latin1", "strict")


def _tensor(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    del machine
    return stored_tensor(arguments)


def _parameter(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    del machine
    return arguments[0]


def _keys(items: Any) -> list[Any]:
    return [as_key(item) for item in items]


_KNOWN_CALLS: dict[tuple[str, str], KnownCall] = {
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


def _push(value: Callable[[Machine], Any]) -> Operation:
    def step(machine: Machine) -> None:
        machine.stack.append(value(machine))

    return step


def _protocol(machine: Machine) -> None:
    version = machine.number("B")
    if version > 5:
        raise CheckpointError(f"the pickle has protocol {version}; 2 to 5 are known")


def _global(machine: Machine) -> Global:
    return check_global(Global(machine.line(), machine.line()))


def _stack_global(machine: Machine) -> Global:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise CheckpointError("the pickle names something by other means than text")
    return check_global(Global(module, name))


def _tuple(count: int) -> Callable[[Machine], Any]:
    def value(machine: Machine) -> Any:
        items = [machine.pop() for _ in range(count)]
        return tuple(reversed(items))

    return value


def _reduce(machine: Machine) -> Any:
    arguments, function = machine.pop(), machine.pop()
    return machine.call(function, arguments)


def _newobj(machine: Machine) -> Any:
    arguments, cls = machine.pop(), machine.pop()
    return machine.new(cls, arguments)


def _newobj_ex(machine: Machine) -> Any:
    machine.pop()
    return _newobj(machine)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items(machine.stack[-1], [key, value])


def _set_items(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.set_items(machine.stack[-1], items)


def _append(machine: Machine) -> None:
    item = machine.pop()
    machine.append(machine.stack[-1], [item])


def _appends(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.append(machine.stack[-1], items)


def _add_items(machine: Machine) -> None:
    items, target = machine.pop_mark(), machine.stack[-1]
    if type(target) is not set:
        raise CheckpointError(f"the pickle adds to a {type(target).__name__}")
    target.update(_keys(items))


def _dict(machine: Machine) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    machine.set_items(out, machine.pop_mark())
    return out


def _pop(machine: Machine) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def _frame(machine: Machine) -> None:
    machine.number("Q")


_OPERATIONS: dict[bytes, Operation] = {
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
