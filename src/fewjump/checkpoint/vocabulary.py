"""What a tokenizer says of a model's states: which of them no token has, and which is the mask.

A number that no token has (the model's rows were padded, or the tokenizer's numbers have holes) is
*kept*: it is never noised and never generated (:attr:`fewjump.process.Process.kept`). Tokenizer
files that a checkpoint carries are read without the package that wrote them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewjump.checkpoint.unpickle import Foreign
from fewjump.denoiser import Denoiser
from fewjump.process import Process, process_from_config
from fewjump.reading import CheckpointError
from fewjump.tokenizing import describe_tokenizer, open_tokenizer, unused_tokens

_LOG = logging.getLogger("fewjump")
_VOCABULARIES = ("vocab", "_vocab_str_to_int", "encoder", "_added_tokens_encoder")
_MAX_TEXT = 1 << 27


def tokenizer_config(tokenizer: Any) -> dict[str, Any]:
    """The description of a vocabulary (``vocabulary_config``) that a tokenizer gives.

    Args:
        tokenizer: what :func:`fewjump.tokenizing.open_tokenizer` takes.
    """
    return {"name": "tokenizer", **describe_tokenizer(open_tokenizer(tokenizer))}


def adopt_tokenizer(
    denoiser: Denoiser, described: dict[str, Any], mask_given: bool = False
) -> list[str]:
    """Give a model that does not say what its tokens are a tokenizer.

    Args:
        denoiser: of any kind; its ``process`` then keeps what no token has, and its
            ``vocabulary_config`` is the tokenizer's.
        described: :func:`tokenizer_config`.
        mask_given: the user has said which state is the mask, so that a mask of the tokenizer's
            that is another one is an ordinary token.

    Returns:
        What was decided, in words.

    Raises:
        CheckpointError: for a tokenizer with more tokens than the model, or with another mask.
    """
    mask, own, size = denoiser.process.mask, described["mask"], described["size"]
    fits = denoiser.process.vocab_size if own == mask else denoiser.clean_vocab_size
    if size > fits:
        raise CheckpointError(
            f"the tokenizer has {size} tokens and the model {denoiser.clean_vocab_size} (largest "
            "number + 1, a mask on top aside); give the one that the model was trained with"
        )
    if None not in (mask, own) and mask != own and not mask_given:
        raise CheckpointError(
            f"the tokenizer's mask is token {own}, the model's is {mask}; give the tokenizer that "
            "the model was trained with, or, for a checkpoint that does not state its mask, say "
            f"which it is: --mask {own} or --mask {mask} (mask=)"
        )
    denoiser.vocabulary_config = described
    return keep_unused(denoiser, described)


def settle_vocabulary(
    denoiser: Denoiser, described: dict[str, Any] | None, tokenizer: Any, place: Path
) -> list[str]:
    """Give a saved model the description of its vocabulary; what was decided, in words.

    Args:
        denoiser: the model.
        described: what was saved of its vocabulary, if anything was.
        tokenizer: what the user says that it is, or None.
        place: of the model, for messages.

    Raises:
        CheckpointError: for a tokenizer where the model has a vocabulary, or that is not the
            model's.
    """
    if tokenizer is None:
        denoiser.vocabulary_config = described
        return keep_unused(denoiser, described)
    if described:
        raise CheckpointError(
            f"the model in {place} has a vocabulary; leave out tokenizer= (--tokenizer)"
        )
    return adopt_tokenizer(denoiser, tokenizer_config(tokenizer))


def keep_unused(denoiser: Denoiser, described: dict[str, Any] | None) -> list[str]:
    """Let the process of a model keep the numbers that no token has; what was done, in words."""
    if not described or described.get("name") != "tokenizer":
        return []
    process = denoiser.process
    missing = unused_tokens(described, process.vocab_size) - {process.mask, *process.kept}
    if not missing:
        return []
    try:
        keeping = process_from_config(
            {**process.config(), "kept": sorted({*process.kept, *missing})}
        )
    except ValueError:
        _LOG.warning(
            "%d of %d states stand for no token, and a %s process cannot keep them: they may be "
            "generated",
            len(missing),
            process.vocab_size,
            type(process).__name__,
        )
        return []
    _replace(denoiser, process, keeping)
    return [f"{len(missing)} states that stand for no token are kept: they are never generated"]


def _replace(denoiser: Denoiser, old: Process, new: Process) -> None:
    for module in denoiser.modules():
        if getattr(module, "process", None) is old:
            module.process = new  # type: ignore[assignment]


# -- tokenizers that checkpoints carry -----------------------------------------------------------


def mask_of_pickled(tokenizer: Any) -> int | None:
    """The mask's number in a pickled tokenizer, None where it has no mask.

    Raises:
        CheckpointError: if it has one whose number is not to be found.
    """
    if not isinstance(tokenizer, Foreign):
        return None
    symbol = _symbol(tokenizer.attribute("_mask_token"))
    special = tokenizer.attribute("_special_tokens_map")
    if symbol is None and isinstance(special, Mapping):
        symbol = _symbol(special.get("mask_token"))
    if symbol is None:
        return None
    for vocabulary in _vocabularies(tokenizer):
        number = vocabulary.get(symbol)
        if isinstance(number, int) and not isinstance(number, bool):
            return number
    raise CheckpointError(
        f"the tokenizer has a mask, {symbol[:40]!r}, whose number is not in the file; give "
        "mask= (--mask)"
    )


def mask_of_folder(folder: Path) -> int | None:
    """The mask's number in the tokenizer files of a folder, None where they name no mask."""
    symbol = None
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = _json(folder / name)
        if symbol is None and isinstance(content, Mapping):
            symbol = _symbol(content.get("mask_token"))
    if symbol is None:
        return None
    content = _json(folder / "tokenizer.json")
    for vocabulary in _from_json(content) if content is not None else ():
        if isinstance(vocabulary.get(symbol), int):
            return vocabulary[symbol]
    vocabulary = _json(folder / "vocab.json")
    if isinstance(vocabulary, Mapping) and isinstance(vocabulary.get(symbol), int):
        return vocabulary[symbol]
    lines = folder / "vocab.txt"
    if lines.is_file():
        words = lines.read_text(encoding="utf-8", errors="replace").splitlines()
        if symbol in words:
            return words.index(symbol)
    raise CheckpointError(
        f"the tokenizer of {folder} has a mask, {symbol[:40]!r}, whose number is not in its files; "
        "give mask= (--mask)"
    )


def _symbol(value: Any) -> str | None:
    """The text of a special token, which may be an AddedToken."""
    if isinstance(value, Foreign):
        value = value.attribute("content") or next(
            (part for part in value.arguments if isinstance(part, str)), None
        )
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _vocabularies(tokenizer: Foreign) -> Iterator[Mapping[str, Any]]:
    for name in _VOCABULARIES:
        found = tokenizer.attribute(name)
        if isinstance(found, Foreign):
            found = found.entries
        if isinstance(found, Mapping):
            yield found
    decoder = tokenizer.attribute("_added_tokens_decoder")
    if isinstance(decoder, Mapping):
        yield {text: n for n, t in decoder.items() if (text := _symbol(t)) is not None}
    fast = tokenizer.attribute("_tokenizer")
    stored = fast.state if isinstance(fast, Foreign) else None
    if isinstance(stored, bytes | str) and len(stored) < _MAX_TEXT:
        try:
            yield from _from_json(json.loads(stored))
        except (ValueError, RecursionError):
            return


def _from_json(content: Any) -> Iterator[Mapping[str, Any]]:
    """Vocabularies of a ``tokenizer.json``: added tokens first, as tokenizers looks them up."""
    if not isinstance(content, Mapping):
        return
    added = content.get("added_tokens")
    if isinstance(added, list):
        entries = [entry for entry in added if isinstance(entry, Mapping)]
        yield {entry["content"]: entry.get("id") for entry in entries if "content" in entry}
    model = content.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("vocab"), Mapping):
        yield model["vocab"]


def _json(file: Path) -> Any:
    if not file.is_file() or file.stat().st_size > _MAX_TEXT:
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
