"""Options that say how documents become rows, for every verb that reads data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fewjump.commands.choices import KnownRuleName, PackingName, TokenBits


@dataclass
class DocumentOptions:
    """How to read documents (.jsonl, .json, .csv, .tsv, .parquet, a data set's folder,
    hf:owner/name, or text) and tokens (.bin)."""

    text_field: str = "text"
    """Documents: where the text of an object or a row is."""

    split: str = "train"
    """Documents: which part of a data set."""

    documents: int | None = None
    """Documents: read this many of them. Default: all."""

    packing: PackingName | None = None
    """Documents: stream cuts them as one stream; documents gives each rows of its own, padded; fit
    lets whole ones share a row. Default: stream for a tokenizer, documents for characters."""

    token_bits: TokenBits | None = None
    """Tokens of a .bin file: how wide they are. Default: what a header of llm.c or a Megatron .idx
    beside it says, else 16, or 32 for a tokenizer of more than 65536 tokens."""

    cache: Path | None = None
    """Where the tokens of documents are kept for the next run. Default: .fewjump-cache beside the
    data, or fewjump in $XDG_CACHE_HOME (~/.cache) where nothing may be written there."""


@dataclass
class KnownOptions:
    """Whether a part of every training sequence is shown, for prompts and infilling."""

    known: KnownRuleName | None = None
    """Show a part of every sequence clean and leave it out of the loss, for prompts (prefix) and
    infilling (infill: all but one stretch; scattered: positions here and there)."""

    known_share: float = 0.5
    """The largest share of a sequence that --known shows."""


def document_values(options: Any) -> dict[str, Any]:
    """The options under the names that :func:`fewjump.data.load_data` has for them."""
    names = {"text_field": "field", "documents": "limit", "cache": "cache_folder"}
    return {
        names.get(option.name, option.name): getattr(options, option.name)
        for option in fields(DocumentOptions)
    }


def refuse_without_data(options: Any) -> None:
    """Raise ValueError for an option that says how to read data where there are none."""
    defaults = {option.name: option.default for option in fields(DocumentOptions)}
    for name, default in {"kind": "auto", **defaults}.items():
        if getattr(options, name) != default:
            raise ValueError(f"--{name.replace('_', '-')} says how to read data: give --data")
