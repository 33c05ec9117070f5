"""Which token is the mask, from the tokenizer that a checkpoint or a folder carries.

MDLM and Duo use the tokenizer's own mask where it has one, and otherwise a state on top of its
vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.unpickle import Foreign

_VOCABULARIES = ("vocab", "_vocab_str_to_int", "encoder", "_added_tokens_encoder")
_MAX_TEXT = 1 << 27


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
        f"the tokenizer has a mask, {symbol[:40]!r}, whose number is not in the file; give mask="
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
        "give mask="
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
