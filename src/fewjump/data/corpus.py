"""Documents as a data set: tokenised and packed once, memory-mapped from then on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fewjump.config import check_count, one_of
from fewjump.data.cache import cached_tokens, file_identity
from fewjump.data.dataset import Dataset, check_fractions, split_blocks
from fewjump.data.documents import read_documents
from fewjump.data.tokenizer import TokenizerVocabulary
from fewjump.data.vocabulary import PADDING, Characters, Vocabulary, refuse_padding
from fewjump.reading import Packing
from fewjump.textfile import check_file
from fewjump.tokenizing import is_hub

# Rows that "fit" keeps open for a document that is short enough.
_OPEN_ROWS = 64
_ROWS = 256
_BATCH = 512


def corpus(
    source: str | Path,
    length: int,
    vocabulary: Vocabulary | Any = None,
    *,
    field: str = "text",
    split: str = "train",
    limit: int | None = None,
    packing: Packing | None = None,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    cache_folder: str | Path | None = None,
) -> Dataset:
    """Documents of a file, a data set's folder, or the hub as rows of ``length`` tokens.

    They are read, tokenised and packed once, as a stream, into a file that is memory-mapped
    afterwards. Every row is framed as the vocabulary says (``[CLS]`` … ``[SEP]``).

    Args:
        source, field, split, limit: see :func:`fewjump.data.documents.read_documents`.
        length: tokens of a row, L.
        vocabulary: a vocabulary, a tokenizer or where to find one; by default the characters of
            the documents, with a padding symbol.
        packing: see :func:`pack`; by default ``documents`` for characters with a padding symbol,
            given or found, and ``stream`` for others.
        valid_fraction, test_fraction: of the rows; parts are contiguous blocks.
        cache_folder: where the rows are kept; see :func:`fewjump.data.cache.cached_tokens`.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: for a source that cannot be read, or
            rows that cannot be made.
    """
    check_fractions(valid_fraction, test_fraction)
    check_count(length, "length")
    on_hub = is_hub(source)
    if not on_hub and not Path(source).is_dir():
        check_file(Path(source), "file or folder")
    options: dict[str, Any] = {"field": field, "split": split, "limit": limit}

    def documents() -> Iterator[str]:
        return read_documents(source, **options)

    if vocabulary is None:
        symbols = set(chain.from_iterable(documents()))
        if not symbols:
            raise ValueError(f"{source} holds no documents")
        refuse_padding("".join(symbols), str(source))
        vocabulary = Characters("".join(sorted(symbols)) + PADDING, PADDING)
    elif not isinstance(vocabulary, Vocabulary):
        vocabulary = TokenizerVocabulary.from_tokenizer(vocabulary)
    opening, closing = vocabulary.frame
    padding = vocabulary.padding_token
    if packing is None:
        padded = padding is not None and not isinstance(vocabulary, TokenizerVocabulary)
        packing = "documents" if padded else "stream"
    # A separator is kept by noise and seen by networks, wherever it stands.
    fill = vocabulary.separator if padding is None else padding
    shape = Shape(length, opening, closing, vocabulary.separator, fill)

    def pieces() -> Iterable[np.ndarray]:
        texts = documents()
        batches = iter(lambda: list(islice(texts, _BATCH)), [])
        tokens = chain.from_iterable(vocabulary.encode_batch(batch) for batch in batches)
        return (rows.reshape(-1) for rows in pack(tokens, shape, packing))

    identity = [str(source)] if on_hub else file_identity(Path(source))
    said = [vocabulary.config(), packing, length, options]
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    stream = cached_tokens(source, [*identity, key], vocabulary.size, pieces, cache_folder)
    if stream.shape[0] == 0:
        raise ValueError(
            f"{source} has no row of {length} tokens; use a shorter length or more documents"
        )
    rows = stream.reshape(-1, length)
    parts = split_blocks(rows, valid_fraction, test_fraction, str(source))
    name = str(source) if on_hub else Path(source).name
    described = f"{name}: {len(rows)} rows of {length} {vocabulary.name}, packed as {packing}"
    return Dataset(*parts, vocabulary, described)


@dataclass(frozen=True)
class Shape:
    """How a row is put together.

    Attributes:
        length: tokens of a row, L.
        opening, closing: tokens that every row begins and ends with.
        separator: token after each document of a stream, and between documents that share a row;
            None for none.
        padding: token after the end of a short row; None where rows must be full.
    """

    length: int
    opening: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    separator: int | None = None
    padding: int | None = None

    @property
    def room(self) -> int:
        """Tokens of documents that a row holds."""
        return self.length - len(self.opening) - len(self.closing)


def pack(documents: Iterable[np.ndarray], shape: Shape, packing: Packing) -> Iterator[np.ndarray]:
    """Rows (n, L) int64 in pieces.

    * ``stream``: documents end to end, cut wherever a row is full; what is left at the end is
      dropped. Nothing is padded.
    * ``documents``: every row holds tokens of one document, in pieces if it is longer than a row.
    * ``fit``: whole documents share a row as long as they fit; a longer one is cut.

    Args:
        documents: tokens (n,) of each, without what frames them.
        shape: of the rows.
        packing: see above.

    Raises:
        ValueError: for a row with no room, or padding that is needed and not there.
    """
    if shape.room < 1:
        raise ValueError(
            f"a row of {shape.length} tokens has no room beside the {shape.length - shape.room} "
            "that frame it; use a longer length"
        )
    if packing == "stream":
        return _stream(documents, shape)
    one_of("packing", packing, get_args(Packing))
    if shape.padding is None:
        raise ValueError(
            f"packing {packing!r} fills short rows with padding, which this vocabulary has not; "
            "use packing='stream'"
        )
    contents = _pieces(documents, shape) if packing == "documents" else _fitted(documents, shape)
    return _padded(contents, shape)


def _stream(documents: Iterable[np.ndarray], shape: Shape) -> Iterator[np.ndarray]:
    end = np.array([] if shape.separator is None else [shape.separator], dtype=np.int64)
    waiting: list[np.ndarray] = []
    count = 0
    for document in documents:
        waiting += [document, end]
        count += len(document) + len(end)
        if count >= _ROWS * shape.room:
            rows, rest = _cut(np.concatenate(waiting), shape)
            yield rows
            waiting, count = [rest], len(rest)
    if waiting:
        rows, _ = _cut(np.concatenate(waiting), shape)
        if len(rows):
            yield rows


def _cut(tokens: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Full rows, framed, and the tokens that are left."""
    full = len(tokens) // shape.room * shape.room
    content = tokens[:full].reshape(-1, shape.room)
    rows = np.empty((len(content), shape.length), dtype=np.int64)
    start = len(shape.opening)
    rows[:, :start] = shape.opening
    rows[:, start : start + shape.room] = content
    rows[:, start + shape.room :] = shape.closing
    return rows, tokens[full:]


def _pieces(documents: Iterable[np.ndarray], shape: Shape) -> Iterator[np.ndarray]:
    for document in documents:
        for start in range(0, len(document), shape.room):
            yield document[start : start + shape.room]


def _fitted(documents: Iterable[np.ndarray], shape: Shape) -> Iterator[np.ndarray]:
    """First fit among a bounded number of open rows; the oldest is closed for a new one."""
    end = np.array([] if shape.separator is None else [shape.separator], dtype=np.int64)
    open_rows: list[list[np.ndarray]] = []
    sizes: list[int] = []
    for piece in _pieces(documents, shape):
        for number, size in enumerate(sizes):
            if size + len(end) + len(piece) <= shape.room:
                open_rows[number] += [end, piece]
                sizes[number] += len(end) + len(piece)
                break
        else:
            if len(sizes) == _OPEN_ROWS:
                yield np.concatenate(open_rows.pop(0))
                sizes.pop(0)
            open_rows.append([piece])
            sizes.append(len(piece))
    yield from (np.concatenate(row) for row in open_rows)


def _padded(contents: Iterable[np.ndarray], shape: Shape) -> Iterator[np.ndarray]:
    rows: list[np.ndarray] = []
    for content in contents:
        row = np.full(shape.length, shape.padding, dtype=np.int64)
        framed = (*shape.opening, *content, *shape.closing)
        row[: len(framed)] = framed
        rows.append(row)
        if len(rows) == _ROWS:
            yield np.stack(rows)
            rows = []
    if rows:
        yield np.stack(rows)
