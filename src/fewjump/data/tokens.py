"""A NumPy file of integer tokens."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from fewjump.data.dataset import Dataset, as_tokens, split_blocks, windows
from fewjump.data.vocabulary import Array, ImageLevels, Tokens, Vocabulary
from fewjump.reading import TokenBits
from fewjump.textfile import check_file, format_of

MEMORY_LIMIT = 1 << 24
_CHUNK_TOKENS = 1 << 22
_LARGEST = 1 << 24
# https://github.com/karpathy/llm.c: 256 int32 numbers, magic, version and count of tokens first.
_LLMC = {20240520: 16, 20240801: 32}
_LLMC_BYTES = 1024
# https://github.com/NVIDIA/Megatron-LM: indexed_dataset.py, magic, version (8 bytes), type (1).
_MEGATRON = b"MMIDIDX\0\0"
_MEGATRON_BITS = {1: 8, 4: 32, 5: 64, 8: 16}


def token_file(
    path: str | Path,
    length: int | None = None,
    *,
    vocab_size: int | None = None,
    image_shape: tuple[int, int] | None = None,
    vocabulary: Vocabulary | None = None,
    token_bits: TokenBits | None = None,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    memory_limit: int = MEMORY_LIMIT,
) -> Dataset:
    """Tokens from a ``.npy`` file: (n,), cut into windows; (N, L), a row each; (N, H, W), images.

    An ``.npz`` archive holds them as ``tokens``, a row each or images, and beside them the class of
    each row as ``labels`` (N,) and, for guided samples, its scale as ``guidance`` (N,); it is read
    into memory.

    A ``.bin`` file is a stream of unsigned numbers, the low byte first. How wide they are is said
    by the header that llm.c writes, by a Megatron ``.idx`` beside it, or by ``token_bits``;
    otherwise they have 16 bits, or 32 for a vocabulary beyond that. Parts are contiguous blocks of
    rows: shuffle a sorted file first.

    Args:
        path: the file, of any integer type.
        length: L; needed for a stream, and checked against the rows otherwise.
        vocab_size: V; the largest token + 1 by default.
        image_shape: (height, width) if rows (N, L) are images.
        vocabulary: what the tokens stand for; plain numbers by default.
        token_bits: how wide the tokens of a ``.bin`` file are.
        valid_fraction, test_fraction: of the rows.
        memory_limit: files of more bytes stay on disk, memory-mapped.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, empty, not an array of
            integers, too short, has tokens outside the vocabulary, or seems to have other numbers
            than it is read as.
    """
    path = Path(path)
    check_file(path, "NumPy file")
    if vocabulary is not None:
        if vocab_size is not None or image_shape is not None:
            raise ValueError("a vocabulary has its own size; leave out vocab_size and image_shape")
        vocab_size = vocabulary.size
    raw = path.suffix.lower() == ".bin"
    if token_bits is not None and (not raw or token_bits not in get_args(TokenBits)):
        known = ", ".join(map(str, get_args(TokenBits)))
        raise ValueError(f"token_bits (--token-bits) is one of {known}, for a .bin, not for {path}")
    beside: dict[str, np.ndarray] = {}
    if path.suffix.lower() == ".npz":
        array, beside = _open_archive(path)
    else:
        array = _open_raw(path, token_bits, vocab_size) if raw else _open(path)
    fix = f"; or is it not {array.itemsize * 8} bits wide? (--token-bits, token_bits=)" * raw
    largest = _check_range(array, vocab_size, path, fix)
    if vocabulary is not None:
        _check_meaning(array, vocabulary, path)
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
    sizes = [len(part) for part in parts]

    def of_parts(name: str) -> dict[str, torch.Tensor]:
        if name not in beside:
            return {}
        train, valid, test = torch.from_numpy(beside[name]).split(sizes)
        return {"train": train, "valid": valid, "test": test}

    return Dataset(*parts, vocabulary, described, of_parts("labels"), of_parts("guidance"))


def _open_archive(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The tokens of an .npz, and of ``labels`` and ``guidance`` what it has."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an archive of plain NumPy arrays: {error}") from error
    known = {"tokens", "labels", "guidance"}
    if "tokens" not in found or found.keys() - known:
        raise ValueError(
            f"{path} holds {', '.join(sorted(found)) or 'nothing'}; an .npz is read if it holds "
            "tokens, and beside them at most labels and guidance (for one array, use numpy.save)"
        )
    tokens = _checked_array(path, found.pop("tokens"))
    if tokens.ndim == 1:
        raise ValueError(
            f"{path} holds a stream; tokens beside labels are rows (N, L) or (N, H, W)"
        )
    for name, kinds in (("labels", "iu"), ("guidance", "f")):
        if name not in found:
            continue
        values = found[name]
        if values.dtype.kind not in kinds or values.shape != tokens.shape[:1]:
            asked = "whole numbers" if name == "labels" else "floating-point numbers"
            raise ValueError(
                f"{name} of {path} must be {tokens.shape[0]} {asked}, one a row; got "
                f"{values.dtype} of shape {values.shape}"
            )
        found[name] = values.astype(np.int64 if name == "labels" else np.float64)
    if "labels" in found and int(found["labels"].min()) < 0:
        raise ValueError(f"{path} holds label {int(found['labels'].min())}; labels must be ≥ 0")
    scales = found.get("guidance", np.zeros(0))
    wrong = scales[~(np.isfinite(scales) & (scales >= 0))]
    if wrong.size:
        raise ValueError(
            f"{path} holds guidance {wrong[0]:g}; scales of guidance must be finite and ≥ 0"
        )
    return np.ascontiguousarray(tokens), found


def _open(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        objects = any(word in str(error) for word in ("allow_pickle", "Python objects"))
        said = "an array of Python objects" if objects else str(error)
        raise ValueError(
            f"{path} is not a plain NumPy array (.npy): {said}; save one of integers"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive; name it .npz, with its rows as tokens")
    return _checked_array(path, array)


def _checked_array(path: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{path} holds {array.dtype}, not integer tokens; save it with .astype('uint16')"
        )
    if array.ndim not in (1, 2, 3) or array.size == 0:
        raise ValueError(
            f"{path} has shape {array.shape}; expected (n,), (N, L) or (N, H, W), not empty"
        )
    return array


def _open_raw(path: Path, bits: TokenBits | None, vocab_size: int | None) -> np.ndarray:
    """The numbers of a .bin file, (n,); what stands beside or before them says how wide they are.

    Without a header they are 16 bits wide, or 32 where the vocabulary needs it.
    """
    found = format_of(path)
    if found is not None:
        raise ValueError(f"{path} is {found}, not raw numbers; save the tokens as .npy")
    start, told = _header(path)
    if told is None and (index := path.with_suffix(".idx")).is_file():
        told = _index_bits(index, bits)
    if bits is not None and told not in (None, bits):
        raise ValueError(f"{path} says that its tokens have {told} bits, not {bits}; leave it out")
    width = bits or told or (32 if (vocab_size or 0) > 1 << 16 else 16)
    size = path.stat().st_size - start
    if size % (width // 8) or not size:
        raise ValueError(
            f"{path} has {size} bytes of tokens, no whole number of {width}-bit ones; say how wide "
            "they are: --token-bits, token_bits="
        )
    array = np.memmap(path, dtype=f"<u{width // 8}", mode="r", offset=start)
    for wider in (64, 32)[: 1 + (width == 8)]:
        if _spread(array, wider // width):
            raise ValueError(
                f"{path} holds tokens of {wider} bits, as its zeros tell; say so: "
                f"--token-bits {wider}, token_bits="
            )
    if bits is None and told is None and width == 16 and _looks_wider(array):
        raise ValueError(
            f"every second 16-bit number of {path} is next to 0, as if its tokens had 32 bits; say "
            "how wide they are: --token-bits 32 (or 16, if that is right), token_bits="
        )
    return array


def _header(path: Path) -> tuple[int, int | None]:
    """Bytes of a header that llm.c writes, and the width that it says; (0, None) without one."""
    with path.open("rb") as file:
        head = np.frombuffer(file.read(_LLMC_BYTES)[:12].ljust(12, b"\0"), "<i4")
    bits = _LLMC.get(int(head[0]))
    if bits is None:
        return 0, None
    held = (path.stat().st_size - _LLMC_BYTES) // (bits // 8)
    if held != head[2]:
        raise ValueError(
            f"{path} begins like a file of llm.c (version {head[1]}) of {head[2]} tokens of {bits} "
            f"bits, and has room for {held}; is it whole?"
        )
    return _LLMC_BYTES, bits


def _index_bits(index: Path, said: TokenBits | None) -> int | None:
    """How wide the tokens are that a Megatron index speaks of; one cut short may be overruled."""
    with index.open("rb") as file:
        head = file.read(18)
    if not head.startswith(_MEGATRON) or len(head) < 18:
        if said is not None:
            return None
        raise ValueError(
            f"{index} is no whole index of Megatron's, and so does not say how wide the tokens "
            "beside it are; copy it again, or say the width: --token-bits, token_bits="
        )
    bits = _MEGATRON_BITS.get(head[17])
    if bits is None:
        raise ValueError(f"{index} says that its .bin holds type {head[17]}, which is no token's")
    return bits


def _spread(array: np.ndarray, parts: int) -> bool:
    """Whether all but the first of every ``parts`` numbers are 0: pieces of wider ones."""
    if parts < 2 or len(array) < 2 * parts or len(array) % parts:
        return False
    pieces = array.reshape(-1, parts)[:_CHUNK_TOKENS]
    return int(pieces[:, 1:].max()) == 0 < int(pieces[:, 0].max())


def _looks_wider(array: np.ndarray) -> bool:
    """Whether 16-bit numbers are the halves of 32-bit tokens: low, high, low, high, …"""
    if len(array) < 2 or len(array) % 2:
        return False
    pairs = array.reshape(-1, 2)[:_CHUNK_TOKENS]
    low, high = int(pairs[:, 0].max()), int(pairs[:, 1].max())
    # 64 · 2^16 tokens are more than any vocabulary has.
    return high == 0 < low or (high < 64 and low >= 1024)


def _check_meaning(array: np.ndarray, vocabulary: Vocabulary, path: Path) -> None:
    """Refuse numbers that stand for no piece of a text: the mask, and those that no token has."""
    mask = () if vocabulary.mask is None else (vocabulary.mask,)
    barred = [*vocabulary.unused, *mask]
    flat = array.reshape(-1)
    for start in range(0, flat.shape[0] if barred else 0, _CHUNK_TOKENS):
        piece = flat[start : start + _CHUNK_TOKENS]
        found = piece[np.isin(piece, barred)]
        if found.size:
            token = int(found[0])
            what = "the mask" if token == vocabulary.mask else "a number that no token has"
            raise ValueError(
                f"{path} holds {token}, which is {what} of its vocabulary and so no part of a "
                "text; save the tokens of clean texts, made with this tokenizer"
            )


def _check_range(array: np.ndarray, vocab_size: int | None, path: Path, fix: str) -> int:
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
            f"{path} holds token {high}, outside 0..{vocab_size - 1}; give the vocabulary it was "
            f"made with (vocab_size={high + 1} has it){fix}"
        )
    if vocab_size is None and high >= _LARGEST:
        raise ValueError(f"{path} holds token {high}, which no vocabulary has{fix}")
    return high
