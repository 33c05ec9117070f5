"""Files and folders that are whole or absent, with the permissions that the umask gives.

What is written stands beside its place until it is on the disk, and is then renamed into it: a
reader finds the old or the new, and a writer that is killed or meets a full disk leaves the old.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KEPT = " (what was there before is kept; make room and run the same again)"
# How safetensors, which is written in Rust, tells what the system said.
_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``, for any writer, which takes its place when all went well.

    Its folder is created. What was there stays until the new file is on the disk, and for good
    where writing it fails.

    Raises:
        OSError: with ``path`` as its file's name, whatever library met a full disk.
    """
    # A link stays one: its target is replaced.
    target = Path(os.path.realpath(path))
    with naming(path):
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        with naming(path, temporary):
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            yield temporary
            # A writer may have put a file of its own there, which only its owner can read.
            if temporary.stat().st_mode != mode:
                temporary.chmod(mode & 0o7777)
            flush(temporary)
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    flush(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text, in UTF-8, as :func:`whole_file` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes as :func:`whole_file` does."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, which takes its place when all went well.

    Its parents are created. What is there stays until the new folder's files are on the disk, and
    for good where writing them fails.

    Raises:
        OSError: with the name that the file would have had, whatever library met a full disk.
    """
    # A link stays one: its target is replaced.
    target = Path(os.path.realpath(path))
    with naming(path):
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        with naming(path, temporary):
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                flush(file)
            _move_into_place(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(target.parent)


def resolve(path: Path) -> Path:
    """The folder to read: the replaced model, if a save was killed between its two renames.

    Raises:
        FileNotFoundError: if there is neither, or a file.
    """
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{path} is a file; give the folder of a saved model")
    if _previous(path).is_dir():
        return _previous(path)
    raise FileNotFoundError(f"there is no folder {path}")


def check_replaceable(path: Path, known: Collection[str]) -> None:
    """Raise where writing a folder would delete more than files of these names, or may not.

    Raises:
        ValueError: for a file, or a folder that holds others.
        PermissionError: if the folder, or the one that it is in, cannot be written.
    """
    check_writable(path.parent)
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{path} is a file; give a folder to save into")
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in known)
    if others:
        raise ValueError(
            f"{path} holds other files ({', '.join(others[:3])}) that saving would delete; "
            "give a folder of its own, or move them"
        )
    check_writable(path)


@contextmanager
def folder_made(folder: Path) -> Iterator[None]:
    """Make a folder and those that it is in; those still empty after the block are removed."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        # Only empty folders can be removed like this.
        with suppress(OSError):
            for one in made:
                one.rmdir()


def check_writable(folder: Path) -> None:
    """Raise if files cannot be made in a folder, or the folder, if it is not there yet.

    Raises:
        NotADirectoryError: if it, or a folder that it would be in, is a file.
        PermissionError: if the user may not write there.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(place))
    effective = os.access in os.supports_effective_ids
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=effective):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))


def check_file_writable(file: Path) -> None:
    """Raise, as :func:`check_writable` does, or IsADirectoryError, if a file cannot be made."""
    check_writable(file.parent)
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(file))


def check_readable(file: Path) -> None:
    """Raise the system's own error, with the file's name, if a file cannot be opened.

    A library that reads the file may call it damaged or missing.
    """
    with file.open("rb"):
        pass


def checksum(file: Path) -> str:
    """A checksum (CRC-32) of a file's bytes."""
    value = 0
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"


def remove_leftovers(folder: Path) -> None:
    """Remove what writers of this module that were killed left in a folder."""
    for path in folder.glob(".*.tmp"):
        if not re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one on each line; a last line that was cut short is left out.

    Raises:
        ValueError: for any other line that is none, with its number.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        elif number < len(lines):
            raise ValueError(f"{path} is damaged at line {number}; remove that line")
    return found


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name ``path`` in errors of the system that concern it, its temporary form or a full disk."""
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            number, name = _what_system_said(cause)
            if number is None and type(cause) is OSError:
                # NumPy says how much was written, and not why no more.
                raise OSError(f"{path}: {cause}{_KEPT}") from error
            about = name is not None and temporary is not None and _is_in(name, temporary)
            if number is None or not (about or number in _NO_ROOM):
                continue
            said = os.strerror(number)
            if number in _NO_ROOM:
                said += _KEPT
            if about:
                assert name is not None
                path = path / os.path.relpath(name, temporary)
            raise OSError(number, said, str(path)) from error
        raise


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of them, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those behind it: torch tells of a full disk in words of its own."""
    following: BaseException | None = error
    while following is not None:
        yield following
        # Of torch.distributed.checkpoint: what went wrong, by process.
        for cause, _ in getattr(following, "failures", {}).values():
            yield from _causes(cause)
        following = following.__cause__ or following.__context__


def _what_system_said(error: BaseException) -> tuple[int | None, str | None]:
    """The number and the file's name of an error of the system."""
    if isinstance(error, OSError):
        name = error.filename
        return error.errno, os.fsdecode(name) if isinstance(
            name, str | bytes | os.PathLike
        ) else None
    found = _RUST.search(str(error))
    return (int(found[1]), None) if found else (None, None)


def _is_in(name: str, place: Path) -> bool:
    return name == str(place) or name.startswith(f"{place}{os.sep}")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _previous(path: Path) -> Path:
    """Where the folder that is being replaced waits while the new one moves in."""
    return path.with_name(f".{path.name}.previous")


def _move_into_place(temporary: Path, path: Path) -> None:
    previous = _previous(path)
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    temporary.rename(path)
    shutil.rmtree(previous, ignore_errors=True)
