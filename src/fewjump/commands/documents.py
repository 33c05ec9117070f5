"""Options that say how documents become rows, for every verb that reads data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fewjump.commands.choices import KnownRuleName, PackingName


@dataclass
class DocumentOptions:
    """How to read documents: .jsonl, .parquet, a data set's folder, hf:owner/name, or text."""

    text_field: str = "text"
    """Documents: where the text of an object or a row is."""

    split: str = "train"
    """Documents: which part of a data set."""

    documents: int | None = None
    """Documents: read this many of them. Default: all."""

    packing: PackingName | None = None
    """Documents: stream cuts them as one stream; documents gives each rows of its own, padded; fit
    lets whole ones share a row. Default: stream for a tokenizer, documents for characters."""


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
    names = {"text_field": "field", "documents": "limit"}
    return {
        names.get(option.name, option.name): getattr(options, option.name)
        for option in fields(DocumentOptions)
    }
