"""Anything measured or configured → what JSON can hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any, name: str = "value") -> Any:
    """A copy of ``value`` made of dicts, lists, strings, numbers, booleans and None.

    Tensors and NumPy values become numbers or lists, dataclasses dicts, paths strings. A number
    that is not finite becomes None, which JSON has and NaN it has not.

    Raises:
        ValueError: naming the place of something else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, name)
    if isinstance(value, Mapping):
        return {str(key): plain(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{name}[{index}]") for index, entry in enumerate(value)]
    as_list = getattr(value, "tolist", None)
    if callable(as_list) and not isinstance(value, type):
        return plain(as_list(), name)
    raise ValueError(
        f"{name} is a {type(value).__name__}, which a configuration file cannot hold; "
        "give numbers, strings, lists or dictionaries"
    )
