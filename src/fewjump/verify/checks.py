"""The named checks of ``fewjump verify NAME``.

To add one: a line in :data:`CHECKS`, and a file ``fewjump/verify/<name>.py`` (``-`` becomes
``_``) with a dataclass ``Options``, a subclass of
:class:`CheckOptions` whose docstrings are the help, and a function ``run(options)`` that returns a
:class:`~fewjump.verify.result.CheckResult`. The file imports torch and the like inside
``run``, so that ``--help`` answers at once; what measures is best kept in another file.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fewjump.reading import given_flags, reading_values

if TYPE_CHECKING:
    from fewjump.verify.result import CheckResult

CHECKS: dict[str, str] = {
    "recovery": "where recovery of posteriors from concrete scores breaks",
    "commutation": "whether the generators of different times commute, and the error if not",
    "step-size": "how far a student's draw of x_s may reach before it does harm",
    "warm-start": "what starting the student at the teacher is worth",
    "times": "whether times that adapt beat uniform ones, for sampling and for training",
    "vocabulary": "what recovery and a distillation step cost as the vocabulary grows",
    "monitor-overhead": "what watching a distillation for its failures costs",
}


@dataclass
class CheckOptions:
    """Options of every named check; each check's own class adds to them."""

    out: Path | None = None
    """Folder for results.json and report.html. Default: verify-NAME."""

    seed: int = 0
    """Seed of every random draw."""


def refuse_without_model(options: Any) -> None:
    """Raise ValueError for options that go with ``--model`` where there is none."""
    if options.model is not None:
        return
    if options.data is not None:
        raise ValueError("--data belongs to --model")
    if flags := given_flags(reading_values(options)):
        raise ValueError(f"{flags[0]} belongs to --model")


def check_module(name: str) -> ModuleType:
    """The module of a check, with its ``Options`` and ``run``.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in CHECKS:
        near = get_close_matches(name, CHECKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"checks: {', '.join(CHECKS)}"
        raise ValueError(f"there is no check {name!r}; {hint}")
    return importlib.import_module(f"fewjump.verify.{name.replace('-', '_')}")


def run_check(name: str, **options: Any) -> CheckResult:
    """Run a check from Python; ``options`` are the fields of its ``Options``. Writes nothing.

    Raises:
        ValueError: for an unknown check.
        TypeError: for an unknown option.
    """
    module = check_module(name)
    return module.run(module.Options(**options))


def describe_checks() -> str:
    """The checks' names and what each asks, one a line."""
    width = max((len(name) for name in CHECKS), default=0)
    return "\n".join(f"  {name:<{width}}  {about}" for name, about in CHECKS.items())
