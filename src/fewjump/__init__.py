"""fewjump: few-step samplers for discrete diffusion models, checked against exact ground truth.

The public names are listed once, in ``__init__.pyi``, and are imported when first used, so that
``import fewjump`` is quick and needs no torch.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from typing import Any

__version__ = "0.1.0"


def _homes() -> dict[str, str]:
    """Public name → the module it is defined in, or is itself."""
    stub = ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"")
    lines = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    return {alias.name: str(line.module) for line in lines for alias in line.names}


_HOMES = _homes()
__all__ = sorted([*_HOMES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fewjump' has no attribute {name!r}")
    module = importlib.import_module(f"fewjump.{name}" if home == __name__ else home)
    value = module if home == __name__ else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
