"""What a run folder tells: metrics, configuration, versions; and what the user sees meanwhile."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fewjump import __version__
from fewjump.config import dump_config
from fewjump.progress import Progress, tell
from fewjump.train.state import write_atomically

METRICS_FILE = "metrics.jsonl"


class RunFolder:
    """Files of one run, written by the main process only.

    Args:
        path: created if needed.
        config: the resolved configuration, plain data.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        dump_config(config, path / "config.yaml")
        text = json.dumps(versions(), indent=2) + "\n"
        write_atomically(path / "versions.json", text.encode())

    def rewind(self, step: int) -> None:
        """Drop metric lines after ``step``, and a last line that a crash cut short."""
        path = self.path / METRICS_FILE
        if not path.exists():
            return
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        write_atomically(path, "".join(line + "\n" for line in kept).encode())

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line of metrics. Non-finite numbers are written as null."""
        clean = {k: None if isinstance(v, float) and v - v != 0 else v for k, v in line.items()}
        with open(self.path / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")


def versions() -> dict[str, Any]:
    """What the numbers of a run depend on besides its configuration."""
    return {
        "fewjump": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
    }


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics file, oldest first."""
    text = (Path(folder) / METRICS_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class TrainingProgress(Progress):
    """A bar with the time left on a terminal, one plain line per logged step elsewhere."""

    def update(self, count: int = 1) -> None:
        """``count`` optimiser steps more are done."""
        if self._bar is not None:
            self._bar.update(count)
        self.done += count

    def log(self, line: Mapping[str, Any]) -> None:
        """Show a line of metrics."""
        self.note(loss=f"{line['loss']:.4f}")
        if self._bar is None and self.enabled:
            shown = ("loss", "kl_to_teacher", "grad_norm", "lr", "seconds")
            parts = [f"{k} {line[k]:.4g}" for k in shown if line.get(k) is not None]
            left = self.left()
            parts += [] if left is None else [f"left {left}"]
            tell(f"{self.label} step {line['step']}/{self.total}  " + "  ".join(parts))
