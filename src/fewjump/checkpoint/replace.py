"""Replace a model's folder: it is written beside its place and renamed into it when whole."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, which takes its place when all went well.

    Its parents are created. What is there stays until the new folder's files are on the disk, and
    for good where writing them fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        _move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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
    """Raise ValueError where saving would delete more than files of these names."""
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{path} is a file; give a folder to save into")
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in known)
    if others:
        raise ValueError(
            f"{path} holds other files ({', '.join(others[:3])}) that saving would delete; "
            "give a folder of the model's own"
        )


def _previous(path: Path) -> Path:
    """Where the model that is being replaced waits while the new one moves in."""
    return path.with_name(f".{path.name}.previous")


def _move_into_place(temporary: Path, path: Path) -> None:
    previous = _previous(path)
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
    temporary.rename(path)
    shutil.rmtree(previous, ignore_errors=True)


def _flush(file: Path) -> None:
    """Wait until the file is on the disk: a rename must not get there before its contents."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
