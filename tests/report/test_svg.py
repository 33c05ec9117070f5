"""Charts: points land where their values say, in well-formed SVG."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from fewjump.report import (
    Chart,
    Reference,
    Series,
    budget_axis,
    describe,
    legend,
    line_chart,
    linear_axis,
    log_axis,
    short,
    standalone,
)

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


def dots(svg: str, style: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(svg)
    circles = [c for c in root.iter(f"{SVG}circle") if style in c.get("class", "")]
    return [(float(c.get("cx", "nan")), float(c.get("cy", "nan"))) for c in circles]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("log_y", [False, True])
def test_chart_is_well_formed_and_named(labels: bool, log_y: bool) -> None:
    root = ElementTree.fromstring(line_chart(chart(log_y=log_y), labels=labels))
    title = root.find(f"{SVG}title")
    description = root.find(f"{SVG}desc")
    assert title is not None
    assert title.text == "Error & <budget>"
    assert description is not None
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    texts = {t.text for t in root.iter(f"{SVG}text")}
    assert {"1", "2", "4", "8", "floor"} <= texts
    assert ("student" in texts) is labels


def test_budgets_are_spaced_by_ratio_and_values_by_difference() -> None:
    points = dots(line_chart(chart()), "teacher")
    xs, ys = zip(*points)
    gaps = [b - a for a, b in pairwise(xs)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.11)
    # 0.4 → 0.2 falls twice as far as 0.2 → 0.1.
    assert (ys[1] - ys[0]) / (ys[2] - ys[1]) == pytest.approx(2, rel=0.01)


def test_log_axis_spaces_values_by_ratio() -> None:
    _, ys = zip(*dots(line_chart(chart(log_y=True)), "teacher"))
    gaps = [b - a for a, b in pairwise(ys)]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.11)


def test_band_encloses_the_line() -> None:
    root = ElementTree.fromstring(line_chart(chart()))
    band = next(p for p in root.iter(f"{SVG}path") if "band" in p.get("class", ""))
    numbers = [float(v) for v in re.findall(r"-?[\d.]+", band.get("d", ""))]
    xs, ys = numbers[::2], numbers[1::2]
    assert len(xs) == 6
    assert xs[:3] == xs[:2:-1]
    assert all(upper < lower for upper, lower in zip(ys[:3], ys[:2:-1]))


def test_a_point_that_a_log_axis_cannot_show_is_left_out() -> None:
    series = [Series("a", [1, 2, 4], [0.0, 0.2, 0.1])]
    assert len(dots(line_chart(chart(series=series, log_y=True)), "dot")) == 2
    assert len(dots(line_chart(chart(series=series, log_y=False)), "dot")) == 3


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no point to draw"):
        line_chart(chart(series=[]))
    with pytest.raises(ValueError, match="differ in length"):
        Series("a", [1, 2], [1])
    with pytest.raises(ValueError, match="both low and high"):
        Series("a", [1], [1], low=[0])


def test_two_lines_of_a_role_differ_in_dash() -> None:
    lines = [Series(name, [1, 2], [1, 2], role="teacher") for name in "ab"]
    styles = re.findall(r'class="line (teacher n\d)"', line_chart(chart(series=lines)))
    assert styles == ["teacher n0", "teacher n1"]


def test_standalone_carries_its_colours_and_drawing_is_repeatable() -> None:
    text = standalone(chart())
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert text == standalone(chart())


def test_words_and_legend_hold_every_line() -> None:
    words = describe(chart())
    assert "teacher: 0.4 at 1, 0.2 at 2, 0.1 at 4, 0.05 at 8." in words
    assert "floor: 0.02." in words
    assert legend(chart()).count("<li>") == 2


@pytest.mark.parametrize("values", [[3.0], [1.0, 64.0], [1.0, 2.0, 3.0, 1000.0]])
def test_budget_axis_holds_every_value(values: list[float]) -> None:
    axis = budget_axis(values)
    assert axis.low < min(values) <= max(values) < axis.high


@pytest.mark.parametrize("low", [-3.0, 0.0, 1e-9, 0.13, 7.0])
@pytest.mark.parametrize("span", [0.0, 1e-7, 0.3, 5.0, 3e5])
def test_value_axes_hold_every_value_with_few_ticks(low: float, span: float) -> None:
    makers = [linear_axis, log_axis] if low > 0 else [linear_axis]
    for maker in makers:
        axis = maker([low, low + span])
        slack = 1e-9 * max(abs(axis.low), abs(axis.high))
        assert axis.low - slack <= low
        assert low + span <= axis.high + slack
        assert axis.low < axis.high
        assert 2 <= len(axis.ticks) <= 17
        place = axis.place(0.0, 100.0)
        assert math.isclose(place(axis.low), 0, abs_tol=1e-9)
        assert math.isclose(place(axis.high), 100)


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


def test_a_reference_is_named_where_no_curve_is() -> None:
    for ys, side in (([0.5, 0.3, 0.1], "left"), ([0.1, 0.3, 0.5], "right")):
        curve = [Series("a", [1, 2, 4], ys)]
        references = [Reference("about the level", 0.12)]
        svg = line_chart(chart(series=curve, references=references))
        label = re.search(r'class="note" x="([\d.]+)"', svg)
        assert label is not None
        assert (float(label[1]) < 190) is (side == "left"), side
