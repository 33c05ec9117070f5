"""What a report is made of: rows of ``results.json``, the exchange format, and what a page shows.

Plain data, no HTML: :mod:`fewjump.report.page` draws it.

Prose fields accept two marks, ``**bold**`` and `` `code` ``; everything else is shown as written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from fewjump.files import write_text

Role = Literal["teacher", "student", "data", "other"]
Better = Literal["lower", "higher"]


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
    import os
    import platform

    import torch

    import fewjump

    return {
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fewjump": fewjump.__version__,
    }


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: what the legend says.
        x, y: the points, of equal length, x ascending.
        low, high: optional ends of an interval at each point, drawn as a band.
        role: fixes the colour; a second line of the same role is dashed.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    role: Role = "other"

    def __post_init__(self) -> None:
        sizes = {len(v) for v in (self.x, self.y, self.low, self.high) if v is not None}
        if len(sizes) != 1:
            raise ValueError(f"series {self.label!r}: x, y, low and high differ in length")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.label!r}: give both low and high, or neither")


@dataclass(frozen=True)
class Reference:
    """A horizontal line to compare with: a floor, a noise level, the data's own score."""

    label: str
    value: float


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis.

    Attributes:
        title: what is shown, as a sentence a stranger understands.
        series: the lines; must hold at least one point in all.
        references: horizontal lines.
        x_label, y_label: axis names with units.
        log_x, log_y: logarithmic axes; values must then be positive (others are left out).
        better: which direction is good, written beside the axis.
        caption: what to see in it.
    """

    title: str
    series: Sequence[Series]
    references: Sequence[Reference] = ()
    x_label: str = "network evaluations per sample"
    y_label: str = ""
    log_x: bool = True
    log_y: bool = False
    better: Better | None = None
    caption: str = ""


@dataclass(frozen=True)
class ImageSamples:
    """A contact sheet.

    Attributes:
        title: whose samples these are.
        images: (N, H, W) or (N, H, W, 3) array-like, uint8, or floats in [0, 1].
        role: fixes the colour of the frame.
        columns: images per row; when None 8, or about √N for fewer than 16 images.
    """

    title: str
    images: Any
    role: Role = "other"
    columns: int | None = None
    caption: str = ""


@dataclass(frozen=True)
class TextSamples:
    """Generated texts, shown as they are, line breaks included."""

    title: str
    texts: Sequence[str]
    role: Role = "other"
    caption: str = ""


@dataclass(frozen=True)
class SampleGroup:
    """Panels shown side by side, for example teacher and student at the same budget."""

    heading: str
    panels: Sequence[ImageSamples | TextSamples]


@dataclass(frozen=True)
class Table:
    """A table; numbers are right-aligned and shortened, a cell of None is shown as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class Note:
    """A titled explanation in plain words."""

    title: str
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class KeyNumber:
    """A number worth a large font, as it should appear, and what it is."""

    value: str
    label: str


@dataclass(frozen=True)
class Report:
    """A whole page.

    Attributes:
        title: the headline.
        subtitle: one line under it.
        summary: what happened, in plain words, one paragraph each.
        key_numbers: one to three.
        charts: quality against evaluations; the first is drawn large.
        charts_heading: heading of their section.
        samples: sample panels, side by side.
        tables: for example wall-clock times.
        notes: what the floor is, what the method can and cannot do.
        training: training curves.
        facts: seed, versions, machine, configuration: shown as a list.
        rows: every measured number, in a table that unfolds.
    """

    title: str
    subtitle: str = ""
    summary: Sequence[str] = ()
    key_numbers: Sequence[KeyNumber] = ()
    charts: Sequence[Chart] = ()
    samples: Sequence[SampleGroup] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[Note] = ()
    training: Sequence[Chart] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    charts_heading: str = "Quality against the number of evaluations"


def short(value: float, digits: int = 3) -> str:
    """A number as a reader wants it: three significant digits, no trailing zeros."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@cache
def shipped(name: str) -> str:
    """The text of a file beside this one: a style sheet, the template, the metrics."""
    return files("fewjump.report").joinpath(name).read_text(encoding="utf-8")
