"""The tokens of a Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewjump.data.vocabulary import VOCABULARIES, Array, Vocabulary
from fewjump.tokenizing import backend_of, describe_tokenizer, open_tokenizer, unknown_token


class TokenizerVocabulary(Vocabulary):
    """A fast tokenizer, which travels inside the model's configuration.

    Made and described without the ``tokenizers`` package; :meth:`encode` and :meth:`decode` need
    it.

    Args:
        tokenizer: the content of its ``tokenizer.json``.
        size: the largest token number + 1, V.
        mask, padding, separator: their numbers, or None.
        special: numbers of all special tokens; they are not decoded.
        opening, closing: tokens around every text.
        unused: the numbers below ``size`` that no token has.
    """

    name = "tokenizer"

    def __init__(
        self,
        tokenizer: Mapping[str, Any],
        size: int,
        mask: int | None = None,
        padding: int | None = None,
        separator: int | None = None,
        special: Sequence[int] = (),
        opening: Sequence[int] = (),
        closing: Sequence[int] = (),
        unused: Sequence[int] = (),
    ) -> None:
        self.content, self.size = dict(tokenizer), size
        self.mask, self.padding_token, self.separator = mask, padding, separator
        self.special, self.unused = tuple(special), tuple(unused)
        self.frame = (tuple(opening), tuple(closing))
        self._backend: Any = None

    @classmethod
    def from_tokenizer(cls, source: Any) -> TokenizerVocabulary:
        """From an object of ``transformers`` or ``tokenizers``, a folder or a tokenizer.json."""
        return cls(**describe_tokenizer(open_tokenizer(source)))

    def config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tokenizer": self.content,
            "size": self.size,
            "mask": self.mask,
            "padding": self.padding_token,
            "separator": self.separator,
            "special": list(self.special),
            "opening": list(self.frame[0]),
            "closing": list(self.frame[1]),
            "unused": list(self.unused),
        }

    @property
    def backend(self) -> Any:
        """The ``tokenizers.Tokenizer``.

        Raises:
            ModuleNotFoundError: without the ``hub`` extra.
        """
        if self._backend is None:
            self._backend = backend_of(self.content)
        return self._backend

    @property
    def mask_word(self) -> str | None:
        return None if self.mask is None else self.backend.id_to_token(self.mask)

    @property
    def special_words(self) -> tuple[str, ...]:
        words = (self.backend.id_to_token(token) for token in self.special)
        # One of a single letter is that letter: encode() refuses it.
        return tuple(word for word in words if word is not None and len(word) > 1)

    @cached_property
    def _reserved(self) -> np.ndarray:
        """Numbers that no text stands for; it may well be unknown, or hold line ends that part."""
        texts = {unknown_token(self.content)}
        if self.separator is not None and len(self.backend.id_to_token(self.separator)) == 1:
            texts.add(self.separator)
        return np.array(sorted({*self.special} - texts), dtype=np.int64)

    def encode(self, value: str) -> Tensor:
        """One text as tokens, without what frames it: (n,) int64.

        A special token that the text quotes is text: ``[MASK]`` becomes its letters or an unknown
        word, never the mask.

        Raises:
            ValueError: for a text that can only be written with a special token.
        """
        return torch.from_numpy(self.encode_batch([value])[0])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        backend = self.backend
        try:
            found = backend.encode_batch(list(texts), add_special_tokens=False)
        except Exception as error:  # The package raises no class of its own.
            raise ValueError(f"the tokenizer cannot read this text: {error}") from error
        reserved = self._reserved
        rows = []
        for text, each in zip(texts, found):
            row = np.array(each.ids, dtype=np.int64)
            quoted = np.flatnonzero(np.isin(row, reserved))
            rows.append(row if not quoted.size else self._quoting(text, each, quoted.tolist()))
        return rows

    def _quoting(self, text: str, encoded: Any, places: list[int]) -> np.ndarray:
        """Tokens of a text in which whole special tokens were found, which are taken apart."""
        cuts = []
        for place in places:
            start, end = encoded.offsets[place]
            if end - start < 2:
                symbol = self.backend.id_to_token(encoded.ids[place])
                raise ValueError(
                    f"a text holds {text[start:end]!r}, which the tokenizer reads as its special "
                    f"token {symbol!r}; replace it in the text, or give the tokenizer another"
                )
            cuts.append(start + 1)
        edges = [0, *cuts, len(text)]
        pieces = [text[start:end] for start, end in pairwise(edges)]
        return np.concatenate(self.encode_batch(pieces))

    def decode(self, tokens: Array) -> list[str]:
        # Models may have more outputs than the tokenizer has tokens.
        array = self._as_array(tokens)
        rows = self._rows(np.where(array < self.size, array, self.padding_token or 0))
        return self.backend.decode_batch(rows.tolist(), skip_special_tokens=True)

    def _piece(self, tokens: Iterable[int]) -> str:
        return self.backend.decode(list(tokens), skip_special_tokens=True)

    def show(self, row: Array, mask: int | None) -> str:
        """As for every vocabulary; pieces of words next to a mask keep their own spaces."""
        text = super().show(row, mask)
        return " ".join(text.split())


VOCABULARIES[TokenizerVocabulary.name] = TokenizerVocabulary
