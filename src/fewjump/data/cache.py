"""Tokens of a large file, encoded once and memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds {0..vocab_size−1}."""
    return np.min_scalar_type(vocab_size - 1)


def narrowed(tokens: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Tokens in an unsigned type.

    Raises:
        ValueError: for a token that the type cannot hold.
    """
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) <= np.iinfo(dtype).max:
        raise ValueError(
            f"tokens {int(tokens.min())}..{int(tokens.max())} do not fit {dtype}; does the "
            "vocabulary give its size as the largest token + 1?"
        )
    return tokens.astype(dtype)


def encoded_file(
    source: Path,
    folder: Path,
    key: Any,
    vocab_size: int,
    pieces: Callable[[], Iterable[np.ndarray]],
) -> np.ndarray:
    """A read-only memory map of a file's tokens (n,), made on the first call.

    The cached file's name depends on the source's path, size and time of change and on ``key``,
    so that a file that changed is encoded again. It appears in one move: an interrupted run
    leaves no half of it behind under its name.

    Args:
        source: the file that is encoded.
        folder: of the cache, made if need be.
        key: JSON value of whatever else the tokens depend on.
        vocab_size: V, from which the integer type follows.
        pieces: returns the tokens in pieces, from the start, at each call.
    """
    return cached_tokens(source.stem, [*file_identity(source), key], folder, vocab_size, pieces)


def file_identity(source: Path) -> list[Any]:
    """What tells a file, or the files of a folder, from what they were before."""
    files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    states = [(str(file.relative_to(source.parent)), file.stat()) for file in files]
    if not source.is_dir():
        return [str(source.resolve()), states[0][1].st_size, states[0][1].st_mtime_ns]
    told = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
    return [str(source.resolve()), told]


def cached_tokens(
    stem: str,
    identity: list[Any],
    folder: Path,
    vocab_size: int,
    pieces: Callable[[], Iterable[np.ndarray]],
) -> np.ndarray:
    """As :func:`encoded_file`, for anything that ``identity`` (JSON values) tells apart."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    target = folder / f"{stem}-{digest}.npy"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write(target, token_dtype(vocab_size), pieces)
    with target.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    # Nothing cannot be mapped.
    return np.load(target, mmap_mode="r" if shape[0] else None, allow_pickle=False)


def _write(target: Path, dtype: np.dtype, pieces: Callable[[], Iterable[np.ndarray]]) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            # The header says how many tokens follow, which only the end of the file tells: it is
            # written twice, in the same room (NumPy pads the shape to leave it).
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, {**header, "shape": (0,)})
            start = file.tell()
            for piece in pieces():
                narrowed(piece, dtype).tofile(file)
            count = (file.tell() - start) // dtype.itemsize
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, {**header, "shape": (count,)})
            if file.tell() != start:
                raise RuntimeError("NumPy's header changed its length; please report this")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
