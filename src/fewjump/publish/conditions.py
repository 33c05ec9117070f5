"""What the user gives of a sample, in words, as the prompt that the sampler takes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fewjump.data.vocabulary import ImageLevels, Vocabulary
from fewjump.law.base import whole_numbers

#: Marks one token to be drawn in the text of an infilling.
MASK_WORD = "[MASK]"

Words: TypeAlias = str | Sequence[str] | Tensor


@dataclass(frozen=True)
class Given:
    """Arguments of :func:`fewjump.sampler.run`.

    Attributes:
        length: L.
        prompt: (N, L) int64 tokens, or None where nothing is given.
        fixed: (N, L) boolean, which of them are.
    """

    length: int
    prompt: Tensor | None = None
    fixed: Tensor | None = None


def read_conditions(
    vocabulary: Vocabulary,
    num_samples: int,
    model_length: int | None,
    *,
    prompt: Words | None = None,
    infill: Words | None = None,
    length: int | Sequence[int] | None = None,
    mask: int | None = None,
    padding: int | None = None,
) -> Given:
    """Prompts, infillings and lengths as one table of given tokens.

    A row is: the vocabulary's opening tokens, the sample, its closing tokens, and padding up to
    the longest. Opening, closing and padding are given; so is what the words say.

    Args:
        vocabulary: reads the words.
        num_samples: N.
        model_length: the denoiser's own length, None where any will do.
        prompt: what samples begin with: a text, one for each sample, or tokens (P,) or (N, P).
            A special token that a text quotes is text; it is warned of.
        infill: a text in which ``[MASK]``, or the tokenizer's own mask, stands for one token to
            draw, one for each sample, or tokens (P,) or (N, P) in which ``mask`` does. What comes
            after it is drawn too.
        length: tokens of a sample with all that frames it, or several numbers, which the samples
            take in turn. By default the model's; without one, as long as the infilling.
        mask: the process's mask. Neither it nor the tokenizer's may be in a prompt.
        padding: the token after the end of the shorter ones.

    Raises:
        ValueError: for words that do not fit, or lengths that differ without a padding token.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if prompt is not None and infill is not None:
        raise ValueError("give a prompt or an infilling, not both: an infilling may begin a text")
    words, what = (prompt, "prompt") if infill is None else (infill, "infilling")
    rows = _read(vocabulary, words, num_samples, infill is not None, mask, what)
    opening, closing = vocabulary.frame
    around = len(opening) + len(closing)
    longest = max((len(row) for row in rows), default=0)
    lengths = _lengths(num_samples, length, model_length, longest + around, infill is not None)
    width = max(lengths)
    if not rows and not around and len(set(lengths)) == 1:
        return Given(width)
    if len(set(lengths)) > 1 and padding is None:
        raise ValueError(
            "samples of different lengths need a model with a padding token, and this one has "
            "none; give one length at a time"
        )
    tokens = torch.zeros(num_samples, width, dtype=torch.int64)
    fixed = torch.zeros(num_samples, width, dtype=torch.bool)
    for i, size in enumerate(lengths):
        row = rows[i] if rows else []
        room = size - around
        if room < 1:
            raise ValueError(
                f"a length of {size} leaves nothing to draw: {around} tokens frame every text of "
                f"this model; give {around + 1} or more"
            )
        if len(row) > room or (prompt is not None and len(row) == room):
            raise ValueError(
                f"the {what} of {len(row)} tokens leaves nothing to draw of {room}; give a longer "
                "length or a shorter text"
            )
        given = [*opening, *row]
        for place, token in enumerate(given):
            if token is not None:
                tokens[i, place], fixed[i, place] = token, True
        ends = size - len(closing)
        tokens[i, ends:size] = torch.tensor(closing, dtype=torch.int64)
        fixed[i, ends:] = True
        if size < width:
            assert padding is not None
            tokens[i, size:] = padding
    return Given(width, tokens, fixed)


def _lengths(
    num_samples: int,
    length: int | Sequence[int] | None,
    model_length: int | None,
    needed: int,
    infilling: bool,
) -> list[int]:
    if length is None:
        if model_length is None and not infilling:
            raise ValueError("this model has no length of its own; say how long samples are")
        return [needed if model_length is None else model_length] * num_samples
    several = [length] if isinstance(length, int) else list(length)
    if not several or min(several) < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    return [several[i % len(several)] for i in range(num_samples)]


def _read(
    vocabulary: Vocabulary,
    words: Words | None,
    num_samples: int,
    masked: bool,
    mask: int | None,
    what: str,
) -> list[list[int | None]]:
    """Tokens of each sample, None at those to draw; no rows where nothing is given."""
    if words is None:
        return []
    masks = {token for token in (mask, vocabulary.mask) if token is not None}
    if isinstance(words, Tensor):
        words = whole_numbers(words, what)
        table = words.tolist()
        if words.dim() == 1:
            table = [table]
        rows: list[list[int | None]] = [[int(token) for token in row] for row in table]
    else:
        if isinstance(vocabulary, ImageLevels):
            raise ValueError(f"a {what} of words is for models of text; this one makes images")
        texts = [words] if isinstance(words, str) else list(words)
        _warn_of_special_words(vocabulary, texts, what)
        rows = [_tokens(vocabulary, text) for text in texts]
    rows = [[None if token in masks else token for token in row] for row in rows]
    holes = [None in row for row in rows]
    if not masked and any(holes):
        raise ValueError(
            "the prompt holds the mask, which no finished sample does; for text with holes give it "
            "as an infilling (infill=, --infill)"
        )
    if masked and not all(holes):
        which = "" if isinstance(words, Tensor) else f" as {MASK_WORD}"
        raise ValueError(
            f"an infilling marks each token to draw{which}; sample {holes.index(False)} has none"
        )
    if len(rows) not in (1, num_samples):
        raise ValueError(f"{len(rows)} {what}s were given for {num_samples} samples; give 1 or all")
    if not masked and any(not row for row in rows):
        raise ValueError(f"an empty {what} says nothing; leave it out")
    return [rows[0]] * num_samples if len(rows) == 1 else rows


def _warn_of_special_words(vocabulary: Vocabulary, texts: list[str], what: str) -> None:
    """A special token that a text quotes is text, as in documents: often an unknown word."""
    words = set(vocabulary.special_words) - {MASK_WORD, vocabulary.mask_word}
    quoted = sorted(word for word in words if any(word in text for text in texts))
    if quoted:
        warnings.warn(
            f"the {what} holds {', '.join(quoted)}, which is read as text, as in documents; what "
            "frames a text is added unasked, and other special tokens are given in a tensor",
            stacklevel=4,
        )


def _tokens(vocabulary: Vocabulary, text: str) -> list[int | None]:
    """Tokens of a text, None at those to draw: the tokenizer's own mask, or :data:`MASK_WORD`."""
    words = {MASK_WORD, vocabulary.mask_word or MASK_WORD}
    out: list[int | None] = []
    for number, piece in enumerate(re.split("|".join(map(re.escape, sorted(words))), text)):
        if number:
            out.append(None)
        if piece:
            out += vocabulary.encode(piece).tolist()
    return out
