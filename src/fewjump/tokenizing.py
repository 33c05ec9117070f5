"""A Hugging Face tokenizer as plain data: what a saved model says of its tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Begins the name of something of the Hugging Face hub, where a path could be meant.
HUB = "hf:"
MASK_SYMBOLS = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>")
PADDING_SYMBOLS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")
SEPARATOR_SYMBOLS = ("[SEP]", "</s>", "<|endoftext|>", "<|end_of_text|>")
_PROBE = "a"
# A row of the embedding is learned for every number, whether or not a token has it.
_MAX_UNUSED = 1 << 20


def open_tokenizer(source: Any, trust_remote_code: bool = False) -> Any:
    """A tokenizer from a folder, the hub or a ``tokenizer.json``; an object is left as it is.

    Args:
        source: ``transformers`` or ``tokenizers`` object, a path, or ``hf:owner/name``.
        trust_remote_code: let a hub tokenizer run code of its own.

    Raises:
        FileNotFoundError: if there is no such path; a name is not looked for on the hub unasked.
        ModuleNotFoundError: without the ``hub`` extra.
        ValueError: for a tokenizer without a fast form, whose contents cannot be saved.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_file() and path.suffix == ".json":
            return tokenizers().Tokenizer.from_file(str(path))
        if not path.exists() and not str(source).startswith(HUB):
            raise FileNotFoundError(
                f"there is no tokenizer at {path}; for one of the hub say {HUB}{source}"
            )
        transformers = require("transformers", "reading a tokenizer")
        try:
            source = transformers.AutoTokenizer.from_pretrained(
                str(source).removeprefix(HUB), trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"no tokenizer could be read from {path}: {error}") from error
    backend = getattr(source, "backend_tokenizer", source)
    if not hasattr(backend, "to_str"):
        raise ValueError(
            f"a {type(source).__name__} has no fast form, so it cannot be saved with a model; load "
            "it with use_fast=True, or give a tokenizer.json"
        )
    return source


def describe_tokenizer(source: Any) -> dict[str, Any]:
    """What a tokenizer says, as JSON holds it.

    Args:
        source: what :func:`open_tokenizer` returns.

    Returns:
        ``tokenizer`` (the content of its tokenizer.json), ``size`` (the largest token number + 1),
        ``mask``, ``padding`` (token numbers or None), ``separator`` (what stands between documents,
        or None), ``special`` (numbers of all special tokens), ``opening`` and ``closing`` (those
        that it puts around a text), ``unused`` (the numbers below ``size`` that no token has).

    Raises:
        ValueError: for a tokenizer without tokens, or whose numbers leave out millions.
    """
    backend = getattr(source, "backend_tokenizer", source)
    content = json.loads(backend.to_str())
    # How a text is cut and filled up belongs to one call, not to the vocabulary.
    content["truncation"] = content["padding"] = None
    special = {
        int(token["id"]) for token in content.get("added_tokens", []) if token.get("special")
    }
    special |= {int(token) for token in getattr(source, "all_special_ids", None) or ()}
    mask = _number(source, backend, "mask_token_id", MASK_SYMBOLS)
    padding = _number(source, backend, "pad_token_id", PADDING_SYMBOLS)
    separator = _number(source, backend, "eos_token_id", SEPARATOR_SYMBOLS)
    if separator is None:
        separator = _number(source, backend, "sep_token_id", SEPARATOR_SYMBOLS)
    special |= {token for token in (mask, padding, separator) if token is not None}
    opening, closing = _frame(backend)
    size, unused = _numbers(backend)
    return {
        "tokenizer": content,
        "size": size,
        "mask": mask,
        "padding": padding,
        "separator": separator,
        "special": sorted(special),
        "opening": opening,
        "closing": closing,
        "unused": unused,
    }


def require(name: str, what: str, extra: str = "hub") -> Any:
    """An optional module; ModuleNotFoundError naming the extra that brings it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what} needs {name}: pip install 'fewjump[{extra}]'") from error


def tokenizers() -> Any:
    """The ``tokenizers`` module."""
    return require("tokenizers", "a tokenizer")


def _number(source: Any, backend: Any, name: str, symbols: Sequence[str]) -> int | None:
    if hasattr(source, name):
        number = getattr(source, name)
        return None if number is None else int(number)
    found = (backend.token_to_id(symbol) for symbol in symbols)
    return next((number for number in found if number is not None), None)


def _numbers(backend: Any) -> tuple[int, list[int]]:
    """The largest token number + 1, and the numbers below it that no token has."""
    used = set(backend.get_vocab(with_added_tokens=True).values())
    if not used:
        raise ValueError("the tokenizer has no tokens; train it first")
    size = max(used) + 1
    if size - len(used) > _MAX_UNUSED:
        raise ValueError(
            f"the tokenizer numbers its {len(used)} tokens up to {size - 1}; number them from 0 "
            "without leaving so many out"
        )
    return size, sorted(set(range(size)) - used)


def _frame(backend: Any) -> tuple[list[int], list[int]]:
    """Tokens before and after a text, from what is added to one."""
    bare = backend.encode(_PROBE, add_special_tokens=False).ids
    whole = backend.encode(_PROBE, add_special_tokens=True).ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []
