"""Charts: points land where their values say, and no text leaves the drawing or meets another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest

from fewjump.report import Chart, Reference, Series, line_chart, short, standalone
from fewjump.report.charts import describe, draw

pytest.importorskip("matplotlib")
SVG = "{http://www.w3.org/2000/svg}"


def chart(**changes) -> Chart:
    options = {
        "title": "Error & <budget>",
        "series": [
            Series("teacher", [1, 2, 4, 8], [0.4, 0.2, 0.1, 0.05], role="teacher"),
            Series("student", [1, 2, 4], [0.3, 0.2, 0.1], [0.28, 0.19, 0.09], [0.32, 0.21, 0.12]),
        ],
        "references": [Reference("floor", 0.02)],
        "y_label": "total variation",
    }
    return Chart(**(options | changes))


def points(svg: str, label: str) -> list[tuple[float, float]]:
    """Where the markers of a series are, found by what hovering over them says."""
    found = []
    for marker in ElementTree.fromstring(svg).iter(f"{SVG}use"):
        if marker.findtext(f"{SVG}title", "").startswith(f"{label}: "):
            found.append((float(marker.get("x", "nan")), float(marker.get("y", "nan"))))
    return found


@pytest.mark.parametrize("log_y", [False, True])
def test_chart_is_well_formed_and_named(log_y: bool) -> None:
    root = ElementTree.fromstring(line_chart(chart(log_y=log_y)))
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert title.text == "Error & <budget>"
    assert description is not None
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {"1", "2", "4", "8", "teacher", "student", "floor", "total variation"} <= texts


def test_every_number_is_said() -> None:
    words = describe(chart())
    assert "teacher: 0.4 at 1, 0.2 at 2, 0.1 at 4, 0.05 at 8." in words
    assert "floor: 0.02." in words
    svg = line_chart(chart())
    assert words in "".join(ElementTree.fromstring(svg).itertext())
    assert "<title>student: 0.2 (0.19 to 0.21) at 2</title>" in svg


def test_budgets_are_spaced_by_ratio_and_values_by_difference() -> None:
    xs, ys = zip(*points(line_chart(chart()), "teacher"))
    gaps = [b - a for a, b in pairwise(xs)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.03)
    # 0.4 → 0.2 falls twice as far as 0.2 → 0.1.
    assert (ys[1] - ys[0]) / (ys[2] - ys[1]) == pytest.approx(2, rel=0.001)


def test_log_axis_spaces_values_by_ratio() -> None:
    _, ys = zip(*points(line_chart(chart(log_y=True)), "teacher"))
    gaps = [b - a for a, b in pairwise(ys)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.03)


def test_an_interval_that_a_log_axis_cannot_show_is_told_whole() -> None:
    wide = [Series("a", [1, 2], [0.2, 0.1], [0.0, 0.05], [0.5, 0.2])]
    for log in (False, True):
        svg = line_chart(chart(series=wide, log_y=log))
        assert "<title>a: 0.2 (0 to 0.5) at 1</title>" in svg


def test_a_point_that_a_log_axis_cannot_show_is_left_out() -> None:
    lost = [Series("a", [1, 2, 4], [0.0, 0.2, 0.1])]
    assert len(points(line_chart(chart(series=lost, log_y=True)), "a")) == 2
    assert len(points(line_chart(chart(series=lost, log_y=False)), "a")) == 3
    below = [Reference("nothing", 0.0)]
    assert ">nothing<" not in line_chart(chart(references=below, log_y=True))
    assert ">nothing<" in line_chart(chart(references=below))


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no point to draw"):
        line_chart(chart(series=[]))
    with pytest.raises(ValueError, match="differ in length"):
        Series("a", [1, 2], [1])
    with pytest.raises(ValueError, match="both low and high"):
        Series("a", [1], [1], low=[0])


def test_lines_of_a_role_and_references_differ_in_dash() -> None:
    lines = [Series(name, [1, 2], [1, 2], role="teacher") for name in "abcd"]
    axes = draw(chart(series=lines, references=[Reference(n, 1) for n in "xyz"]), 400, 300).axes[0]
    dashes = {str(line.get_linestyle()) + str(line._dash_pattern) for line in axes.lines}  # type: ignore[attr-defined]
    assert len(dashes) == 7


LONG = "the student of the paper's own objective, drawn by the second-order sampler, cosine times"


@pytest.mark.parametrize("width", [400, 760, 960])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"log_y": True, "better": "lower"},
        {"y_label": LONG, "x_label": LONG, "better": "higher"},
        {
            "series": [
                Series(f"{LONG} {k}", [1, 1000], [1e-7, k + 1], role="data") for k in range(7)
            ],
            "references": [Reference("W" * 80, 1.0)],
        },
        {"series": [Series(f"line {k}", [1, 64], [k, 1e5]) for k in range(12)]},
    ],
    ids=["plain", "log", "long names", "long legend", "many lines"],
)
def test_no_text_leaves_the_drawing_or_meets_another(changes: dict, width: int) -> None:
    figure = draw(chart(**changes), width, 270)
    texts = written(figure)
    for name, (x0, y0, x1, y1) in texts:
        assert -0.5 <= x0 < x1 <= width + 0.5, name
        assert -0.5 <= y0 < y1 <= figure.get_figheight() * 72 + 0.5, name
    for (one, a), (other, b) in combinations(texts, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)
    # However long the legend is, the drawing under it keeps its height.
    assert figure.axes[0].get_window_extent().height > 100


def written(figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every text of a figure and its box."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    axes = figure.axes[0]
    texts = [axes.xaxis.label]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    texts += [*figure.findobj(lambda t: isinstance(t, Text) and t in axes.get_children())]
    texts += figure.legends[0].get_texts()
    return [
        (t.get_text(), t.get_window_extent().extents)
        for t in dict.fromkeys(texts)
        if t.get_visible() and t.get_text()
    ]


@pytest.mark.parametrize("low", [-3.0, 0.0, 1e-9, 0.13, 7.0])
@pytest.mark.parametrize("span", [0.0, 1e-7, 0.3, 5.0, 3e5])
def test_axes_hold_every_value_with_few_ticks(low: float, span: float) -> None:
    lines = [Series("a", [1, 2], [low, low + span])]
    for log in (False, True) if low > 0 else (False,):
        axes = draw(chart(series=lines, references=(), log_y=log, log_x=False), 400, 270).axes[0]
        bottom, top = axes.get_ylim()
        slack = 1e-9 * max(abs(bottom), abs(top))
        assert bottom - slack <= low
        assert low + span <= top + slack
        shown = [t for t in axes.get_yticks() if bottom - slack <= t <= top + slack]
        assert 1 <= len(shown) <= 12


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("low", "high"), [(1.395, 1.403), (2.725, 2.85), (1e5, 1e5 + 1), (0, 1)])
def test_ticks_say_their_values(low: float, high: float, log: bool) -> None:
    lines = [Series("a", [1, 2], [low or 0.5, high])]
    axes = draw(chart(series=lines, references=(), log_y=log), 400, 270).axes[0]
    ticks = axes.get_yticks()
    for tick, name in zip(ticks, axes.yaxis.get_major_formatter().format_ticks(ticks)):
        assert float(name.replace(",", "")) == pytest.approx(tick, abs=(high - low) / 200)


@pytest.mark.parametrize("values", [[3.0], [1.0, 64.0], [1.0, 2.0, 3.0, 1000.0]])
def test_budgets_that_were_measured_are_marked(values: Sequence[float]) -> None:
    lines = [Series("a", values, values)]
    axes = draw(chart(series=lines, references=()), 400, 270).axes[0]
    assert list(axes.get_xticks()) == list(values)
    assert axes.get_xlim()[0] < min(values) <= max(values) < axes.get_xlim()[1]


def test_drawing_is_repeatable_and_names_do_not_meet() -> None:
    assert standalone(chart()) == standalone(chart())
    both = line_chart(chart()) + line_chart(chart(log_y=True, title="other"))
    names = re.findall(r' id="([^"]+)"', both)
    assert len(names) == len(set(names)) > 4
    assert set(re.findall(r'href="#([^"]+)"', both)) <= set(names)


def test_drawing_ignores_the_users_own_settings_and_leaves_them() -> None:
    import matplotlib as mpl

    before = line_chart(chart())
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert line_chart(chart()) == before
        assert mpl.rcParams["font.size"] == 30


def test_colours_are_the_pages() -> None:
    svg = line_chart(chart())
    assert set(re.findall(r"(?:fill|stroke): (?!none)([^;\"]+)", svg)) == {
        *(f"var(--{name}, {colour})" for name, colour in [
            ("teacher", "#2f6fb3"), ("other", "#7a4fb0"), ("ink", "#1c2230"),
            ("soft", "#5a6478"), ("hair", "#e3e7ee"), ("paper", "#ffffff"),
        ])
    }  # fmt: skip
    assert "font-family" not in svg
    text = standalone(chart())
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text


def test_names_are_text_and_not_formulas() -> None:
    root = ElementTree.fromstring(line_chart(chart(y_label="$x^2$ & <cost>")))
    assert "$x^2$ & <cost>" in {text.text for text in root.iter(f"{SVG}text")}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (10, "10"),
        (100, "100"),
        (0.0301, "0.0301"),
        (0.43219, "0.432"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (2.5e-7, "2.5e-7"),
        (3e9, "3e9"),
        (-0.5, "-0.5"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text
