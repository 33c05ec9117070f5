"""How many of the words are words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import torch

from fewjump.evaluate.bootstrap import REPLICATES, Interval, bootstrap, ratio
from fewjump.random import Generator

_LETTERS = re.compile(r"[^\W\d_]+")


def words_in(text: str, whole: bool = False) -> list[str]:
    """The words of a text: runs of letters, in lower case.

    A run that touches the start or the end of a window may be cut off, and is left out unless
    ``whole`` says that the text is complete.
    """
    return [
        match.group().casefold()
        for match in _LETTERS.finditer(text)
        if whole or (match.start() > 0 and match.end() < len(text))
    ]


def dictionary(texts: Iterable[str], min_count: int = 1, whole: bool = False) -> frozenset[str]:
    """The words that occur at least ``min_count`` times in the training text."""
    counts = Counter(word for text in texts for word in words_in(text, whole))
    return frozenset(word for word, count in counts.items() if count >= min_count)


def dictionary_words(
    texts: list[str],
    known: frozenset[str],
    min_length: int = 3,
    whole: bool = False,
    generator: Generator = None,
    replicates: int = REPLICATES,
) -> Interval:
    """Fraction of the samples' words, counted as often as they occur, that the dictionary knows.

    Args:
        texts: samples.
        known: see :func:`dictionary`.
        min_length: shorter words are not counted: most short runs of letters are words.
        whole: see :func:`words_in`.
        generator, replicates: of the bootstrap over samples.

    Returns:
        The fraction; 0 if the samples hold no word of that length.
    """
    rows = []
    for text in texts:
        long = [word for word in words_in(text, whole) if len(word) >= min_length]
        rows.append((sum(word in known for word in long), len(long)))
    return bootstrap(torch.tensor(rows, dtype=torch.float64), ratio, generator, replicates)
