"""One function for every source of data that the library knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from fewjump.data.corpus import corpus
from fewjump.data.dataset import Dataset
from fewjump.data.digits import digits
from fewjump.data.documents import is_documents
from fewjump.data.packing import Packing
from fewjump.data.text import builtin_text, line_file, text_file
from fewjump.data.tokenizer import TokenizerVocabulary
from fewjump.data.tokens import token_file
from fewjump.data.vocabulary import Vocabulary

DataKind: TypeAlias = Literal["auto", "characters", "bytes", "lines", "tokens", "documents"]

BUILTIN = ("digits", "text")
ARRAYS = (".npy", ".bin")
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
    vocabulary: Vocabulary | Any = None,
    field: str = "text",
    split: str = "train",
    limit: int | None = None,
    packing: Packing | None = None,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    cache_folder: str | Path | None = None,
) -> Dataset:
    """Load ``digits`` or ``text`` (built in), text, documents, or an array of tokens.

    Args:
        source: ``digits``, ``text``, a path, or ``hf:owner/name``, a data set of the hub.
        length: L. By default 64 for a stream, the longest line for lines, and the rows' own
            length otherwise.
        kind: how to read a file: ``characters``, ``bytes``, ``lines`` (one sample a line),
            ``tokens`` (.npy, .bin) or ``documents``. ``auto`` reads ``.npy`` and ``.bin`` as
            tokens, ``.jsonl``, ``.parquet``, folders and the hub as documents, and anything else
            as characters, or documents if there is a vocabulary.
        vocabulary: what to read documents, or tokens, in: a vocabulary, a tokenizer, or where to
            find one. By default their characters, or plain numbers.
        field, split, limit, packing: see :func:`fewjump.data.corpus.corpus`; for documents only.
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
    if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
        vocabulary = TokenizerVocabulary.from_tokenizer(vocabulary)
    if kind == "auto" and path.suffix not in ARRAYS:
        kind = "documents" if is_documents(source) or vocabulary is not None else kind
    if kind == "documents":
        if alphabet is not None or normalise or vocab_size is not None or image_shape is not None:
            raise ValueError(
                "documents are read in a vocabulary: give vocabulary=, and none of alphabet, "
                "normalise, vocab_size and image_shape"
            )
        return corpus(
            source,
            DEFAULT_LENGTH if length is None else length,
            vocabulary,
            field=field,
            split=split,
            limit=limit,
            packing=packing,
            cache_folder=cache_folder,
            **fractions,
        )
    if (field, split, limit, packing) != ("text", "train", None, None):
        raise ValueError(
            f"field, split, limit and packing are for documents; {source} is read as "
            f"{'characters' if kind == 'auto' else kind}"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file at {path}; give a text file, documents (.jsonl, .parquet), a .npy "
            f"file of tokens, or one of the built-in data sets: {', '.join(BUILTIN)}"
        )
    if kind == "auto":
        kind = "tokens" if path.suffix in ARRAYS else "characters"
    if kind == "tokens":
        return token_file(
            path,
            length,
            vocab_size=vocab_size,
            image_shape=image_shape,
            vocabulary=vocabulary,
            **fractions,
        )
    if vocabulary is not None:
        raise ValueError(f"{kind} bring their own vocabulary; use kind='documents' to give one")
    if vocab_size is not None or image_shape is not None:
        raise ValueError("vocab_size and image_shape belong to .npy files; text brings its own")
    if kind == "lines":
        if normalise:
            raise ValueError("lines are not normalised; give an alphabet or prepare the file")
        return line_file(path, length, alphabet=alphabet, **fractions)
    if kind not in ("characters", "bytes"):
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(get_args(DataKind))}")
    return text_file(
        path,
        DEFAULT_LENGTH if length is None else length,
        unit=kind,
        alphabet=alphabet,
        normalise=bool(normalise),
        cache_folder=cache_folder,
        **fractions,
    )
