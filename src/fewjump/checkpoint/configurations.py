"""Configurations beside weights: JSON and hydra's YAML, with limits on what is parsed."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from fewjump.checkpoint.errors import CheckpointError

MAX_CONFIG, MAX_YAML = 1 << 26, 1 << 18


def read_json(file: Path) -> dict[str, Any]:
    """A config.json.

    Raises:
        CheckpointError: if it is not there, or holds no dictionary.
    """
    if not file.is_file():
        raise CheckpointError(
            f"{file.parent} has no config.json beside the weights; copy or download the whole "
            "folder"
        )
    return _parsed(file, lambda text: json.loads(text))


def hydra_config(weights: Path) -> dict[str, Any] | None:
    """``.hydra/config.yaml`` of the run that a weights file belongs to."""
    for folder in (weights.parent.parent, weights.parent):
        file = folder / ".hydra" / "config.yaml"
        if file.is_file():
            return _parsed(file, _yaml)
    return None


def _yaml(text: str) -> Any:
    # The parser's time grows with the square of how deep brackets are nested.
    depth = accumulate((c in "[{") - (c in "]}") for c in text)
    if len(text) > MAX_YAML or max(depth, default=0) > 32:
        raise CheckpointError("it is larger, or nested deeper, than any that hydra writes")
    try:
        # Aliases can make a small text a value of any size; hydra writes none.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise CheckpointError("it holds aliases, which hydra does not write")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CheckpointError(str(error).split("\n", 1)[0]) from None


def _parsed(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    if file.stat().st_size > MAX_CONFIG:
        raise CheckpointError(f"{file} is larger than any configuration")
    try:
        value = parse(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read as a configuration: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no dictionary; a configuration was expected")
    return value
