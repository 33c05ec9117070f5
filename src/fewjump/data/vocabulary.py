"""What the tokens of a data set stand for, and how to read and write them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fewjump.config import one_of

Array: TypeAlias = Tensor | np.ndarray

PADDING = "\u2400"
HIDDEN = "_"
_SHADES = " .:-=+*#%@"


class Vocabulary(ABC):
    """A bijection between {0..size−1} and symbols.

    Attributes:
        name: what the configuration calls the kind.
        size: number of symbols V.
        mask: the symbol that stands for a hidden one, where the vocabulary has one, or None.
        padding_token: the symbol that follows the end of a short sequence, or None.
        separator: the symbol between documents of a stream, or None.
        frame: tokens that open and close every sequence, such as ``[CLS]`` and ``[SEP]``.
        unused: numbers below ``size`` that stand for nothing; noise and models leave them alone.
    """

    name: ClassVar[str]
    size: int
    mask: int | None = None
    padding_token: int | None = None
    separator: int | None = None
    frame: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    unused: tuple[int, ...] = ()

    @property
    def mask_word(self) -> str | None:
        """How a text writes :attr:`mask`, or None."""
        return None

    @property
    def special_words(self) -> tuple[str, ...]:
        """How texts write special tokens, which stay text when a text holds them."""
        return ()

    @abstractmethod
    def encode(self, value: Any) -> Tensor:
        """One item as tokens: (n,) int64.

        Raises:
            ValueError: for a symbol outside the vocabulary, naming it and its place.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Several items as tokens, each (n,) int64."""
        return [self.encode(text).numpy() for text in texts]

    @abstractmethod
    def decode(self, tokens: Array) -> list[str]:
        """Rows (N, L) (or one row (L,)) as printable text, one string a row."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """A plain dictionary (JSON) from which :meth:`from_config` rebuilds the vocabulary."""

    def show(self, row: Array, mask: int | None) -> str:
        """One row (L,) that may still be masked, for the eye: every mask is drawn as ``_``."""
        tokens = self._as_array(row).tolist()
        pieces = []
        for hidden, run in groupby(tokens, lambda token: token == mask):
            run = list(run)
            pieces.append(HIDDEN * len(run) if hidden else self._piece(run))
        return "".join(pieces)

    def _piece(self, tokens: list[int]) -> str:
        """Part of a row as text."""
        return self.decode(np.array(tokens, dtype=np.int64))[0]

    @staticmethod
    def from_config(config: dict[str, Any]) -> Vocabulary:
        """Rebuild a vocabulary from :meth:`config`.

        Raises:
            ValueError: for an unknown name, or fields that do not belong to it.
        """
        fields = dict(config)
        name = fields.pop("name", None)
        one_of("vocabulary", name, VOCABULARIES)
        try:
            return VOCABULARIES[name](**fields)
        except TypeError as error:
            raise ValueError(f"wrong configuration of vocabulary {name!r}: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.config() == other.config()

    def __hash__(self) -> int:
        return hash((self.name, self.size))

    @staticmethod
    def _as_array(tokens: Array) -> np.ndarray:
        return tokens.detach().cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)

    def _rows(self, tokens: Array) -> np.ndarray:
        """Tokens as a checked (N, L) NumPy array."""
        rows = self._as_array(tokens)
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.dtype.kind not in "iu":
            raise ValueError(
                f"expected integer tokens (N, L) or (L,), got {rows.dtype} {rows.shape}"
            )
        if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= self.size):
            raise ValueError(
                f"tokens must lie in 0..{self.size - 1} to be decoded, found "
                f"{int(rows.min())}..{int(rows.max())} (a mask that was left in a sample?)"
            )
        return rows


class Characters(Vocabulary):
    """Unicode characters, in the order given.

    Args:
        symbols: one string of distinct characters.
        padding: the one of ``symbols`` that fills short lines up, or None. :meth:`decode` drops
            it at the end of a row and shows it elsewhere, where it is a mistake of the model.
    """

    name = "characters"

    def __init__(self, symbols: str, padding: str | None = None) -> None:
        if not symbols or len(set(symbols)) != len(symbols):
            twice = next((c for c in symbols if symbols.count(c) > 1), "")
            raise ValueError(f"symbols must be distinct and at least one; {twice!r} repeats")
        if padding is not None and (len(padding) != 1 or padding not in symbols):
            raise ValueError(f"padding {padding!r} must be one of the symbols")
        self.symbols, self.padding = symbols, padding
        self.padding_token = None if padding is None else symbols.index(padding)
        self.size = len(symbols)
        self._codes = _code_points(symbols)
        self._order = np.argsort(self._codes)

    @classmethod
    def found_in(cls, text: str, padded: bool = False) -> Characters:
        """The characters of ``text``, sorted; with :data:`PADDING` at the end if ``padded``."""
        symbols = "".join(sorted(set(text)))
        return cls(symbols + PADDING, PADDING) if padded else cls(symbols)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "symbols": self.symbols, "padding": self.padding}

    def encode(self, value: str) -> Tensor:
        return torch.from_numpy(self.encode_array(value).astype(np.int64))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        for text in texts:
            refuse_padding(text, "a text", self.padding)
        return super().encode_batch(texts)

    def encode_array(self, text: str) -> np.ndarray:
        """Tokens of ``text`` as (n,) uint32, without a Python loop over characters."""
        codes = _code_points(text)
        ordered = self._codes[self._order]
        place = np.searchsorted(ordered, codes).clip(max=self.size - 1)
        wrong = np.flatnonzero(ordered[place] != codes)
        if wrong.size:
            at = int(wrong[0])
            raise ValueError(
                f"character {text[at]!r} at place {at} is not one of the {self.size} symbols "
                f"{self.symbols!r}; add it to the alphabet or normalise the text first"
            )
        return self._order[place].astype(np.uint32)

    def decode(self, tokens: Array) -> list[str]:
        rows = self._codes[self._rows(tokens)]
        text = [row.astype("<u4").tobytes().decode("utf-32-le") for row in rows]
        return text if self.padding is None else [line.rstrip(self.padding) for line in text]


class Bytes(Vocabulary):
    """The 256 byte values."""

    name = "bytes"
    size = 256

    def config(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, value: bytes | str) -> Tensor:
        raw = value.encode("utf-8") if isinstance(value, str) else value
        return torch.from_numpy(np.frombuffer(raw, np.uint8).astype(np.int64))

    def decode(self, tokens: Array) -> list[str]:
        rows = self._rows(tokens).astype(np.uint8)
        return [row.tobytes().decode("utf-8", errors="replace") for row in rows]


class Tokens(Vocabulary):
    """Integers that stand for themselves.

    Args:
        size: number of tokens.
    """

    name = "tokens"

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size}

    def encode(self, value: str) -> Tensor:
        try:
            out = torch.tensor([int(word) for word in value.split()], dtype=torch.int64)
        except ValueError:
            raise ValueError(f"expected integers separated by spaces, got {value[:40]!r}") from None
        if out.numel() and not 0 <= int(out.min()) <= int(out.max()) < self.size:
            raise ValueError(f"tokens must lie in 0..{self.size - 1}")
        return out

    def decode(self, tokens: Array) -> list[str]:
        return [" ".join(map(str, row.tolist())) for row in self._rows(tokens)]

    def show(self, row: Array, mask: int | None) -> str:
        tokens = self._as_array(row).tolist()
        return " ".join(HIDDEN if token == mask else str(token) for token in tokens)


class ImageLevels(Vocabulary):
    """Grey levels of a (height, width) picture read row by row.

    Args:
        levels: number of grey levels, 0 black.
        height, width: of a picture; L = height·width.
    """

    name = "image"

    def __init__(self, levels: int, height: int, width: int) -> None:
        if levels < 2 or height < 1 or width < 1:
            raise ValueError(f"impossible picture: {levels} levels, {height} × {width}")
        self.size = self.levels = levels
        self.height, self.width = height, width

    def config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "levels": self.levels,
            "height": self.height,
            "width": self.width,
        }

    def encode(self, value: Array) -> Tensor:
        """Pictures (height, width) → (L,), or (N, height, width) → (N, L), of integer levels."""
        levels = torch.as_tensor(value)
        if levels.shape[-2:] != (self.height, self.width) or levels.dim() not in (2, 3):
            raise ValueError(
                f"expected pictures of {self.height} × {self.width}, got {tuple(levels.shape)}"
            )
        if levels.is_floating_point() or levels.is_complex():
            raise ValueError(f"expected integer levels, got {levels.dtype}; quantise them first")
        if levels.numel() and not 0 <= int(levels.min()) <= int(levels.max()) < self.levels:
            raise ValueError(f"levels must lie in 0..{self.levels - 1}")
        return levels.long().flatten(-2)

    def images(self, tokens: Array) -> Tensor:
        """(N, L) tokens as (N, height, width) float32 brightness in [0, 1]."""
        rows = self._rows(tokens)
        if rows.shape[1] != self.height * self.width:
            raise ValueError(
                f"a row of {rows.shape[1]} tokens is no picture of {self.height} × {self.width}"
            )
        bright = torch.from_numpy(rows.astype(np.float32)) / (self.levels - 1)
        return bright.reshape(-1, self.height, self.width)

    def show(self, row: Array, mask: int | None) -> str:
        tokens = self._as_array(row)
        hidden = tokens == mask
        (picture,) = self.decode(np.where(hidden, 0, tokens))
        places = iter(hidden.tolist())
        return "".join(c if c == "\n" else HIDDEN if next(places) else c for c in picture)

    def decode(self, tokens: Array) -> list[str]:
        shade = (self.images(tokens) * (len(_SHADES) - 1)).round().long().tolist()
        return ["\n".join("".join(_SHADES[v] for v in line) for line in image) for image in shade]


VOCABULARIES: dict[str, type[Vocabulary]] = {
    kind.name: kind for kind in (Characters, Bytes, Tokens, ImageLevels)
}


def refuse_padding(text: str, where: str, padding: str | None = PADDING) -> None:
    """Raise ValueError if ``text`` holds the symbol that is to stand for its end."""
    if padding is not None and padding in text:
        raise ValueError(
            f"{where} holds {padding!r}, which fills short rows up; replace it with another "
            "character"
        )


def _code_points(text: str) -> np.ndarray:
    try:
        return np.frombuffer(text.encode("utf-32-le"), "<u4")
    except UnicodeEncodeError as error:
        raise ValueError(f"the text holds half of a surrogate pair at {error.start}") from error
