"""How models and data are read: what opens a model, what it does not say itself, and the error.

Plain data, so that a command's help need not load what reads the files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from fewjump.config import Source

FamilyName = Literal["sedd-absorb", "sedd-uniform", "mdlm", "udlm", "duo"]
WeightsName = Literal["ema", "raw"]
DataKind = Literal["auto", "characters", "bytes", "lines", "smiles", "tokens", "documents"]
Packing = Literal["stream", "documents", "fit"]
TokenBits = Literal[8, 16, 32, 64]
#: What the end of a document within a sample is to a judge of texts.
EndsName = Literal["first", "keep", "drop"]
#: What opens a model, in the messages that say why something else does not.
TAKES = (
    "the folder of a saved model (it holds config.json, and so does a masked language model's), "
    "the folder of a run, a checkpoint of SEDD, MDLM, UDLM or Duo, or a repository of the hub as "
    "hf:owner/name"
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read as what it says it is.

    The message says what was found, what was expected, and what to do.
    """


def listed(names: Iterable[object], limit: int = 5) -> str:
    """The first few of an iterable of names, and how many more there are."""
    found = [str(name)[:80] for name in names]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def reason(error: BaseException, limit: int = 300) -> str:
    """The first line of what an error says: torch adds its own stack to some."""
    return str(error).partition("\n")[0][:limit]


@dataclass
class ReadingOptions:
    """What a model does not say itself; see :func:`fewjump.load`.

    Attributes:
        weights: checkpoints of SEDD, MDLM, UDLM and Duo: averaged weights, or (raw) those that were
            trained.
        family: such a checkpoint without a configuration: what it is.
        mask: such a checkpoint: number of the mask, where its tokenizer does not say.
        tokenizer: what the model's tokens are, if it does not say: a tokenizer.json, a tokenizer's
            folder, or hf:owner/name. Checkpoints of SEDD, MDLM, UDLM and Duo do not say.
    """

    weights: WeightsName = "ema"
    family: FamilyName | None = None
    mask: int | None = None
    tokenizer: Source | None = None


def reading_values(options: Any) -> dict[str, Any]:
    """The options under the names that :func:`fewjump.load` has for them."""
    return {field.name: getattr(options, field.name) for field in fields(ReadingOptions)}


def given_flags(values: dict[str, Any]) -> list[str]:
    """The flags that say something else than the defaults, of :func:`reading_values`."""
    defaults = reading_values(ReadingOptions())
    return [f"--{name}" for name, value in values.items() if value != defaults[name]]
