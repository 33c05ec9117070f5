"""Where an experiment's numbers go: one JSON file with the machine, the seed and the seconds."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fewjump

DEFAULT_FOLDER = Path("benchmarks/results")


def machine_facts() -> dict[str, Any]:
    """What a reader needs to judge a timing: processor, threads, versions."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fewjump": fewjump.__version__,
    }


class Experiment:
    """An experiment's command line and clock: parses ``--out`` and ``--threads``, times it.

    Args:
        name: file stem of the result.
        seed: default of ``--seed``.
        add: gives the parser options of the experiment's own.

    Attributes:
        options: everything that was parsed.
    """

    def __init__(
        self,
        name: str,
        seed: int = 0,
        add: Callable[[argparse.ArgumentParser], object] | None = None,
    ) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="result folder")
        parser.add_argument("--threads", type=int, default=1, help="torch threads")
        parser.add_argument("--seed", type=int, default=seed)
        if add is not None:
            add(parser)
        self.options = options = parser.parse_args()
        torch.set_num_threads(options.threads)
        self.name, self.seed, self.folder = name, options.seed, options.out
        self.started = time.perf_counter()

    def save(self, results: dict[str, Any], name: str | None = None) -> Path:
        """Write ``results`` with the run's facts; returns the path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name or self.name}.json"
        seconds = time.perf_counter() - self.started
        payload = {
            "experiment": self.name,
            "seed": self.seed,
            "seconds": round(seconds, 1),
            "machine": machine_facts(),
            **results,
        }
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(payload, indent=1) + "\n")
        temporary.replace(path)
        print(f"{path}: {seconds:.0f} s")
        return path


def remembered(
    path: Path, settings: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Rows of a finished student, from ``path`` if they are there and were made as now.

    Raises:
        ValueError: if they were made with other settings.
    """
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings"] != settings:
            raise ValueError(
                f"{path} was made with {found['settings']}, now {settings} are asked for; remove "
                f"{path.parent} to train again"
            )
        return found["rows"]
    rows = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    return rows
