"""The zip archives that ``torch.save`` writes, read without torch's own loader.

<name>/data.pkl      a pickle that refers to storages by number
<name>/data/<key>    the numbers of a storage, uncompressed
<name>/version, byteorder, …
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fewjump.checkpoint.unpickle import Global, KnownCall, PlainDict, Unpickler
from fewjump.reading import TAKES, CheckpointError

MAX_PICKLE = 1 << 28
MAX_RECORDS = 1 << 20
CHUNK = 1 << 22
# Control characters that no text holds.
_NO_TEXT = {*range(9), *range(14, 27), *range(28, 32)}
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


@dataclass(frozen=True)
class StoredStorage:
    """A block of numbers of an archive."""

    record: str
    dtype: torch.dtype
    elements: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet: where its numbers are in the archive."""

    storage: StoredStorage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


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
    numbers = (offset, *shape[:9], *stride[:9])
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise CheckpointError(f"a tensor of an impossible shape in {storage.record}")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride))
    count = math.prod(shape)
    if count > storage.elements or (count > 0 and last >= storage.elements):
        raise CheckpointError(
            f"a tensor of shape {shape}, strides {stride} and offset {offset} does not fit its "
            f"storage {storage.record} of {storage.elements} numbers; the file is damaged or was "
            "made to mislead"
        )
    return StoredTensor(storage, offset, shape, stride)


CALLS: dict[tuple[str, str], KnownCall] = {
    ("torch._utils", "_rebuild_tensor_v2"): lambda _, arguments: stored_tensor(arguments),
    ("torch._utils", "_rebuild_parameter"): lambda _, arguments: arguments[0],
    ("torch", "Size"): lambda unpickler, arguments: tuple(unpickler.counted(arguments[0])),
}


class Archive:
    """An open archive: its pickle as plain values, and its tensors when they are asked for.

    Args:
        path: a file that ``torch.save`` wrote.

    Attributes:
        value: what was saved, with :class:`StoredTensor` for tensors and
            :class:`~fewjump.checkpoint.unpickle.Foreign` for objects of other classes.

    Raises:
        CheckpointError: if the file is no such archive, is damaged, or asks for anything to be
            executed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            records = self._zip.infolist()
        except Exception:  # zipfile raises a dozen kinds for damaged files
            raise CheckpointError(f"{path} {_what_instead(path)}") from None
        try:
            self._records = self._checked(records)
            try:
                self._read_header()
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def _checked(self, records: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        size = self.path.stat().st_size
        found: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for record in records[:MAX_RECORDS]:
            total += record.file_size
            if record.compress_type != zipfile.ZIP_STORED or record.compress_size != (
                record.file_size
            ):
                raise CheckpointError(
                    f"{self.path}: {record.filename[:80]} is compressed, which torch.save never "
                    "does; unpack it if it is a zip file with a checkpoint inside"
                )
            if record.filename in found:
                raise CheckpointError(f"{self.path} holds {record.filename[:80]} twice")
            found[record.filename] = record
        # Records of one file cannot hold more than the file: overlaps are a zip bomb.
        if total > size or len(records) > MAX_RECORDS:
            raise CheckpointError(
                f"{self.path} claims {total} bytes of contents in a file of {size}; it is damaged "
                "or was made to mislead"
            )
        return found

    def _read_header(self) -> None:
        pickles = [name for name in self._records if name.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].count("/") != 1:
            raise CheckpointError(
                "expected one data.pkl, as torch.save writes it, and found "
                f"{len(pickles)}; this zip file is no checkpoint"
            )
        self._root = pickles[0].partition("/")[0]
        byteorder = f"{self._root}/byteorder"
        if byteorder in self._records and self._read(byteorder, 16) != b"little":
            raise CheckpointError("it was written on a big-endian machine, which is not supported")
        self._storages: dict[str, StoredStorage] = {}
        data = self._read(pickles[0], MAX_PICKLE)
        self.value = Unpickler(data, self._find_storage, CALLS).load()

    def _read(self, name: str, limit: int) -> bytes:
        size = self._records[name].file_size
        if size > limit:
            raise CheckpointError(f"{name[:80]} has {size} bytes, more than any real one")
        data = bytearray(size)
        self._fill(memoryview(data), name)
        return bytes(data)

    def _fill(self, left: memoryview, name: str) -> None:
        """Read a record, whose checksum is verified, into memory of its size."""
        try:
            with self._zip.open(self._records[name]) as record:
                while count := cast(zipfile.ZipExtFile, record).readinto(left[:CHUNK]):
                    left = left[count:]
        except Exception as error:  # as above; the checksum is one of them
            raise CheckpointError(
                f"{name[:80]} is damaged ({error}); copy or download the file again"
            ) from None
        if left:
            raise CheckpointError(f"{name[:80]} is cut short; copy or download the file again")

    def _find_storage(self, reference: Any) -> StoredStorage:
        """The storage that the pickle refers to, none of which is read yet."""
        match reference:
            case (
                "storage",
                Global("torch" | "torch.storage", kind),
                str(key),
                _,
                int(elements),
            ) if kind in STORAGE_TYPES:
                record, dtype = f"{self._root}/data/{key}", STORAGE_TYPES[kind]
            case _:
                raise CheckpointError(
                    "the pickle refers to outside data in a form that torch.save does not write; "
                    f"the storages that can be read are {', '.join(STORAGE_TYPES)}"
                )
        if record not in self._records:
            raise CheckpointError(f"the numbers of storage {key[:40]!r} are missing from the file")
        size = self._records[record].file_size
        if elements < 0 or size != elements * dtype.itemsize:
            raise CheckpointError(
                f"storage {key[:40]!r} should hold {elements} numbers of {dtype}, but has {size} "
                "bytes; the file is damaged or was made to mislead"
            )
        storage = StoredStorage(record, dtype, elements)
        if self._storages.setdefault(record, storage) != storage:
            raise CheckpointError(f"storage {key[:40]!r} is used with two types")
        return storage

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor (contiguous, on the CPU); its checksum is verified.

        Raises:
            CheckpointError: if its bytes are damaged.
        """
        return self._view(stored, {}).contiguous()

    def tensors(self) -> Any:
        """What was saved as plain containers of tensors; those of one storage are views of it.

        Raises:
            CheckpointError: for damaged bytes, and for anything that is neither a tensor nor plain.
        """
        read: dict[str, Tensor] = {}
        done: dict[int, Any] = {}

        def whole(value: Any) -> Any:
            if value is None or isinstance(value, bool | int | float | str):
                return value
            if id(value) not in done:
                done[id(value)] = None
                done[id(value)] = made(value)
            if done[id(value)] is None:
                raise CheckpointError(f"{self.path} holds a container inside of itself")
            return done[id(value)]

        def made(value: Any) -> Any:
            if isinstance(value, StoredTensor):
                return self._view(value, read)
            if isinstance(value, PlainDict):
                return {key: whole(entry) for key, entry in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(map(whole, value))
            raise CheckpointError(f"{self.path} holds {value!r:.80}, which is no tensor")

        try:
            return whole(self.value)
        except RecursionError:
            raise CheckpointError(f"{self.path} is nested deeper than any real one") from None

    def _view(self, stored: StoredTensor, read: dict[str, Tensor]) -> Tensor:
        """A tensor of a storage, which is read unless it has been."""
        storage = stored.storage
        if math.prod(stored.shape) == 0:
            return torch.empty(stored.shape, dtype=storage.dtype)
        if storage.record not in read:
            # Memory as torch aligns it: on other, arithmetic may differ in the last bit.
            block = torch.empty(storage.elements * storage.dtype.itemsize, dtype=torch.uint8)
            try:
                self._fill(block.numpy().data, storage.record)
            except CheckpointError as error:
                raise CheckpointError(f"{self.path}: {error}") from None
            read[storage.record] = block.view(storage.dtype)
        return read[storage.record].as_strided(stored.shape, stored.stride, stored.offset)


def _what_instead(path: Path) -> str:
    """What a file that is no zip archive looks like."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head:
        return "is empty; copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; fetch it with git lfs pull"
    if head.startswith(b"PK"):
        return "is a damaged zip archive; copy or download it again"
    if head[:1] == b"\x80":
        return (
            "is a bare pickle, the format of torch.save before version 1.6; load and save it again "
            "with a newer torch, on a machine where you trust the file"
        )
    # A character may be cut at the end of what was read.
    if not set(head) & _NO_TEXT and "\ufffd" not in head.decode("utf-8", "replace")[:-3]:
        return f"is a text file, not a model; give {TAKES}"
    return f"is not an archive of torch.save; give {TAKES}"
