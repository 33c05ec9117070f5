"""A NumPy file of integer tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewjump.data.dataset import Dataset, as_tokens, split_blocks, windows
from fewjump.data.vocabulary import Array, ImageLevels, Tokens, Vocabulary

MEMORY_LIMIT = 1 << 24
_CHUNK_TOKENS = 1 << 22


def token_file(
    path: str | Path,
    length: int | None = None,
    *,
    vocab_size: int | None = None,
    image_shape: tuple[int, int] | None = None,
    vocabulary: Vocabulary | None = None,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    memory_limit: int = MEMORY_LIMIT,
) -> Dataset:
    """Tokens from a ``.npy`` file: (n,), cut into windows; (N, L), a row each; (N, H, W), images.

    A ``.bin`` file is a stream of 16-bit numbers, the low byte first, without a header. Parts are
    contiguous blocks of rows: shuffle a sorted file first.

    Args:
        path: the file, of any integer type.
        length: L; needed for a stream, and checked against the rows otherwise.
        vocab_size: V; the largest token + 1 by default.
        image_shape: (height, width) if rows (N, L) are images.
        vocabulary: what the tokens stand for; plain numbers by default.
        valid_fraction, test_fraction: of the rows.
        memory_limit: files of more bytes stay on disk, memory-mapped.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, empty, not an array of
            integers, too short, or has tokens outside the vocabulary.
    """
    path = Path(path)
    array = _open(path)
    if vocabulary is not None:
        if vocab_size is not None or image_shape is not None:
            raise ValueError("a vocabulary has its own size; leave out vocab_size and image_shape")
        vocab_size = vocabulary.size
    largest = _check_range(array, vocab_size, path)
    size = largest + 1 if vocab_size is None else vocab_size
    if array.ndim == 3:
        image_shape = (int(array.shape[1]), int(array.shape[2]))
        array = array.reshape(array.shape[0], -1)
    if array.ndim == 1 and length is None:
        raise ValueError(f"{path} is a stream of {array.shape[0]} tokens; say how long a window is")
    if array.ndim == 2 and length not in (None, array.shape[1]):
        raise ValueError(f"{path} has rows of {array.shape[1]} tokens, not of {length}")
    rows: Array = array
    if array.ndim == 1 and length is not None:
        rows = windows(array, length, str(path))
    vocabulary = Tokens(size) if vocabulary is None else vocabulary
    if image_shape is not None:
        if image_shape[0] * image_shape[1] != rows.shape[1]:
            raise ValueError(f"rows of {rows.shape[1]} tokens are no images of {image_shape}")
        vocabulary = ImageLevels(max(2, size), *image_shape)
    if path.stat().st_size <= memory_limit:
        rows = as_tokens(rows)
    parts = split_blocks(rows, valid_fraction, test_fraction, str(path))
    described = f"{path.name}: {rows.shape[0]} sequences of {rows.shape[1]} tokens below {size}"
    return Dataset(*parts, vocabulary, described)


def _open(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"there is no NumPy file at {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    if path.suffix == ".bin":
        if path.stat().st_size % 2:
            raise ValueError(f"{path} has an odd number of bytes, so it is no 16-bit tokens")
        return np.memmap(path, dtype="<u2", mode="r")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a plain NumPy array (.npy): {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive (.npz); save the one array with numpy.save")
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{path} holds {array.dtype}, not integer tokens; save it with .astype('uint16')"
        )
    if array.ndim not in (1, 2, 3) or array.size == 0:
        raise ValueError(
            f"{path} has shape {array.shape}; expected (n,), (N, L) or (N, H, W), not empty"
        )
    return array


def _check_range(array: np.ndarray, vocab_size: int | None, path: Path) -> int:
    """The largest token; reads the array in pieces."""
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        raise ValueError(f"{path} is in Fortran order; save it with numpy.ascontiguousarray")
    flat = array.reshape(-1)
    low, high = 0, 0
    for start in range(0, flat.shape[0], _CHUNK_TOKENS):
        piece = flat[start : start + _CHUNK_TOKENS]
        low, high = min(low, int(piece.min())), max(high, int(piece.max()))
    if low < 0:
        raise ValueError(f"{path} holds token {low}; tokens must be ≥ 0")
    if vocab_size is not None and high >= vocab_size:
        raise ValueError(
            f"{path} holds token {high}, outside 0..{vocab_size - 1}; use vocab_size={high + 1}"
        )
    return high
