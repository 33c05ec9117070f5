"""One function for every source of data that the library knows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

from fewjump.data.dataset import Dataset
from fewjump.data.digits import digits
from fewjump.data.text import builtin_text, line_file, text_file
from fewjump.data.tokens import token_file

DataKind: TypeAlias = Literal["auto", "characters", "bytes", "lines", "tokens"]

BUILTIN = ("digits", "text")
DEFAULT_LENGTH = 64


class _Fractions(TypedDict):
    valid_fraction: float
    test_fraction: float


def load_data(
    source: str | Path,
    length: int | None = None,
    *,
    kind: DataKind = "auto",
    alphabet: str | None = None,
    normalise: bool | None = None,
    vocab_size: int | None = None,
    image_shape: tuple[int, int] | None = None,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    cache_folder: str | Path | None = None,
) -> Dataset:
    """Load ``digits`` or ``text`` (built in), a text file, or a ``.npy`` file of tokens.

    Args:
        source: ``digits``, ``text``, or a path.
        length: L. By default 64 for a stream, the longest line for lines, and the rows' own
            length otherwise.
        kind: how to read a file: ``characters``, ``bytes``, ``lines`` (one sample a line) or
            ``tokens`` (.npy). ``auto`` reads ``.npy`` as tokens and anything else as characters.
        alphabet: see :func:`fewjump.data.text_file`.
        normalise: reduce text to a–z and space; by default only for the built-in text.
        vocab_size, image_shape: see :func:`fewjump.data.token_file`.
        valid_fraction, test_fraction: sizes of the other two parts (the digits' are fixed).
        cache_folder: where the tokens of a large text are kept.

    Raises:
        FileNotFoundError, ValueError, ImportError: see the functions named.
    """
    fractions = _Fractions(valid_fraction=valid_fraction, test_fraction=test_fraction)
    if str(source) in BUILTIN and not Path(source).is_file():
        if kind != "auto":
            raise ValueError(f"kind is for files; {source!r} is built in")
        if source == "digits":
            if length not in (None, 64):
                raise ValueError(f"the digits have 64 pixels, so length cannot be {length}")
            return digits()
        use = True if normalise is None else normalise
        return builtin_text(length or DEFAULT_LENGTH, normalise=use, **fractions)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file at {path}; give a text file, a .npy file of tokens, or one of the "
            f"built-in data sets: {', '.join(BUILTIN)}"
        )
    if kind == "auto":
        kind = "tokens" if path.suffix == ".npy" else "characters"
    if kind == "tokens":
        return token_file(path, length, vocab_size=vocab_size, image_shape=image_shape, **fractions)
    if vocab_size is not None or image_shape is not None:
        raise ValueError("vocab_size and image_shape belong to .npy files; text brings its own")
    if kind == "lines":
        if normalise:
            raise ValueError("lines are not normalised; give an alphabet or prepare the file")
        return line_file(path, length, alphabet=alphabet, **fractions)
    if kind not in ("characters", "bytes"):
        raise ValueError(f"unknown kind {kind!r}; known: auto, characters, bytes, lines, tokens")
    return text_file(
        path,
        DEFAULT_LENGTH if length is None else length,
        unit=kind,
        alphabet=alphabet,
        normalise=bool(normalise),
        cache_folder=cache_folder,
        **fractions,
    )
