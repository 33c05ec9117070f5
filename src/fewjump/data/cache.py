"""Tokens of a large file, encoded once and memory-mapped afterwards."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from fewjump.files import whole_file
from fewjump.tokenizing import HUB, is_hub

# Changes whenever the same source and options become other tokens than before.
_VERSION = 2


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


def file_identity(source: Path) -> list[Any]:
    """What tells a file, or the files of a folder, from what they were before."""
    files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    states = [(str(file.relative_to(source.parent)), file.stat()) for file in files]
    # The time of the last change of any kind, too: a copied file may bring an older one's date.
    told = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in states]
    return [str(source.resolve()), told]


def cached_tokens(
    source: str | Path,
    identity: list[Any],
    vocab_size: int,
    pieces: Callable[[], Iterable[np.ndarray]],
    folder: str | Path | None = None,
) -> np.ndarray:
    """A read-only memory map of tokens (n,), made on the first call and whenever it is not whole.

    Args:
        source: the file or folder that is encoded, or a name of the hub.
        identity: JSON values that tell the tokens from any others (:func:`file_identity`): the
            file's name and its last bytes depend on them.
        vocab_size: V, from which the integer type follows.
        pieces: returns the tokens in pieces, from the start, at each call.
        folder: where the file is kept. By default ``.fewjump-cache`` beside the source, or in the
            working directory for the hub; where nothing may be written there, ``fewjump`` in
            ``$XDG_CACHE_HOME``, which is ``~/.cache`` by default; where nothing may be written
            there either, in a temporary file, for this run, with a warning.

    Raises:
        PermissionError: if nothing can be written in ``folder``.
    """
    told = json.dumps([_VERSION, identity], sort_keys=True).encode()
    seal = hashlib.sha256(told).digest()
    stem = str(source).removeprefix(HUB).replace("/", "-") if is_hub(source) else Path(source).stem
    name = f"{stem}-{seal.hex()[:16]}.npy"
    folders = [Path(folder)] if folder is not None else default_folders(source)
    for place in folders:
        if (found := _whole(place / name, seal)) is not None:
            return found
    for place in folders:
        if _writable(place):
            with whole_file(place / name) as temporary, temporary.open("wb") as file:
                _fill(file, token_dtype(vocab_size), pieces, seal)
            made = _whole(place / name, seal)
            if made is None:
                raise RuntimeError(f"{place / name} was not written whole; is the disk sound?")
            return made
    if folder is not None:
        raise PermissionError(f"nothing can be written in {folder}; name another --cache folder")
    warnings.warn(
        f"the tokens of {source} are made for this run only: nothing can be written in "
        f"{' or '.join(map(str, folders))}; name a folder for them with --cache (cache_folder=)",
        stacklevel=2,
    )
    with tempfile.TemporaryFile() as file:
        start, count = _fill(file, token_dtype(vocab_size), pieces, seal)
        if not count:
            return np.empty(0, token_dtype(vocab_size))
        return np.memmap(file, token_dtype(vocab_size), "r", start, (count,))


def default_folders(source: str | Path) -> list[Path]:
    """Where tokens may be kept: beside their source, else in the user's cache."""
    beside = Path(".") if is_hub(source) else Path(source).parent
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [beside / ".fewjump-cache", Path(home).expanduser() / "fewjump"]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (PermissionError, FileNotFoundError):
        return False
    except OSError as error:
        if error.errno == errno.EROFS:
            return False
        raise
    return os.access(folder, os.W_OK | os.X_OK)


def _whole(target: Path, seal: bytes) -> np.ndarray | None:
    """A map of the tokens of a file that is whole and bears the seal; None for any other."""
    try:
        with target.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            file.seek(end := file.tell() + shape[0] * dtype.itemsize)
            if target.stat().st_size != end + len(seal) or file.read() != seal:
                return None
    except (OSError, ValueError, IndexError):
        return None
    # Nothing cannot be mapped.
    return np.load(target, mmap_mode="r" if shape[0] else None, allow_pickle=False)


def _fill(
    file: IO[bytes], dtype: np.dtype, pieces: Callable[[], Iterable[np.ndarray]], seal: bytes
) -> tuple[int, int]:
    """Write a header, the tokens and the seal; returns where the tokens begin, and how many."""
    # The header says how many tokens follow, which only the end of the file tells: it is written
    # twice, in the same room (NumPy pads the shape to leave it).
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, {**header, "shape": (0,)})
    start = file.tell()
    for piece in pieces():
        file.write(narrowed(piece, dtype).tobytes())
    count = (file.tell() - start) // dtype.itemsize
    file.write(seal)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {**header, "shape": (count,)})
    if file.tell() != start:
        raise RuntimeError("NumPy's header changed its length; please report this")
    file.flush()
    return start, count
