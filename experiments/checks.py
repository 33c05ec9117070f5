"""The named checks as docs/experiments.md shows them: ``python -m experiments.checks NAME``.

Each writes benchmarks/results/checks/NAME.json. CPU minutes on an idle core: recovery 12,
commutation under 1, step-size 4, warm-start 3, times 4, vocabulary 4.
"""

from __future__ import annotations

from typing import Any

from fewjump.verify.checks import CHECKS, run_check
from fewjump.verify.results import Experiment

FOLDER = "checks"
#: What differs from each check's defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "recovery": {"vocab_sizes": [4, 64, 1024, 50257], "dense_limit": 1024, "network_steps": 400},
    "times": {"seeds": 5, "sequences": 2048},
}


def main() -> None:
    experiment = Experiment(
        "checks", add=lambda parser: parser.add_argument("name", choices=CHECKS)
    )
    experiment.name = experiment.options.name.replace("-", "_")
    experiment.folder = experiment.folder / FOLDER
    name, seed = experiment.options.name, experiment.seed
    experiment.save(run_check(name, seed=seed, **OPTIONS.get(name, {})).content())


if __name__ == "__main__":
    main()
