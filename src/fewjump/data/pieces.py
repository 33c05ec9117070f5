"""Symbols of one or several characters, such as the atoms of molecules in SMILES."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewjump.data.vocabulary import PADDING, VOCABULARIES, Array, Vocabulary, refuse_padding

#: One symbol of a SMILES (Daylight's notation of molecules): an atom, in brackets or not, a bond, a
#: branch, a dot, or the number of a ring.
SMILES = r"\[[^\[\]]+\]|Br|Cl|[BCNOPSFI]|[bcnops]|\*|[-=#$:/\\.()]|%\d\d|\d"


class Pieces(Vocabulary):
    """Strings of one or several characters; a text is cut into them, the longest that fits first.

    Args:
        symbols: distinct strings, in token order.
        padding: the one of ``symbols`` that ends a text and fills the rest of its row, or None.
            What a row holds behind its first one is not part of the text.
    """

    name = "pieces"

    def __init__(self, symbols: Sequence[str], padding: str | None = None) -> None:
        symbols = list(symbols)
        if not symbols or "" in symbols or len(set(symbols)) != len(symbols):
            raise ValueError(f"symbols must be distinct, at least one, none empty, got {symbols}")
        if padding is not None and padding not in symbols:
            raise ValueError(f"padding {padding!r} must be one of the symbols")
        self.symbols, self.padding = symbols, padding
        self.padding_token = None if padding is None else symbols.index(padding)
        self.size = len(symbols)
        self._numbers = {symbol: number for number, symbol in enumerate(symbols)}
        longest_first = sorted(symbols, key=len, reverse=True)
        self._cut = re.compile("|".join(map(re.escape, longest_first)) + "|(?s:.)")

    @classmethod
    def found_in(cls, texts: Iterable[str], pattern: str = SMILES) -> Pieces:
        """The matches of ``pattern`` in ``texts``, sorted; :data:`PADDING` comes last.

        Raises:
            ValueError: for a text that holds anything else.
        """
        cut = re.compile(pattern)
        found: set[str] = set()
        for text in texts:
            refuse_padding(text, "a text")
            pieces = cut.findall(text)
            if sum(map(len, pieces)) < len(text):
                other = next(c for c in cut.sub(" ", text) if c != " " or " " in text)
                raise ValueError(
                    f"{text!r} holds {other!r}, which is none of the symbols {pattern}; leave the "
                    "text out, or correct it"
                )
            found.update(pieces)
        return cls([*sorted(found), PADDING], PADDING)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "symbols": self.symbols, "padding": self.padding}

    def encode(self, value: str) -> Tensor:
        return torch.tensor(self._encoded(value), dtype=torch.int64)

    def _encoded(self, text: str) -> list[int]:
        pieces = self._cut.findall(text)
        try:
            return [self._numbers[piece] for piece in pieces]
        except KeyError as error:
            at = pieces.index(error.args[0])
            raise ValueError(
                f"{error.args[0]!r} at place {len(''.join(pieces[:at]))} of {text!r} begins none "
                f"of the {self.size} symbols; add what stands there to them, or leave the text out"
            ) from None

    def rows(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """Texts as rows filled up with padding: (N, L) int64.

        Args:
            texts: of at most ``length`` symbols each.
            length: L; that of the longest text by default.

        Raises:
            ValueError: for a text of more symbols, or a vocabulary without padding.
        """
        if self.padding_token is None:
            raise ValueError("rows of one length need a vocabulary with padding")
        encoded = [self._encoded(text) for text in texts]
        longest = max(map(len, encoded))
        length = longest if length is None else length
        if longest > length:
            number = sum(len(tokens) > length for tokens in encoded)
            raise ValueError(
                f"{number} text(s) are longer than {length}; the longest has {longest} symbols: "
                "use that as length, or leave them out"
            )
        out = np.full((len(texts), length), self.padding_token)
        for row, tokens in zip(out, encoded):
            row[: len(tokens)] = tokens
        return torch.from_numpy(out)

    def decode(self, tokens: Array) -> list[str]:
        texts = []
        for row in self._rows(tokens).tolist():
            end = row.index(self.padding_token) if self.padding_token in row else len(row)
            texts.append("".join(self.symbols[token] for token in row[:end]))
        return texts


VOCABULARIES[Pieces.name] = Pieces
