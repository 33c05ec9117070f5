"""The page: a :class:`Report` as one HTML file with its style, charts and pictures inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fewjump.files import write_text
from fewjump.report.axis import short
from fewjump.report.content import (
    Chart,
    ImageSamples,
    KeyNumber,
    Note,
    Report,
    SampleGroup,
    Table,
    TextSamples,
)
from fewjump.report.png import as_pixels, contact_sheet, encode_png
from fewjump.report.rows import Row
from fewjump.report.svg import legend, line_chart, style_sheet


def render(report: Report) -> str:
    """The page's HTML. It refers to nothing outside itself and runs no script."""
    body = [
        _opening(report),
        "<main>",
        _section(report.charts_heading, _charts(report.charts, hero=True)),
        _section("Samples, side by side", "".join(map(_group, report.samples))),
        _section("How to read this", _notes(report.notes)),
        _section("Time and other numbers", "".join(map(_table, report.tables))),
        _section("Training", _charts(report.training, hero=False)),
        _section("This run", _facts(report.facts) + _all_rows(report.rows)),
        "</main>",
        "<footer>Written by <b>fewjump</b>. This page holds everything it shows: "
        "it can be mailed, archived and opened offline.</footer>",
    ]
    style = "".join(map(style_sheet, ("palette.css", "page.css", "marks.css")))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(_plain(report.title))}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def write(report: Report, path: str | Path) -> Path:
    """Render to ``path`` (a folder means ``report.html`` inside it) in one move; returns it."""
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        path = path / "report.html"
    write_text(path, render(report))
    return path


def inline(text: str) -> str:
    """Escaped text with ``**bold**`` and `` `code` `` turned into elements."""
    safe = escape(text)
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe)


def _plain(text: str) -> str:
    return text.replace("**", "").replace("`", "")


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{inline(text)}</p>" for text in texts)


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def _opening(report: Report) -> str:
    subtitle = f'<p class="subtitle">{inline(report.subtitle)}</p>' if report.subtitle else ""
    keys = "".join(map(_key, report.key_numbers))
    return (
        '<header>\n<p class="brand"><b>fewjump</b> · run report</p>\n'
        f"<h1>{inline(report.title)}</h1>\n{subtitle}\n"
        f'<div class="opening">{f"<dl class=keys>{keys}</dl>" if keys else ""}'
        f"<div>{_paragraphs(report.summary)}</div></div>\n</header>"
    )


def _key(number: KeyNumber) -> str:
    # The term comes first for a screen reader; the style sheet puts the figure above it.
    return (
        f'<div class="key"><dt>{inline(number.label)}</dt>'
        f'<dd class="big">{escape(number.value)}</dd></div>'
    )


def _charts(charts: Sequence[Chart], hero: bool) -> str:
    """Figures in two columns; the first is full width if ``hero``, and so is one left over."""
    figures = []
    for index, chart in enumerate(charts):
        large = hero and index == 0
        left_over = index == len(charts) - 1 and (len(charts) - hero) % 2 == 1
        full = large or left_over
        drawing = f'<div class="narrow">{line_chart(chart)}</div>'
        if full:
            wide = line_chart(chart, 960, 400 if large else 320, labels=True)
            drawing += f'<div class="wide">{wide}</div>'
        caption = f"<figcaption>{inline(chart.caption)}</figcaption>" if chart.caption else ""
        figures.append(
            f'<figure class="card{" full" if full else ""}"><h3>{inline(chart.title)}</h3>\n'
            f"{legend(chart)}\n{drawing}\n{caption}</figure>"
        )
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _group(group: SampleGroup) -> str:
    texts = any(isinstance(panel, TextSamples) for panel in group.panels)
    panels = "".join(map(_panel, group.panels))
    heading = f'<h3 class="group">{inline(group.heading)}</h3>' if group.heading else ""
    return (
        f'<div{" class=texts" if texts else ""}>{heading}<div class="panels">{panels}</div></div>'
    )


def _panel(panel: ImageSamples | TextSamples) -> str:
    if isinstance(panel, TextSamples):
        content = "".join(f'<pre tabindex="0">{escape(text)}</pre>' for text in panel.texts)
    else:
        content = _sheet(panel)
    caption = f"<figcaption>{inline(panel.caption)}</figcaption>" if panel.caption else ""
    return (
        f'<figure class="card {panel.role}"><h3>{inline(panel.title)}</h3>'
        f"{content}{caption}</figure>"
    )


def _sheet(panel: ImageSamples) -> str:
    images = as_pixels(panel.images)
    # Transparent gaps: the page's own paper shows between the images, light or dark.
    columns = panel.columns or (8 if len(images) >= 16 else None)
    sheet = contact_sheet(images, columns, scale=2, paper=None)
    data = base64.b64encode(encode_png(sheet)).decode("ascii")
    alt = f"{len(images)} images: {_plain(panel.title)}"
    return (
        f'<img class="sheet" alt="{escape(alt)}" width="{sheet.shape[1]}" '
        f'height="{sheet.shape[0]}" src="data:image/png;base64,{data}">'
    )


def _notes(notes: Sequence[Note]) -> str:
    cards = "".join(
        f'<article class="card"><h3>{inline(note.title)}</h3>'
        f"{_paragraphs(note.paragraphs)}</article>"
        for note in notes
    )
    return f'<div class="notes">{cards}</div>' if cards else ""


def _table(table: Table) -> str:
    caption = f"<figcaption>{inline(table.caption)}</figcaption>" if table.caption else ""
    title = f"<h3>{inline(table.title)}</h3>" if table.title else ""
    return f'<figure class="card">{title}{_grid(table.columns, table.rows)}{caption}</figure>'


def _grid(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    numeric = [
        any(isinstance(row[i], int | float) for row in rows)
        and all(row[i] is None or isinstance(row[i], int | float) for row in rows)
        for i in range(len(columns))
    ]
    kind = [' class="num"' if number else "" for number in numeric]
    head = "".join(f'<th scope="col"{k}>{escape(name)}</th>' for k, name in zip(kind, columns))
    lines = [
        "<tr>" + "".join(f"<td{k}>{_cell(cell)}</td>" for k, cell in zip(kind, row)) + "</tr>"
        for row in rows
    ]
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return short(value) if isinstance(value, int | float) else inline(str(value))


def _facts(facts: Mapping[str, Any]) -> str:
    flat = list(_flatten(facts))
    items = "".join(f"<dt>{escape(k)}</dt><dd>{_cell(v)}</dd>" for k, v in flat)
    return f'<div class="card"><dl class="facts">{items}</dl></div>' if items else ""


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in facts.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}: ")
        else:
            # A seed or a count is an identifier here: shown whole, not to three digits.
            yield name, value if isinstance(value, float | bool | None) else str(value)


def _all_rows(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    columns = ("model", "sampler", "steps", "nfe", "metric", "value", "low", "high", "seconds")
    cells = [[getattr(row, name) for name in columns] for row in rows]
    return (
        f'<details class="card"><summary>Every measured number ({len(rows)} rows)</summary>'
        f"{_grid(columns, cells)}</details>"
    )
