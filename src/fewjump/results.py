"""Rows of ``results.json``: what ``evaluate``, ``compare`` and the demos write and reports read."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import fewjump
from fewjump.files import write_text


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        model: whose samples were judged: ``teacher``, ``student``, or a reference such as
            ``test data``.
        sampler: the sampler's name; empty for a reference.
        steps: intervals of the time grid; None for a reference.
        nfe: network evaluations per sample, counted; None for a reference.
        metric: what was measured, for example ``bigram_tv``.
        value: the number.
        low, high: ends of its interval, where there is one.
        seconds: wall-clock seconds of sampling, where they were measured.
    """

    model: str
    sampler: str
    steps: int | None
    nfe: float | None
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    seconds: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of its interval; the value itself where there is none."""
        low = self.value if self.low is None else self.low
        return low, self.value if self.high is None else self.high

    @property
    def is_reference(self) -> bool:
        """Whether the row is a level to compare with rather than a sampled model."""
        return not self.nfe


def as_row(row: Row | Mapping[str, Any] | Any) -> Row:
    """A :class:`Row` from a mapping or from any object with the same attributes.

    Raises:
        ValueError: naming the field that is missing.
    """
    if isinstance(row, Row):
        return row
    source = row if isinstance(row, Mapping) else vars(row)
    required = ("model", "metric", "value")
    missing = [name for name in required if source.get(name) is None]
    if missing:
        raise ValueError(f"a results row lacks {', '.join(missing)}: {dict(source)}")
    values: dict[str, Any] = {f.name: source.get(f.name) for f in fields(Row)}
    values["sampler"] = values["sampler"] or ""
    return Row(**values)


def read_results(path: str | Path) -> tuple[list[Row], dict[str, Any]]:
    """Read a results file: its rows, and everything else it says (the run's facts).

    Args:
        path: ``results.json``, or the folder that holds it. Either ``{"rows": [...], ...}`` or
            a plain list of rows.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not a results file.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"no results at {path}: run `fewjump evaluate` or a demo first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); run `fewjump evaluate`, or what wrote it, again"
        ) from error
    if isinstance(content, list):
        content = {"rows": content}
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f"{path} holds no list named 'rows'")
    facts = {key: value for key, value in content.items() if key != "rows"}
    return [as_row(row) for row in content["rows"]], facts


def write_results(
    path: str | Path, rows: Iterable[Row | Mapping[str, Any]], facts: Mapping[str, Any]
) -> Path:
    """Write ``results.json`` (``path`` may be its folder) in one move; returns the file's path.

    A value that is not finite is refused: JSON has no word for it, and neither has a chart.
    """
    path = Path(path)
    if path.suffix != ".json":
        path = path / "results.json"
    rows = [as_row(row) for row in rows]
    for row in rows:
        if not math.isfinite(row.value):
            raise ValueError(f"{row.metric} of {row.model} at {row.nfe} evaluations: {row.value}")
    content = {**facts, "rows": [asdict(row) for row in rows]}
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")
    return path


def machine_facts() -> dict[str, Any]:
    """What a reader needs to judge a timing: processor, threads, versions."""
    # Reports and checks are listed without it.
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fewjump": fewjump.__version__,
    }
