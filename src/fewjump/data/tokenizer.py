"""The tokens of a Hugging Face tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewjump.data.vocabulary import VOCABULARIES, Array, Vocabulary
from fewjump.tokenizing import describe_tokenizer, open_tokenizer, tokenizers


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
            self._backend = tokenizers().Tokenizer.from_str(json.dumps(self.content))
        return self._backend

    def encode(self, value: str) -> Tensor:
        """One text as tokens, without what frames it: (n,) int64."""
        ids = self.backend.encode(value, add_special_tokens=False).ids
        return torch.tensor(ids, dtype=torch.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(each.ids, dtype=np.int64) for each in found]

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


def is_tokenizer(source: str | Path) -> bool:
    """Whether a path leads to a tokenizer's file, or to a folder that holds one."""
    path = Path(source)
    return path.suffix == ".json" if path.is_file() else (path / "tokenizer.json").is_file()


VOCABULARIES[TokenizerVocabulary.name] = TokenizerVocabulary
