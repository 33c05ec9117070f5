"""What a page shows.

Plain data, no HTML: :mod:`fewjump.report.page` draws it.

Prose fields accept two marks, ``**bold**`` and `` `code` ``; everything else is shown as written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from fewjump.results import Row

Role = Literal["teacher", "student", "data", "other"]
Better = Literal["lower", "higher"]


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
