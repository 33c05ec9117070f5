"""Charts by matplotlib, as SVG that follows the reader's light or dark setting, and PNG pictures.

matplotlib draws with the light colours of ``palette.css``; in the SVG each of them becomes the CSS
variable of that name, so that a chart inside the page changes with it. Text stays text. It is laid
out with DejaVu Sans, which is wider than the fonts that browsers choose, so that nothing is cut.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import as_file, files
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fewjump.config import optional
from fewjump.report.content import Chart, Series, shipped, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

#: Lines of one role differ in dash, references in the pattern of their dots.
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.6)), (0, (5, 1.5, 1, 1.5)))
_DOTS = ((0, (1, 2)), (0, (6, 2, 1, 2)), (0, (6, 3)))
_MOST_MARKERS = 40
_MOST_BUDGETS = 12


def line_chart(chart: Chart, width: int = 400, height: int = 270) -> str:
    """The chart as an ``<svg>`` element, with its words and numbers for those who cannot see it.

    Args:
        chart: what to draw.
        width, height: size of the drawing under its legend, in units of which text is 13 high.

    Raises:
        ValueError: if no point can be drawn.
        ModuleNotFoundError: without matplotlib, naming the extra.
    """
    figure = draw(chart, width, height)
    tips = {
        f"series-{number}": [_tip(series, i) for i in range(len(series.x))]
        for number, series in enumerate(_drawable(chart))
    }
    return themed(figure, chart.title, describe(chart), tips)


def standalone(chart: Chart, width: int = 760, height: int = 390) -> str:
    """An SVG file's text: the chart with its own light and dark palette; raises as line_chart."""
    return with_palette(line_chart(chart, width, height))


def with_palette(svg: str) -> str:
    """The text of an SVG file from an element that :func:`themed` made."""
    head, body = svg.split(">", 1)
    paper = '<rect width="100%" height="100%" rx="10" style="fill: var(--paper, #ffffff)" />'
    return f"{head}>\n<style>{shipped('palette.css')}</style>\n{paper}{body}\n"


def draw(chart: Chart, width: int, height: int) -> Figure:
    """The chart as a matplotlib figure of ``width`` points; arguments as for :func:`line_chart`."""
    drawn = _drawable(chart)
    if not any(series.x for series in drawn):
        raise ValueError(f"chart {chart.title!r} has no point to draw")
    figure = new_figure(width, height)
    with _style():
        axes = figure.add_subplot()
        handles = _lines(axes, chart, drawn)
        colours = palette()
        direction = f" ({chart.better} is better)" if chart.better else ""
        room = width - 90
        axes.set_title(_folded(figure, chart.y_label + direction, room), loc="left")
        axes.set_xlabel(_folded(figure, chart.x_label, room))
        _scale(axes, chart, drawn)
        axes.grid(axis="y", color=colours["hair"], linewidth=1)
        axes.tick_params(length=0, labelcolor=colours["soft"])
        axes.spines[["top", "left", "right"]].set_visible(False)
        labels = [_folded(figure, str(line.get_label()), room) for line in handles]
        for columns in range(len(handles), 0, -1):
            legend = figure.legend(handles, labels, loc="outside upper left", ncols=columns)
            box = legend.get_window_extent()
            if columns == 1 or box.width <= width - 12:
                figure.set_size_inches(width / 72, (height + box.height) / 72)
                break
            legend.remove()
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib figure in the house style, of ``width`` × ``height`` points.

    Raises:
        ModuleNotFoundError: without matplotlib, naming the extra.
    """
    optional("matplotlib", "a chart", "report")
    from matplotlib.figure import Figure

    with _style():
        return Figure(figsize=(width / 72, height / 72), layout="constrained", dpi=72)


def themed(
    figure: Figure, title: str, description: str, tips: dict[str, list[str]] | None = None
) -> str:
    """A matplotlib figure as an ``<svg>`` element whose colours are those of ``palette.css``.

    The same figure gives the same text. Names inside it start with a checksum of the title and the
    description, so that several fit on one page.

    Args:
        figure: drawn with the colours of :func:`palette`.
        title, description: for screen readers.
        tips: for the artist of each gid, what hovering over its markers says.
    """
    size = figure.get_size_inches() * 72
    prefix = f"c{crc32(f'{title} {description} {size}'.encode()):08x}-"
    buffer = BytesIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    used = set(re.findall(r'href="#(\w+)"', buffer.getvalue().decode()))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        said = (tips or {}).get(element.get("id", ""), ())
        for marker, tip in zip(element.findall(".//{*}use"), said):
            ElementTree.SubElement(marker, "title").text = tip
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        element.attrib.clear()
        for name, value in attributes.items():
            if name in ("d", "x", "y"):
                value = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
            elif name == "id":
                value = prefix + value if value in used else ""
            elif name == "href" and value.startswith("#"):
                value = f"#{prefix}{value[1:]}"
            # Nothing is drawn outside the axes, which need not be clipped then.
            if value and name != "clip-path" and not value.startswith("rotate(-0 "):
                element.set(name, value)
    for name in ("metadata", "defs"):
        for element in root.findall(name):
            root.remove(element)
    root.attrib.clear()
    root.attrib |= {
        "xmlns": "http://www.w3.org/2000/svg",
        "class": "chart",
        "viewBox": f"0 0 {size[0]:g} {size[1]:g}",
        "role": "img",
        "aria-labelledby": f"{prefix}t {prefix}d",
    }
    for tag, text in (("desc", description), ("title", title)):
        words = ElementTree.Element(tag, {"id": prefix + tag[0]})
        words.text = text
        root.insert(0, words)
    svg = ElementTree.tostring(root, encoding="unicode")
    svg = re.sub(r"\n\s+", "\n", re.sub(r" font-family: [^;\"]*;?", "", svg))
    for name, colour in palette().items():
        svg = svg.replace(f": {colour}", f": var(--{name}, {colour})")
    return svg


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


def palette() -> dict[str, str]:
    """Name → ``#rrggbb`` of the light colours."""
    light = shipped("palette.css").partition("@media")[0]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light))


def as_pixels(images: Any) -> Pixels:
    """Images as (N, H, W) or (N, H, W, 3) uint8; floats in [0, 1] are scaled to 0…255.

    Raises:
        ValueError: for another shape, or values out of range.
    """
    array = np.asarray(images)
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] != 3):
        raise ValueError(f"images must be (N, H, W) or (N, H, W, 3), got {array.shape}")
    if array.dtype == np.uint8:
        return array
    if array.size and (array.min() < 0 or array.max() > 1):
        raise ValueError("images that are not uint8 must lie in [0, 1]")
    return (array * 255).round().astype(np.uint8)


def contact_sheet(
    images: Any,
    columns: int | None = None,
    scale: int = 1,
    gap: int = 1,
    paper: int | None = 255,
) -> Pixels:
    """Lay images out in a grid: (H', W') or (H', W', 3) uint8, with one more channel for alpha.

    Args:
        images: see :func:`as_pixels`; at least one.
        columns: images per row; about √N when None.
        scale: each pixel becomes a square of this side.
        gap: pixels between images, before scaling.
        paper: grey level of the gaps; None makes them transparent, which adds an alpha channel:
            (H', W', 2) or (H', W', 4).
    """
    pixels = as_pixels(images)
    if len(pixels) == 0:
        raise ValueError("there are no images to show")
    if paper is None:
        colours = pixels[..., None] if pixels.ndim == 3 else pixels
        opaque = np.full((*colours.shape[:3], 1), 255, dtype=np.uint8)
        pixels = np.concatenate([colours, opaque], axis=-1)
    n, height, width = pixels.shape[:3]
    across = min(n, columns or math.ceil(math.sqrt(n)))
    down, channels = -(-n // across), pixels.shape[3:]
    around = [(0, down * across - n), (0, gap), (0, gap), *((0, 0) for _ in channels)]
    cells = np.pad(pixels, around, constant_values=paper or 0)
    cells = cells.reshape(down, across, height + gap, width + gap, *channels).swapaxes(1, 2)
    sheet = cells.reshape(down * (height + gap), across * (width + gap), *channels)
    sheet = sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]
    return sheet.repeat(scale, 0).repeat(scale, 1)


def encode_png(pixels: Pixels) -> bytes:
    """A PNG file from uint8 pixels: (H, W) grey, or (H, W, 2…4) grey or colour, with alpha.

    Raises:
        ModuleNotFoundError: without Pillow, which matplotlib brings, naming the extra.
    """
    buffer = BytesIO()
    optional("PIL.Image", "a picture", "report").fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    """A context in which matplotlib draws for the page, whatever the user's own settings are."""
    from matplotlib import style

    colours = palette()
    soft = dict.fromkeys(("axes.titlecolor", "axes.labelcolor", "axes.edgecolor"), colours["soft"])
    own = {**soft, "legend.labelcolor": colours["ink"]}
    with (
        as_file(files("fewjump.report") / "chart.mplstyle") as sheet,
        style.context([sheet, own], after_reset=True),
    ):
        yield


def _folded(figure: Figure, text: str, width: float) -> str:
    """The text with line breaks, so that it is at most ``width`` points wide."""
    probe, letters = figure.text(0, 0, text), len(text)
    while letters > 1 and probe.get_window_extent().width > width:
        letters = letters * 9 // 10
        probe.set_text(textwrap.fill(text, letters))
    probe.remove()
    return probe.get_text()


def _drawable(chart: Chart) -> list[Series]:
    """The series without the points that a logarithmic axis cannot show."""
    drawn = []
    for one in chart.series:
        keep = [
            i
            for i, (x, y) in enumerate(zip(one.x, one.y))
            if (not chart.log_x or x > 0) and (not chart.log_y or y > 0)
        ]
        x, y = [float(one.x[i]) for i in keep], [float(one.y[i]) for i in keep]
        low = None if one.low is None else [float(one.low[i]) for i in keep]
        high = None if one.high is None else [float(one.high[i]) for i in keep]
        drawn.append(Series(one.label, x, y, low, high, one.role))
    return drawn


def _lines(axes: Axes, chart: Chart, drawn: list[Series]) -> list[Any]:
    """Draw bands, references and lines; returns what the legend shows."""
    colours, seen, handles = palette(), Counter(), []
    for number, series in enumerate(drawn):
        colour = colours[series.role]
        marker = "D" if series.role == "student" else "o"
        (line,) = axes.plot(
            series.x,
            series.y,
            label=series.label,
            color=colour,
            linestyle=_DASHES[min(seen[series.role], len(_DASHES) - 1)],
            linewidth=2.2,
            marker=marker if len(series.x) <= _MOST_MARKERS else "",
            markersize=6.5,
            markeredgecolor=colours["paper"],
            markeredgewidth=1.2,
            gid=f"series-{number}",
            clip_on=False,
            zorder=3,
        )
        seen[series.role] += 1
        handles.append(line)
        if series.low is not None and series.high is not None:
            low = series.low
            if chart.log_y:
                # A band that goes down to 0 has no end there.
                low = [v if v > 0 else series.y[i] for i, v in enumerate(low)]
            if len(series.x) == 1:
                axes.vlines(series.x, low, series.high, color=colour, linewidth=2.2)
            else:
                axes.fill_between(series.x, low, series.high, color=colour, alpha=0.16, linewidth=0)
    dotted: Any = {"color": colours["ink"], "linewidth": 1.4}
    for number, line in enumerate(chart.references):
        if line.value > 0 or not chart.log_y:
            dots = _DOTS[min(number, len(_DOTS) - 1)]
            handles.append(axes.axhline(line.value, label=line.label, linestyle=dots, **dotted))
    return handles


def _scale(axes: Axes, chart: Chart, drawn: list[Series]) -> None:
    """Ticks in round numbers, or at the budgets that were measured; zero is shown if near."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xscale("log" if chart.log_x else "linear")
    axes.set_yscale("log" if chart.log_y else "linear")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_data_interval()
        locator: Any = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
        if axis.get_scale() == "log" and high >= 10 * low:
            locator = LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,), numticks=9)
        axis.set_major_locator(locator)
        axis.set_minor_locator(NullLocator())
        # Ticks of a narrow range differ in later digits than the third.
        step = min((b - a for a, b in pairwise(locator.tick_values(low, high))), default=high)
        axis.set_major_formatter(FuncFormatter(partial(_tick, step)))
    budgets = sorted({x for series in drawn for x in series.x})
    if chart.log_x and len(budgets) <= _MOST_BUDGETS:
        axes.xaxis.set_major_locator(FixedLocator(budgets[:: 1 + (len(budgets) > 9)]))
    low, high = axes.yaxis.get_data_interval()
    if not chart.log_y:
        ticks = axes.yaxis.get_major_locator().tick_values(0 if 0 < low < 0.6 * high else low, high)
        axes.set_ylim(ticks[0], ticks[-1])


def _tick(step: float, value: float, _: int) -> str:
    """A tick's name, in as many digits as tell it from the next one, which is ``step`` away."""
    names = (short(value, digits) for digits in range(3, 16))
    near = (name for name in names if abs(float(name.replace(",", "")) - value) < abs(step) / 50)
    return next(near, str(value))


def _tip(series: Series, i: int) -> str:
    """What hovering over a point says."""
    interval = ""
    if series.low is not None and series.high is not None:
        interval = f" ({short(series.low[i])} to {short(series.high[i])})"
    return f"{series.label}: {short(series.y[i])}{interval} at {short(series.x[i])}"
