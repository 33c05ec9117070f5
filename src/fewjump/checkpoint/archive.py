"""The zip archives that ``torch.save`` writes, read without torch's own loader.

<name>/data.pkl      a pickle that refers to storages by number
<name>/data/<key>    the numbers of a storage, uncompressed
<name>/version, byteorder, …
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.pickled import STORAGE_TYPES, StoredStorage, StoredTensor
from fewjump.checkpoint.unpickle import unpickle

MAX_PICKLE = 1 << 28
MAX_RECORDS = 1 << 20


class Archive:
    """An open archive: its pickle as plain values, and its tensors when they are asked for.

    Args:
        path: a file that ``torch.save`` wrote.

    Attributes:
        value: what was saved, with :class:`~fewjump.checkpoint.pickled.StoredTensor` for tensors
            and :class:`~fewjump.checkpoint.pickled.Foreign` for objects of other classes.

    Raises:
        CheckpointError: if the file is no such archive, is damaged, or asks for anything to be
            executed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            records = self._zip.infolist()
        except Exception as error:  # zipfile raises a dozen kinds for damaged files
            raise CheckpointError(f"{path} {_what_instead(path)} ({error})") from None
        self._records = self._checked(records)
        try:
            self._read_header()
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

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
        self._blocks: dict[str, StoredStorage] = {}
        self.value = unpickle(self._read(pickles[0], MAX_PICKLE), self._find_storage)

    def _read(self, name: str, limit: int | None = None) -> bytes:
        record = self._records[name]
        if limit is not None and record.file_size > limit:
            raise CheckpointError(f"{name} has {record.file_size} bytes, more than any real one")
        try:
            data = self._zip.read(record)
        except Exception as error:  # as above; the checksum is one of them
            raise CheckpointError(
                f"{name[:80]} is damaged ({error}); copy or download the file again"
            ) from None
        if len(data) != record.file_size:
            raise CheckpointError(f"{name[:80]} is cut short; copy or download the file again")
        return data

    def _find_storage(self, kind: str, key: str, elements: int) -> StoredStorage:
        record = f"{self._root}/data/{key}"
        dtype = STORAGE_TYPES[kind]
        if record not in self._records:
            raise CheckpointError(f"the numbers of storage {key[:40]!r} are missing from the file")
        size = self._records[record].file_size
        if elements < 0 or size != elements * dtype.itemsize:
            raise CheckpointError(
                f"storage {key[:40]!r} should hold {elements} numbers of {dtype}, but has {size} "
                "bytes; the file is damaged or was made to mislead"
            )
        block = StoredStorage(record, dtype, elements)
        if self._blocks.setdefault(record, block) != block:
            raise CheckpointError(f"storage {key[:40]!r} is used with two types")
        return block

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor (contiguous, on the CPU); its checksum is verified.

        Raises:
            CheckpointError: if its bytes are damaged.
        """
        if math.prod(stored.shape) == 0:
            return torch.empty(stored.shape, dtype=stored.dtype)
        try:
            data = bytearray(self._read(stored.record))
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        flat = torch.frombuffer(data, dtype=torch.uint8)
        block = flat.view(stored.dtype)
        return block.as_strided(stored.shape, stored.stride, stored.offset).contiguous()


def _what_instead(path: Path) -> str:
    """What a file that is no zip archive looks like."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
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
    if head.lstrip()[:1] in (b"<", b"{"):
        return "is a text file, not a checkpoint (a saved error page?); download it again"
    return "is not an archive of torch.save"
