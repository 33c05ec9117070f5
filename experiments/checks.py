"""The named checks as docs/experiments.md shows them: ``python -m experiments.checks NAME``.

CPU minutes on an idle core: recovery 12, commutation under 1, step_size 4, warm_start 3, times 4,
vocabulary 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from experiments.harness import Content, Options, main
from fewjump.verify.checks import run_check

#: What differs from each check's defaults.
COMMITTED: dict[str, dict[str, Any]] = {
    "recovery": {"vocab_sizes": [4, 64, 1024, 50257], "dense_limit": 1024, "network_steps": 400},
    "times": {"seeds": 5, "sequences": 2048},
}


@dataclass
class Config(Options):
    """Run a named check as it is committed."""

    check: Annotated[
        Literal["recovery", "commutation", "step_size", "warm_start", "times", "vocabulary"],
        tyro.conf.Positional,
    ] = "recovery"
    """Which, by the name of its file."""


def measure(config: Config) -> Content:
    """What ``fewjump verify NAME`` writes."""
    given = COMMITTED.get(config.check, {})
    return run_check(config.check.replace("_", "-"), seed=config.seed, **given).content()


if __name__ == "__main__":
    main("checks/{check}", Config, measure)
