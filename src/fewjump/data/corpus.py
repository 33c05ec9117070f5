"""Documents as a data set: tokenised and packed once, memory-mapped from then on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from fewjump.data.cache import cached_tokens, file_identity
from fewjump.data.dataset import Dataset, check_fractions, split_blocks
from fewjump.data.documents import read_documents
from fewjump.data.packing import Packing, Shape, pack
from fewjump.data.tokenizer import TokenizerVocabulary
from fewjump.data.vocabulary import PADDING, Characters, Vocabulary, refuse_padding
from fewjump.textfile import check_file
from fewjump.tokenizing import is_hub

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
        packing: see :func:`fewjump.data.packing.pack`; ``documents`` by default for characters,
            ``stream`` for tokens.
        valid_fraction, test_fraction: of the rows; parts are contiguous blocks.
        cache_folder: where the rows are kept; see :func:`fewjump.data.cache.cached_tokens`.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: for a source that cannot be read, or
            rows that cannot be made.
    """
    check_fractions(valid_fraction, test_fraction)
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    on_hub = is_hub(source)
    if not on_hub and not Path(source).is_dir():
        check_file(Path(source), "file or folder")
    options: dict[str, Any] = {"field": field, "split": split, "limit": limit}

    def documents() -> Iterator[str]:
        return read_documents(source, **options)

    if vocabulary is None:
        packing = packing or "documents"
        symbols = set(chain.from_iterable(documents()))
        if not symbols:
            raise ValueError(f"{source} holds no documents")
        refuse_padding("".join(symbols), str(source))
        vocabulary = Characters("".join(sorted(symbols)) + PADDING, PADDING)
    elif not isinstance(vocabulary, Vocabulary):
        vocabulary = TokenizerVocabulary.from_tokenizer(vocabulary)
    packing = packing or "stream"
    opening, closing = vocabulary.frame
    padding = vocabulary.padding_token
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
