"""The stack machine that interprets a pickle over data alone: nothing is called or imported."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.pickled import STORAGE_TYPES, Foreign, Global, StoredStorage

FindStorage = Callable[[str, str, int], StoredStorage]
Operation: TypeAlias = Callable[["Machine"], None]
KnownCall: TypeAlias = Callable[["Machine", tuple[Any, ...]], Any]
MAX_INT_BYTES = 64
COPY_BUDGET = 1 << 24


class Machine:
    """The state of one run: the stack, the marks, the memo, and where in the file it is.

    Args:
        data: the pickle.
        find_storage: see :func:`fewjump.checkpoint.unpickle.unpickle`.
        operations: what each instruction does.
        known_calls: (module, name) → what a call of it means; others become placeholders.
    """

    def __init__(
        self,
        data: bytes,
        find_storage: FindStorage,
        operations: Mapping[bytes, Operation],
        known_calls: Mapping[tuple[str, str], KnownCall],
    ) -> None:
        self.data, self.at, self.find_storage = data, 0, find_storage
        self.operations, self.known_calls = operations, known_calls
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
        if count > MAX_INT_BYTES:
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
        if self.copies > COPY_BUDGET + 8 * len(self.data):
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
            step = self.operations.get(code)
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
            key = as_key(key)
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
        known = self.known_calls.get((function.module, function.name))
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
        if (cls.module, cls.name) in self.known_calls:
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


def as_key(value: Any) -> Any:
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
