"""Line charts as SVG text: no plotting library, and they follow the page's colours.

Colours come from CSS classes (``teacher``, ``student`` …), so a chart inside the page changes with
the reader's light or dark setting; :func:`standalone` carries its own style sheet for use as a
file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import pairwise
from zlib import crc32

from fewjump.report.axis import Axis, budget_axis, linear_axis, log_axis, short
from fewjump.report.content import Chart, Series

_CHARACTER = 6.9
_LABEL_STEP = 16.0
_MOST_MARKERS = 40
_MOST_BUDGETS = 12


@dataclass(frozen=True)
class _Frame:
    """The plotting rectangle and the maps from values to pixels."""

    left: float
    top: float
    right: float
    bottom: float
    x: Callable[[float], float]
    y: Callable[[float], float]


def line_chart(chart: Chart, width: int = 380, height: int = 280, labels: bool = False) -> str:
    """The chart as an ``<svg>`` element.

    Args:
        chart: what to draw.
        width, height: size of the coordinate system; text is 13 units high.
        labels: write each line's name at its end (needs a wide chart).

    Raises:
        ValueError: if no point can be drawn.
    """
    drawn = [_drawable(series, chart) for series in chart.series]
    points = [(x, y) for series in drawn for x, y in zip(series.x, series.y)]
    if not points:
        raise ValueError(f"chart {chart.title!r} has no point to draw")
    x_axis, y_axis = _axes(chart, drawn)
    left = 16 + _CHARACTER * max(len(short(tick)) for tick in y_axis.ticks)
    room = 14 + _CHARACTER * max(len(series.label) for series in drawn) if labels else 14
    frame = _Frame(
        left, 34, width - room, height - 46,
        x_axis.place(left, width - room), y_axis.place(height - 46, 34),
    )  # fmt: skip
    styles = _styles(drawn)
    name = f"chart-{crc32(f'{chart.title} {width} {chart.y_label}'.encode()):08x}"
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{name}-t {name}-d" xmlns="http://www.w3.org/2000/svg">',
        f'<title id="{name}-t">{escape(chart.title)}</title>',
        f'<desc id="{name}-d">{escape(describe(chart))}</desc>',
        *_grid(chart, frame, x_axis, y_axis),
    ]
    for series, style in zip(drawn, styles):
        parts += _band(series, style, frame)
    parts += _references(chart, drawn, frame, y_axis)
    for series, style in zip(drawn, styles):
        parts += _line(series, style, frame)
    if labels:
        parts += _end_labels(drawn, styles, frame)
    return "\n".join([*parts, "</svg>"])


def standalone(chart: Chart, width: int = 760, height: int = 400) -> str:
    """An SVG file's text: the labelled chart with its own light and dark style sheet."""
    style = style_sheet("palette.css") + style_sheet("marks.css")
    body = line_chart(chart, width, height, labels=True)
    head, rest = body.split("\n", 1)
    paper = '<rect class="paper" width="100%" height="100%" rx="10"/>'
    return f"{head}\n<style>{style}</style>\n{paper}\n{rest}\n"


def style_sheet(name: str) -> str:
    """The text of a style sheet shipped with the package."""
    return files("fewjump.report").joinpath(name).read_text(encoding="utf-8")


def legend(chart: Chart) -> str:
    """The chart's key as an HTML list that wraps on a narrow screen."""
    entries = []
    for series, style in zip(chart.series, _styles(chart.series)):
        sample = (
            f'<svg viewBox="0 0 30 12" aria-hidden="true"><path class="line {style}" '
            f'd="M1 6H29"/>{_marker(15, 6, series, style)}</svg>'
        )
        entries.append(f"<li>{sample}{escape(series.label)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


def describe(chart: Chart) -> str:
    """The chart in words, for a reader who cannot see it."""
    sentences = []
    for series in chart.series:
        # A training curve of 200 points is not a sentence; its ends are.
        index = range(len(series.x))
        shown = index if len(index) <= 12 else (0, len(index) // 2, len(index) - 1)
        pairs = ", ".join(f"{short(series.y[i])} at {short(series.x[i])}" for i in shown)
        sentences.append(f"{series.label}: {pairs}.")
    sentences += [f"{line.label}: {short(line.value)}." for line in chart.references]
    return f"{chart.y_label or 'Value'} against {chart.x_label}. " + " ".join(sentences)


def _drawable(series: Series, chart: Chart) -> Series:
    """The series without the points that a logarithmic axis cannot show."""
    keep = [
        i
        for i in range(len(series.x))
        if (not chart.log_x or series.x[i] > 0) and (not chart.log_y or series.y[i] > 0)
    ]
    pick: Callable[[Sequence[float]], list[float]] = lambda v: [float(v[i]) for i in keep]  # noqa: E731
    low = None if series.low is None else pick(series.low)
    high = None if series.high is None else pick(series.high)
    if low is not None and chart.log_y:
        low = [value if value > 0 else y for value, y in zip(low, pick(series.y))]
    return Series(series.label, pick(series.x), pick(series.y), low, high, series.role)


def _axes(chart: Chart, drawn: Sequence[Series]) -> tuple[Axis, Axis]:
    xs = [x for series in drawn for x in series.x]
    ys = [line.value for line in chart.references if not chart.log_y or line.value > 0]
    for series in drawn:
        ys += [*series.y, *(series.low or ()), *(series.high or ())]
    if chart.log_x:
        # Budgets are few and each is marked; a measured quantity takes any value.
        x_axis = budget_axis(xs) if len(set(xs)) <= _MOST_BUDGETS else log_axis(xs)
    else:
        x_axis = linear_axis(xs, padded=False)
    return x_axis, log_axis(ys) if chart.log_y else linear_axis(ys)


def _styles(series: Sequence[Series]) -> list[str]:
    """CSS classes of each line: its role, and which line of that role it is."""
    seen: Counter[str] = Counter()
    styles = []
    for one in series:
        styles.append(f"{one.role} n{min(seen[one.role], 3)}")
        seen[one.role] += 1
    return styles


def _grid(chart: Chart, frame: _Frame, x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = []
    for tick in y_axis.ticks:
        y = frame.y(tick)
        parts.append(f'<path class="grid" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{frame.left - 8:.1f}" y="{y + 4.5:.1f}" '
            f'text-anchor="end">{short(tick)}</text>'
        )
    for tick in x_axis.ticks:
        x = frame.x(tick)
        parts.append(f'<path class="notch" d="M{x:.1f} {frame.bottom:.1f}v5"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 19:.1f}" '
            f'text-anchor="middle">{short(tick)}</text>'
        )
    middle = (frame.left + frame.right) / 2
    parts.append(f'<path class="axis" d="M{frame.left:.1f} {frame.bottom:.1f}H{frame.right:.1f}"/>')
    parts.append(
        f'<text class="name" x="{middle:.1f}" y="{frame.bottom + 39:.1f}" '
        f'text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    arrow = {"lower": " (lower is better)", "higher": " (higher is better)", None: ""}
    heading = f"{chart.y_label}{arrow[chart.better]}".strip()
    parts.append(f'<text class="name" x="6" y="17">{escape(heading)}</text>')
    return parts


def _references(chart: Chart, drawn: Sequence[Series], frame: _Frame, y_axis: Axis) -> list[str]:
    """Horizontal lines, each named where the fewest curves and other names are in the way."""
    parts = []
    busy = _points_along(drawn, frame)
    for line in chart.references:
        if y_axis.log and line.value <= 0:
            continue
        y = frame.y(line.value)
        width = _CHARACTER * len(line.label)
        places = [
            (x, baseline)
            for baseline in (y - 6, y + 15)
            for x in (frame.right - 4 - width, frame.left + 6)
            if frame.top + 8 < baseline < frame.bottom
        ] or [(frame.right - 4 - width, y - 6)]
        x, baseline = min(places, key=lambda place: _crowding(busy, *place, width))
        busy += [(x + width * k / 8, baseline - 5) for k in range(9)]
        parts += [
            f'<path class="reference" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>',
            f'<text class="note" x="{x:.1f}" y="{baseline:.1f}">{escape(line.label)}</text>',
        ]
    return parts


def _points_along(drawn: Sequence[Series], frame: _Frame) -> list[tuple[float, float]]:
    """Pixels on the curves, close enough together that no label fits between two of them."""
    points = []
    for series in drawn:
        corners = [(frame.x(x), frame.y(y)) for x, y in zip(series.x, series.y)]
        points += corners
        for (x0, y0), (x1, y1) in pairwise(corners):
            pieces = 1 + int(max(abs(x1 - x0), abs(y1 - y0)) / 6)
            points += [
                (x0 + (x1 - x0) * k / pieces, y0 + (y1 - y0) * k / pieces) for k in range(1, pieces)
            ]
    return points


def _crowding(busy: Sequence[tuple[float, float]], x: float, baseline: float, width: float) -> int:
    """How many of the points lie where a text would be."""
    return sum(
        x - 4 <= px <= x + width + 4 and baseline - 14 <= py <= baseline + 5 for px, py in busy
    )


def _band(series: Series, style: str, frame: _Frame) -> list[str]:
    if series.low is None or series.high is None or not series.x:
        return []
    if len(series.x) == 1:
        x = frame.x(series.x[0])
        low, high = frame.y(series.low[0]), frame.y(series.high[0])
        return [f'<path class="line {style}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>']
    upper = [f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in zip(series.x, series.high)]
    lower = [f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in zip(series.x, series.low)]
    return [f'<path class="band {style}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>']


def _line(series: Series, style: str, frame: _Frame) -> list[str]:
    if not series.x:
        return []
    path = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in zip(series.x, series.y))
    parts = [f'<path class="line {style}" d="M{path}"/>']
    if len(series.x) > _MOST_MARKERS:
        return parts
    for index, (x, y) in enumerate(zip(series.x, series.y)):
        interval = ""
        if series.low is not None and series.high is not None:
            interval = f" ({short(series.low[index])} to {short(series.high[index])})"
        tip = f"{series.label}: {short(y)}{interval} at {short(x)}"
        parts.append(_marker(frame.x(x), frame.y(y), series, style, tip))
    return parts


def _marker(x: float, y: float, series: Series, style: str, tip: str = "") -> str:
    """A point whose shape, not only its colour, tells the role."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    if series.role == "student":
        shape = f"M{x - 4.2:.1f} {y:.1f}l4.2 -4.8l4.2 4.8l-4.2 4.8Z"
        return f'<path class="dot {style}" d="{shape}">{title}</path>'
    return f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3.6">{title}</circle>'


def _end_labels(drawn: Sequence[Series], styles: Sequence[str], frame: _Frame) -> list[str]:
    ends = sorted(
        (frame.y(s.y[-1]) + 4.5, s.label, style) for s, style in zip(drawn, styles) if s.x
    )
    placed: list[float] = []
    for y, _, _ in ends:
        placed.append(max(y, placed[-1] + _LABEL_STEP) if placed else y)
    excess = max(0.0, (placed[-1] if placed else 0) - frame.bottom - 4)
    return [
        f'<text class="label {style}" x="{frame.right + 9:.1f}" y="{y - excess:.1f}">'
        f"{escape(label)}</text>"
        for y, (_, label, style) in zip(placed, ends)
    ]
