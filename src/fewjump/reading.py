"""What a model does not say itself: one set of options for every verb and check that reads one.

Plain data, so that a command's help need not load what reads the files.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from fewjump.config import Source

FamilyName = Literal["sedd-absorb", "sedd-uniform", "mdlm", "udlm", "duo"]
WeightsName = Literal["ema", "raw"]


@dataclass
class ReadingOptions:
    """What a model does not say itself; see :func:`fewjump.load`."""

    weights: WeightsName = "ema"
    """Checkpoints of SEDD, MDLM, UDLM and Duo: averaged weights, or (raw) those that were
    trained."""

    family: FamilyName | None = None
    """Such a checkpoint without a configuration: what it is."""

    mask: int | None = None
    """Such a checkpoint: number of the mask, where its tokenizer does not say."""

    tokenizer: Source | None = None
    """What the model's tokens are, if it does not say: a tokenizer.json, a tokenizer's folder, or
    hf:owner/name. Checkpoints of SEDD, MDLM, UDLM and Duo do not say."""


def reading_values(options: Any) -> dict[str, Any]:
    """The options under the names that :func:`fewjump.load` has for them."""
    return {field.name: getattr(options, field.name) for field in fields(ReadingOptions)}


def given_flags(values: dict[str, Any]) -> list[str]:
    """The flags that say something else than the defaults, of :func:`reading_values`."""
    defaults = reading_values(ReadingOptions())
    return [f"--{name}" for name, value in values.items() if value != defaults[name]]
