"""Text as data: a stream cut into windows, or one sample a line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from fewjump.config import check_count
from fewjump.data.cache import cached_tokens, file_identity
from fewjump.data.dataset import (
    Dataset,
    as_tokens,
    check_fractions,
    split_blocks,
    windows,
)
from fewjump.data.pieces import Pieces
from fewjump.data.vocabulary import (
    PADDING,
    Array,
    Bytes,
    Characters,
    Vocabulary,
    refuse_padding,
)
from fewjump.random import permutation
from fewjump.textfile import check_file, decoded, refuse_unread

Unit: TypeAlias = Literal["characters", "bytes"]

LETTERS_AND_SPACE = "abcdefghijklmnopqrstuvwxyz "
MEMORY_LIMIT = 1 << 24
_CHUNK_BYTES = 1 << 22


def normalise_text(text: str) -> str:
    """Lower-case letters a–z, every run of anything else one space; accents are dropped."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in parts if not unicodedata.combining(c))
    return re.sub("[^a-z]+", " ", text.lower())


def text_file(
    path: str | Path,
    length: int,
    *,
    unit: Unit = "characters",
    alphabet: str | None = None,
    normalise: bool = False,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    cache_folder: str | Path | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Dataset:
    """A text file as one stream, cut into windows of ``length``; parts are contiguous blocks.

    Args:
        path: the file; characters are read as UTF-8, line ends become ``\\n``, and byte-order marks
            are dropped. Bytes are read as they are.
        length: tokens in a window, L.
        unit: ``characters`` or ``bytes``.
        alphabet: the characters in token order; those found in the file, sorted, by default.
        normalise: apply :func:`normalise_text`; the alphabet is then a–z and space.
        valid_fraction, test_fraction: of the windows.
        cache_folder: where the tokens of a large file are kept; see
            :func:`fewjump.data.cache.cached_tokens`.
        memory_limit: files of more bytes are encoded to the cache once, and memory-mapped.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, empty, too short, not UTF-8,
            or holds characters outside the alphabet.
    """
    path = _checked(path, length)
    check_fractions(valid_fraction, test_fraction)
    _check_options(unit, alphabet, normalise)
    vocabulary: Vocabulary
    pieces: Callable[[], Iterable[np.ndarray]]
    if unit == "bytes":
        vocabulary, pieces = Bytes(), partial(_byte_pieces, path)
    else:
        refuse_unread(path)
        read = partial(_characters, path, normalise)
        if all(text.isspace() for text in read()):
            raise ValueError(f"{path} holds nothing but white space")
        characters = Characters(alphabet or (LETTERS_AND_SPACE if normalise else _alphabet(read())))
        vocabulary, pieces = characters, partial(_token_pieces, read, characters)
    stream: Array
    if path.stat().st_size <= memory_limit:
        stream = as_tokens(np.concatenate(list(pieces())))
    else:
        identity = [*file_identity(path), vocabulary.config(), normalise]
        stream = cached_tokens(path, identity, vocabulary.size, pieces, cache_folder)
    parts = split_blocks(
        windows(stream, length, str(path)), valid_fraction, test_fraction, str(path)
    )
    described = f"{path.name}: {len(stream)} {unit} ({vocabulary.size} kinds), windows of {length}"
    return Dataset(*parts, vocabulary, described)


def text_stream(
    text: str,
    length: int,
    *,
    name: str = "text",
    alphabet: str | None = None,
    normalise: bool = False,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
) -> Dataset:
    """A string as :func:`text_file` treats a file's characters."""
    text = normalise_text(text) if normalise else text
    if not text:
        raise ValueError(f"{name} is empty")
    symbols = alphabet or (LETTERS_AND_SPACE if normalise else "".join(sorted(set(text))))
    vocabulary = Characters(symbols)
    rows = windows(vocabulary.encode(text), length, name)
    parts = split_blocks(rows, valid_fraction, test_fraction, name)
    described = f"{name}: {len(text)} characters ({vocabulary.size} kinds), windows of {length}"
    return Dataset(*parts, vocabulary, described)


def line_file(
    path: str | Path,
    length: int | None = None,
    *,
    alphabet: str | None = None,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """One sample a line, for names and the like; short lines end in a padding symbol of its own.

    Empty lines are skipped. Lines are shuffled before they are split, since such files are often
    sorted.

    Args:
        path: a UTF-8 file.
        length: L; the longest line by default.
        alphabet: the characters in token order, without the padding, which comes last; those
            found in the file by default.
        valid_fraction, test_fraction: of the lines.
        seed: of the shuffle.

    Raises:
        FileNotFoundError, ValueError: as :func:`text_file`, and for a line longer than ``length``.
    """
    path, lines = _lines(path, length)
    longest = max(map(len, lines))
    length = longest if length is None else length
    if longest > length:
        number = sum(len(line) > length for line in lines)
        raise ValueError(
            f"{number} line(s) of {path} are longer than {length}; the longest has {longest} "
            "characters: use that as length, or shorten them"
        )
    if alphabet is None:
        vocabulary = Characters.found_in("".join(lines), padded=True)
    else:
        vocabulary = Characters(alphabet + PADDING, PADDING)
    filled = "".join(line.ljust(length, PADDING) for line in lines)
    rows = vocabulary.encode(filled).reshape(-1, length)
    rows = rows[permutation(len(rows), seed)]
    parts = split_blocks(rows, valid_fraction, test_fraction, str(path))
    described = f"{path.name}: {len(lines)} lines of up to {length} characters"
    return Dataset(*parts, vocabulary, described)


def smiles_file(
    path: str | Path,
    length: int | None = None,
    *,
    symbols: Sequence[str] | None = None,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """One molecule a line, cut into atoms, bonds and rings (:data:`fewjump.data.SMILES`).

    What follows white space is the molecule's name, and left out. Otherwise as :func:`line_file`.

    Args:
        path: a UTF-8 file.
        length: L in symbols; that of the longest molecule by default.
        symbols: in token order, without the padding, which comes last; those found in the file by
            default.
        valid_fraction, test_fraction: of the lines.
        seed: of the shuffle.

    Raises:
        FileNotFoundError, ValueError: as :func:`line_file`, and for a line that is no SMILES.
    """
    path, lines = _lines(path, length)
    texts = [line.split(maxsplit=1)[0] for line in lines if line.strip()]
    given = None if symbols is None else Pieces([*symbols, PADDING], PADDING)
    vocabulary = Pieces.found_in(texts) if given is None else given
    rows = vocabulary.rows(texts, length)[permutation(len(texts), seed)]
    parts = split_blocks(rows, valid_fraction, test_fraction, str(path))
    described = f"{path.name}: {len(texts)} molecules of up to {rows.shape[1]} symbols"
    return Dataset(*parts, vocabulary, described)


def _lines(path: str | Path, length: int | None) -> tuple[Path, list[str]]:
    """The lines of a file that are not empty."""
    path = _checked(path, 1 if length is None else length)
    refuse_unread(path)
    text = "".join(_characters(path, normalise=False))
    lines = [line for line in text.split("\n") if line]
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path} holds empty lines only")
    refuse_padding(text, str(path))
    return path, lines


def _checked(path: str | Path, length: int) -> Path:
    path = Path(path)
    check_file(path, "text file")
    check_count(length, "length")
    return path


def _check_options(unit: str, alphabet: str | None, normalise: bool) -> None:
    if unit not in ("characters", "bytes"):
        raise ValueError(f"unit must be 'characters' or 'bytes', got {unit!r}")
    if unit == "bytes" and (alphabet is not None or normalise):
        raise ValueError("bytes have no alphabet and are not normalised; use unit='characters'")
    if normalise and alphabet is not None:
        raise ValueError("normalise fixes the alphabet to a–z and space; give one or the other")


def _byte_pieces(path: Path) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while raw := file.read(_CHUNK_BYTES):
            yield np.frombuffer(raw, np.uint8)


def _token_pieces(
    read: Callable[[], Iterator[str]], vocabulary: Characters
) -> Iterator[np.ndarray]:
    for text in read():
        yield vocabulary.encode_array(text)


def _alphabet(pieces: Iterable[str]) -> str:
    found: set[str] = set()
    for text in pieces:
        found |= set(text)
    return "".join(sorted(found))


def _characters(path: Path, normalise: bool) -> Iterator[str]:
    """The file's text in pieces, with line ends translated; pieces join to the normalised whole."""
    if not normalise:
        yield from decoded(path, _CHUNK_BYTES)
        return
    after_space = False
    for text in decoded(path, _CHUNK_BYTES):
        piece = normalise_text(text)
        # A run that is cut by the end of a piece is one space, not two.
        piece = piece.removeprefix(" ") if after_space else piece
        if piece:
            after_space = piece.endswith(" ")
            yield piece
