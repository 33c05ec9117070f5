"""One function for every source of data that the library knows, and those that are built in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, get_args

import torch

from fewjump.config import check_count, one_of
from fewjump.data.corpus import corpus
from fewjump.data.dataset import Dataset
from fewjump.data.documents import is_documents, unused_by
from fewjump.data.text import line_file, smiles_file, text_file, text_stream
from fewjump.data.tokenizer import TokenizerVocabulary
from fewjump.data.tokens import token_file
from fewjump.data.vocabulary import ImageLevels, Vocabulary
from fewjump.random import permutation
from fewjump.reading import DataKind, Packing, TokenBits
from fewjump.textfile import check_file, refuse_structured, refuse_unread
from fewjump.tokenizing import is_hub

BUILTIN = ("digits", "text")
ARRAYS = (".npy", ".npz", ".bin")
DEFAULT_LENGTH = 64

_USED: dict[DataKind, set[str]] = {
    "auto": set(),
    "characters": {"alphabet", "normalise", "cache_folder"},
    "bytes": {"cache_folder"},
    "lines": {"alphabet"},
    "smiles": {"alphabet"},
    "tokens": {"vocab_size", "image_shape", "vocabulary", "token_bits"},
    "documents": {"vocabulary", "field", "split", "limit", "packing", "cache_folder"},
}
#: What the command line calls the options.
_FLAGS = {
    "vocabulary": "--tokenizer",
    "field": "--text-field",
    "split": "--split",
    "limit": "--documents",
    "packing": "--packing",
    "token_bits": "--token-bits",
    "cache_folder": "--cache",
}
_DIGITS_VALID, _DIGITS_TEST = 147, 450


class _Fractions(TypedDict):
    valid_fraction: float
    test_fraction: float


def load_data(
    source: str | Path,
    length: int | None = None,
    *,
    kind: DataKind = "auto",
    alphabet: str | Sequence[str] | None = None,
    normalise: bool | None = None,
    vocab_size: int | None = None,
    image_shape: tuple[int, int] | None = None,
    vocabulary: Vocabulary | Any = None,
    field: str = "text",
    split: str = "train",
    limit: int | None = None,
    packing: Packing | None = None,
    token_bits: TokenBits | None = None,
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
            ``tokens`` (.npy, .npz, .bin) or ``documents``. ``auto`` reads these as tokens,
            ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``, folders and the hub as
            documents, refuses what is known to be no text, and reads anything else as characters,
            or documents if there is a vocabulary.
        vocabulary: what to read documents, or tokens, in: a vocabulary, a tokenizer, or where to
            find one. By default their characters, or plain numbers.
        field, split, limit, packing: see :func:`fewjump.data.corpus.corpus`; for documents only.
        alphabet: see :func:`fewjump.data.text_file`; of molecules, a list of symbols.
        normalise: reduce text to a–z and space; by default only for the built-in text.
        vocab_size, image_shape, token_bits: see :func:`fewjump.data.token_file`.
        valid_fraction, test_fraction: sizes of the other two parts (the digits' are fixed).
        cache_folder: where the tokens of documents or of a large text are kept; see
            :func:`fewjump.data.cache.cached_tokens`.

    Raises:
        FileNotFoundError, ValueError, ImportError: see the functions named; ValueError for options
            that say nothing of this source.
    """
    fractions = _Fractions(valid_fraction=valid_fraction, test_fraction=test_fraction)
    one_of("kind", kind, get_args(DataKind))
    given = {
        "alphabet": alphabet is not None,
        "normalise": bool(normalise),
        "vocab_size": vocab_size is not None,
        "image_shape": image_shape is not None,
        "vocabulary": vocabulary is not None,
        "field": field != "text",
        "split": split != "train",
        "limit": limit is not None,
        "packing": packing is not None,
        "token_bits": token_bits is not None,
        "cache_folder": cache_folder is not None,
    }
    for name, count in (("length", length), ("vocab_size", vocab_size)):
        if count is not None:
            check_count(count, name)
    named = {option for option, was_given in given.items() if was_given}
    built_in = str(source) in BUILTIN and not Path(source).is_file()
    if built_in and kind != "auto":
        raise ValueError(f"kind is for files; {source!r} is built in")
    kind = "auto" if built_in else kind_of(source, kind, vocabulary is not None)
    used = {"normalise"} if str(source) == "text" and built_in else _USED[kind]
    if kind == "documents":
        used = used - unused_by(source)
    _refuse(named - used, str(source), "what is built in" if built_in else kind)
    if built_in and source == "digits":
        if length not in (None, 64):
            raise ValueError(f"the digits have 64 pixels, so length cannot be {length}")
        return digits()
    if built_in:
        use = True if normalise is None else normalise
        return builtin_text(length or DEFAULT_LENGTH, normalise=use, **fractions)
    path = Path(source)
    if vocabulary is not None and not isinstance(vocabulary, Vocabulary):
        vocabulary = TokenizerVocabulary.from_tokenizer(vocabulary)
    if kind == "documents":
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
    if kind == "tokens":
        return token_file(
            path,
            length,
            vocab_size=vocab_size,
            image_shape=image_shape,
            vocabulary=vocabulary,
            token_bits=token_bits,
            **fractions,
        )
    if kind == "smiles":
        return smiles_file(path, length, symbols=alphabet, **fractions)
    if alphabet is not None:
        alphabet = "".join(alphabet)
    if kind == "lines":
        return line_file(path, length, alphabet=alphabet, **fractions)
    assert kind in ("characters", "bytes")
    return text_file(
        path,
        DEFAULT_LENGTH if length is None else length,
        unit=kind,
        alphabet=alphabet,
        normalise=bool(normalise),
        cache_folder=cache_folder,
        **fractions,
    )


def kind_of(source: str | Path, kind: DataKind = "auto", in_words: bool = False) -> DataKind:
    """How a source is read, which its name tells where ``kind`` is ``auto``.

    Args:
        source: a path, or ``hf:owner/name``.
        kind: see :func:`load_data`.
        in_words: whether there is a vocabulary to read text in.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: for a format that is not read, or JSON, markup or a table under another name.
    """
    if is_hub(source):
        if kind not in ("auto", "documents"):
            raise ValueError(f"{source} is read as documents, not as {kind}")
        return "documents"
    path = Path(source)
    if kind != "documents" and not path.exists() and not is_documents(source):
        raise FileNotFoundError(
            f"there is no file at {path}; give a text file, documents (.jsonl, .csv, .parquet), a "
            f".npy file of tokens, or one of the built-in data sets: {', '.join(BUILTIN)}"
        )
    if kind != "auto":
        return kind
    if path.suffix.lower() in ARRAYS:
        return "tokens"
    if is_documents(source):
        return "documents"
    check_file(path)
    refuse_unread(path)
    refuse_structured(path)
    return "documents" if in_words else "characters"


def _refuse(names: set[str], source: str, kind: str) -> None:
    """Raise ValueError for options that say nothing of a source."""
    if names:
        said = ", ".join(
            f"{name} ({_FLAGS[name]})" if name in _FLAGS else name for name in sorted(names)
        )
        raise ValueError(
            f"{said}: not for {source}, which is read as {kind}; leave it out, or say another kind"
        )


def digits(seed: int = 0) -> Dataset:
    """The digits read row by row (L = 64), with labels: 1,200 to train on, 147 valid, 450 test.

    There are 1,797 pictures of 8 × 8 with 17 grey levels.

    Source: E. Alpaydin and C. Kaynak, UCI optical recognition of handwritten digits, test part,
    as scikit-learn ships it (``load_digits``).

    Args:
        seed: of the split. The default is the split of all published numbers of this library.

    Raises:
        ImportError: without scikit-learn, naming the extra to install.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the built-in digits come with scikit-learn: pip install 'fewjump[eval]'"
        ) from error
    bunch: Any = load_digits()
    vocabulary = ImageLevels(17, 8, 8)
    rows = vocabulary.encode(torch.from_numpy(bunch.images).round().long())
    classes = torch.from_numpy(bunch.target).long()
    total = rows.shape[0]
    train = total - _DIGITS_VALID - _DIGITS_TEST
    first, second, third = permutation(total, seed).split((train, _DIGITS_VALID, _DIGITS_TEST))
    return Dataset(
        rows[first],
        rows[second],
        rows[third],
        vocabulary,
        f"handwritten digits: {total} pictures of 8 × 8, 17 grey levels",
        {"train": classes[first], "valid": classes[second], "test": classes[third]},
    )


def builtin_text(
    length: int,
    *,
    normalise: bool = True,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
) -> Dataset:
    """The English text of Python's own bundled documentation (``pydoc_data.topics``).

    Args:
        length: tokens in a window, L.
        normalise: reduce it to a–z and space (27 symbols).
        valid_fraction, test_fraction: of the windows.

    Raises:
        RuntimeError: if this Python comes without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise RuntimeError(
            "this Python has no bundled documentation (module pydoc_data); give a text file instead"
        ) from error
    text = "\n".join(topics[name] for name in sorted(topics))
    return text_stream(
        text,
        length,
        name="Python documentation",
        normalise=normalise,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
    )
