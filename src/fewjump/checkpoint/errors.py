"""What is wrong with a checkpoint, and what can be opened."""

from __future__ import annotations

from collections.abc import Iterable

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
