"""The page: a :class:`Report` as one HTML file with its style, charts and pictures inside.

The template is ``page.html``. Jinja2 comes with PyTorch; charts and pictures need the extra
``fewjump[report]``, and without it a line in the place of each says so.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from html import escape
from pathlib import Path
from typing import Any

from fewjump.config import optional
from fewjump.files import write_text
from fewjump.report.charts import as_pixels, contact_sheet, encode_png, line_chart
from fewjump.report.content import Chart, ImageSamples, Report, shipped, short
from fewjump.results import Row


def render(report: Report) -> str:
    """The page's HTML. It refers to nothing outside itself and runs no script."""
    jinja = optional("jinja2", "a report page", "report")
    environment = jinja.Environment(autoescape=True, undefined=jinja.StrictUndefined)
    environment.filters |= {"inline": _inline, "plain": _plain, "cell": _cell}
    template = environment.from_string(shipped("page.html"))
    return template.render(
        report=report,
        style=_Html(shipped("palette.css") + shipped("page.css")),
        facts=list(_flatten(report.facts)),
        row_columns=[field.name for field in fields(Row)],
        row_cells=[astuple(row) for row in report.rows],
        numeric_columns=_numeric_columns,
        drawing=_drawing,
        sheet=_sheet,
    )


def write(report: Report, path: str | Path) -> Path:
    """Render to ``path`` (a folder means ``report.html`` inside it) in one move; returns it."""
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        path = path / "report.html"
    write_text(path, render(report))
    return path


class _Html(str):
    """Text that is HTML already: Jinja2 asks for ``__html__`` and then escapes nothing."""

    def __html__(self) -> str:
        return self


def _inline(text: str) -> _Html:
    """Escaped text with ``**bold**`` and `` `code` `` turned into elements."""
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return _Html(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe))


def _plain(text: str) -> str:
    return text.replace("**", "").replace("`", "")


def _drawing(chart: Chart, wide_height: int = 0) -> _Html:
    """The chart for a narrow place, and for a wide one if it has a height there.

    Without matplotlib the line that says so.
    """
    try:
        if not wide_height:
            return _Html(line_chart(chart))
        wide = line_chart(chart, 960, wide_height)
        return _Html(f'<div class="narrow">{line_chart(chart)}</div><div class="wide">{wide}</div>')
    except ModuleNotFoundError as error:
        return _missing(error)


def _sheet(panel: ImageSamples) -> _Html:
    """The panel's images on one sheet, or the line that says what is missing to show them."""
    images = as_pixels(panel.images)
    # Transparent gaps: the page's own paper shows between the images, light or dark.
    columns = panel.columns or (8 if len(images) >= 16 else None)
    pixels = contact_sheet(images, columns, scale=2, paper=None)
    try:
        data = base64.b64encode(encode_png(pixels)).decode("ascii")
    except ModuleNotFoundError as error:
        return _missing(error)
    size = f'width="{pixels.shape[1]}" height="{pixels.shape[0]}"'
    alt = escape(f"{len(images)} images: {_plain(panel.title)}")
    return _Html(f'<img class="sheet" alt="{alt}" {size} src="data:image/png;base64,{data}">')


def _missing(error: ModuleNotFoundError) -> _Html:
    return _Html(f'<p class="missing">Not shown: {escape(str(error))}</p>')


def _numeric_columns(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[bool]:
    """Which columns hold numbers, and maybe gaps, only."""
    cells = [[row[i] for row in rows if row[i] is not None] for i in range(len(columns))]
    return [bool(some) and all(isinstance(c, int | float) for c in some) for some in cells]


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return short(value) if isinstance(value, int | float) else _inline(str(value))


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in facts.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}: ")
        else:
            # A seed or a count is an identifier here: shown whole, not to three digits.
            yield name, value if isinstance(value, float | bool | None) else str(value)
