"""What a run folder tells: metrics, configuration, versions; and what the user sees meanwhile."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fewjump import __version__
from fewjump.checkpoint.folder import plain
from fewjump.config import dump_config
from fewjump.files import naming, read_json_lines, remove_leftovers, write_text
from fewjump.progress import Progress, tell
from fewjump.train.state import CONFIG_FILE

METRICS_FILE = "metrics.jsonl"


class RunFolder:
    """Files of one run, written by the main process only.

    Args:
        path: the folder.
        config: the resolved configuration, plain data.

    Attributes:
        logged: the last line of metrics, as text; None before the first.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        remove_leftovers(path)
        self.path = path
        self.logged: str | None = None
        write_text(path / CONFIG_FILE, dump_config(config))
        write_text(path / "versions.json", json.dumps(versions(), indent=2) + "\n")

    def rewind(self, step: int, logged: str | None) -> None:
        """Drop metric lines after ``step``, and a last line that a crash cut short.

        Args:
            step: the last one that the saved state has done.
            logged: the last line at that time, written again if it is not there.
        """
        path, self.logged = self.path / METRICS_FILE, logged
        if not path.exists() and logged is None:
            return
        found = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
        kept = [line for line in found if _step_of(line) <= step]
        if logged is not None and logged not in kept:
            kept.append(logged)
        write_text(path, "".join(line + "\n" for line in kept))

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line of metrics. Non-finite numbers are written as null."""
        self.logged = json.dumps(plain(dict(line)), allow_nan=False)
        path = self.path / METRICS_FILE
        with naming(path), path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                left = self.logged.encode() + b"\n"
                while left:
                    left = left[file.write(left) :]
                # A state must not get to the disk before the lines that led to it.
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise


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
    """The lines of a run's metrics file, oldest first, without one that is being written."""
    return read_json_lines(Path(folder) / METRICS_FILE)


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
