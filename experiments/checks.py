"""The named checks as docs/experiments.md shows them: ``python -m experiments.checks NAME``.

Each writes benchmarks/results/checks/NAME.json. CPU minutes on an idle core: recovery 12,
commutation under 1, step-size 4, warm-start 3, times 4, vocabulary 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tyro

from experiments.harness import Content, Options, main
from experiments.vocabulary import Vocabulary
from fewjump.verify.checks import check_called

#: What differs from each check's defaults.
COMMITTED: dict[str, dict[str, Any]] = {
    "recovery": {"vocab_sizes": [4, 64, 1024, 50257], "dense_limit": 1024, "network_steps": 400},
    "times": {"seeds": 5, "sequences": 2048},
}


@dataclass(kw_only=True)
class Config(Options):
    """Run a named check as the page shows it.

    Attributes:
        name: of the check, as `fewjump verify list` says; or vocabulary, which is this library's
            own.
    """

    name: tyro.conf.Positional[str]


def measure(config: Config) -> Content:
    """What the check answers."""
    check = Vocabulary if config.name == Vocabulary.name else check_called(config.name)
    return check(seed=config.seed, **COMMITTED.get(config.name, {})).run().content()


if __name__ == "__main__":
    main("checks/{name}", Config, measure)
