"""Single settings out of a stored configuration, each refused unless it is what it should be.

All raise CheckpointError, which names the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewjump.checkpoint.errors import CheckpointError

Config = Mapping[str, Any]


def setting(config: Config, path: str) -> Any:
    """What stands under a dotted path, None where nothing does."""
    here: Any = config
    for part in path.split("."):
        if not isinstance(here, Mapping):
            return None
        here = here.get(part)
    return here


def text(config: Config, path: str) -> str:
    """A text, which must be there; its first 60 characters."""
    value = setting(config, path)
    if not isinstance(value, str):
        raise CheckpointError(f"the configuration lacks {path}, or it is no text")
    return value[:60]


def number(config: Config, path: str, default: float | None = None) -> float:
    """A number, or a text that is one; ``default`` where it may be left out."""
    value = setting(config, path)
    if value is None and default is not None:
        return default
    # YAML reads 1e-3 as a text; the originals convert it.
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise CheckpointError(f"the configuration lacks {path}, or it is no number") from None


def whole(config: Config, path: str) -> int | None:
    """A positive whole number, None where nothing says so."""
    value = setting(config, path)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
        raise CheckpointError(
            f"{path} is {str(value)[:40]!r}; a positive whole number was expected"
        )
    return value


def flag(value: Any, path: str) -> bool:
    """The value itself, which must be true or false."""
    if not isinstance(value, bool):
        raise CheckpointError(f"{path} is {str(value)[:40]!r}; true or false was expected")
    return value
