"""Named checks whose results are committed: one JSON each, which docs/experiments.md is made of."""

from __future__ import annotations

import importlib
from dataclasses import replace

from fewjump.verify.checks import CheckOptions, check_module
from fewjump.verify.results import Experiment

FOLDER = "checks"


def commit_check(name: str, options: CheckOptions) -> None:
    """Run a check as a script does (``--out``, ``--threads``, ``--seed``) and write its JSON.

    Args:
        name: of the check.
        options: what the committed result is made with; ``--seed`` replaces its seed.
    """
    experiment = Experiment(name.replace("-", "_"), seed=options.seed)
    experiment.folder = experiment.folder / FOLDER
    # Run as a script, the check's own module exists twice; the registry's is the one that counts.
    module = importlib.import_module(check_module(name).__name__)
    values = {**vars(options), "seed": experiment.seed}
    result = module.run(replace(module.Options(), **values))
    experiment.save(result.content())
