"""The page: self-contained, well-formed, escaped, and true to the rows."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fewjump.report import (
    Chart,
    ImageSamples,
    KeyNumber,
    Note,
    Report,
    SampleGroup,
    Series,
    Table,
    TextSamples,
    from_results,
    quality_chart,
    render,
    training_charts,
    write,
)
from fewjump.results import Row, read_results, write_results

ROWS = [
    Row("teacher", "ancestral", n, n, "bigram_tv", v, v * 0.9, v * 1.1, 0.1 * n)
    for n, v in [(1, 0.43), (4, 0.13), (64, 0.008)]
] + [
    Row("teacher", "euler", 1, 1, "bigram_tv", 0.6),
    Row("student", "ancestral", 4, 4, "bigram_tv", 0.14),
    Row("student", "ancestral", 1, 1, "bigram_tv", 0.44),
    Row("sampling noise", "", None, None, "bigram_tv", 0.003),
    Row("student", "ancestral", 1, 1, "entropy", 1.2),
]

VOID = {"meta", "img"}


class Structure(HTMLParser):
    """Fails on tags that do not nest; collects attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parse(page: str) -> Structure:
    structure = Structure()
    structure.feed(page)
    structure.close()
    assert structure.open == []
    return structure


def full_report() -> Report:
    return from_results(
        ROWS,
        title="A title with <b> & `code`",
        subtitle="One line",
        summary=["It **worked**."],
        key_numbers=[KeyNumber("0.44", "distance")],
        samples=[
            SampleGroup(
                "1 evaluation",
                [
                    ImageSamples("Teacher", np.zeros((6, 8, 8), np.uint8), "teacher"),
                    TextSamples("Student", ["<script>alert(1)</script>\nline"], "student"),
                ],
            )
        ],
        notes=[Note("Why", ["Because."])],
        tables=[Table("Other", ("name", "n"), [("a", 1234567), ("b", None)])],
        training=[Chart("Loss", [Series("loss", [0, 10], [2, 1])], log_x=False)],
        facts={"seed": 12345678901, "machine": {"cpu_count": 2}, "versions": {"torch": "2.13"}},
    )


def test_page_nests_and_holds_everything() -> None:
    page = render(full_report())
    structure = parse(page)
    text = "".join(structure.words)
    for part in ("It worked.", "Because.", "12345678901", "machine: cpu count", "Every measured"):
        assert part in text
    assert sum(tag == "h1" for tag, _ in structure.tags) == 1
    assert text.count("bigram_tv") == 7


def test_page_refers_to_nothing_outside_and_runs_nothing() -> None:
    page = render(full_report())
    structure = parse(page)
    for tag, attributes in structure.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))
    urls = set(re.findall(r"https?://[^\s\"']+", page))
    assert urls <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in page
    assert all(m.startswith("#") for m in re.findall(r'href="([^"]*)', page))
    assert "@import" not in page


def test_a_page_without_the_extra_has_all_but_the_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    page = render(full_report())
    text = "".join(parse(page).words)
    for part in ("It worked.", "Because.", "12345678901", "Every measured", "line", "1.23e6"):
        assert part in text
    report = full_report()
    drawings = len(report.charts) + len(report.training) + 1
    assert text.count("pip install 'fewjump[report]'") == drawings == 4
    assert "<svg" not in page
    assert "<img" not in page


def test_the_same_report_gives_the_same_page() -> None:
    assert render(full_report()) == render(full_report())


def test_page_is_escaped() -> None:
    bad = "<script>alert(1)</script>"
    line = Series(bad, [1, 2], [1, 2])
    report = Report(
        bad, bad, [bad], [KeyNumber(bad, bad)], [Chart(bad, [line], y_label=bad, caption=bad)],
        [SampleGroup(bad, [TextSamples(bad, [bad], caption=bad)])],
        [Table(bad, [bad], [[bad]], bad)], [Note(bad, [bad])], [],
        {bad: bad}, [Row(bad, bad, 1, 1, bad, 1.0)], bad,
    )  # fmt: skip
    assert "<script" not in render(report)
    page = render(full_report())
    assert "A title with &lt;b&gt; &amp; <code>code</code>" in page
    assert "<title>A title with &lt;b&gt; &amp; code</title>" in page


def test_page_serves_phones_dark_rooms_and_screen_readers() -> None:
    page = render(full_report())
    structure = parse(page)
    assert "prefers-color-scheme: dark" in page
    assert 'content="width=device-width, initial-scale=1"' in page
    assert ("html", {"lang": "en"}) in structure.tags
    assert all(a.get("alt") for tag, a in structure.tags if tag == "img")
    drawings = [a for tag, a in structure.tags if tag == "svg"]
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for a in drawings)
    ids = [a["id"] for _, a in structure.tags if "id" in a]
    assert len(ids) == len(set(ids))


def contrast(one: str, two: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_are_readable_in_both_schemes() -> None:
    page = render(full_report())
    palettes = re.findall(r":root \{[^}]*?--page.*?\}", page, re.DOTALL)
    assert len(palettes) == 2
    for palette in palettes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", palette))
        for name in ("ink", "soft", "teacher", "student", "data", "other"):
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
        assert contrast(colours["soft"], colours["page"]) >= 4.5


def test_chart_groups_rows_by_model_and_sampler() -> None:
    chart = quality_chart(ROWS, "bigram_tv")
    assert [s.label for s in chart.series] == ["teacher, ancestral", "teacher, euler", "student"]
    assert list(chart.series[2].x) == [1, 4]
    assert list(chart.series[2].y) == [0.44, 0.14]
    assert chart.series[0].low == pytest.approx([0.387, 0.117, 0.0072])
    assert [(r.label, r.value) for r in chart.references] == [("sampling noise", 0.003)]
    assert chart.log_y
    assert chart.better == "lower"


def test_words_written_from_rows_name_the_numbers() -> None:
    report = from_results(ROWS)
    assert "At 1 network evaluation per sample" in report.summary[0]
    assert "0.44" in report.summary[0]
    # The teacher speaks through its better sampler.
    assert "0.43" in report.summary[0]
    assert report.key_numbers[0].value == "0.44"
    alone = from_results([row for row in ROWS if row.model == "teacher"])
    assert "0.008" in alone.summary[0]


def test_wall_clock_is_tabled_by_budget() -> None:
    table = from_results(ROWS).tables[-1]
    assert list(table.columns) == ["model", "sampler", "NFE 1", "NFE 4", "NFE 64"]
    assert list(table.rows[0]) == ["teacher", "ancestral", 0.1, 0.4, 6.4]


def test_steps_that_cost_as_many_evaluations_do_not_hide_each_other() -> None:
    rows = [
        Row("teacher", "first-hitting", steps, min(steps, 6), "nll", 1.0, seconds=steps / 10)
        for steps in (2, 8, 16)
    ]
    table = from_results(rows).tables[-1]
    assert list(table.columns[2:]) == ["NFE 2", "NFE 6, 8 steps", "NFE 6, 16 steps"]
    assert list(table.rows[0][2:]) == [0.2, 0.8, 1.6]


def test_headline_metric_comes_first() -> None:
    assert from_results(ROWS, headline="entropy").charts[0].y_label == "nats"
    with pytest.raises(ValueError, match="no row measures 'fid'"):
        from_results(ROWS, headline="fid")
    with pytest.raises(ValueError, match="no results to report"):
        from_results([])


def test_results_round_trip(tmp_path: Path) -> None:
    path = write_results(tmp_path, ROWS, {"seed": 3})
    assert path == tmp_path / "results.json"
    rows, facts = read_results(tmp_path)
    assert rows == ROWS
    assert facts == {"seed": 3}
    path.write_text(json.dumps([{"model": "m", "metric": "kl", "value": 1, "nfe": 2}]))
    assert read_results(path)[0] == [Row("m", "", None, 2, "kl", 1)]


def test_bad_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no results at"):
        read_results(tmp_path)
    path = tmp_path / "results.json"
    for text, message in [
        ("{", "not valid JSON"),
        ("{}", "no list named 'rows'"),
        ('[{"model": "m"}]', "lacks metric, value"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_results(path)
    with pytest.raises(ValueError, match="nan"):
        write_results(path, [Row("m", "", 1, 1, "kl", float("nan"))], {})


def test_write_makes_the_folder_and_leaves_no_scrap(tmp_path: Path) -> None:
    path = write(full_report(), tmp_path / "new")
    assert path == tmp_path / "new" / "report.html"
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_training_curve_is_thinned_by_averaging(tmp_path: Path) -> None:
    lines = [json.dumps({"step": k, "loss": float(k % 2)}) for k in range(1000)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, json.dumps({"step": 5, "kl": 1})]))
    (chart,) = training_charts(tmp_path, "teacher", "teacher")
    (series,) = chart.series
    assert len(series.x) == 143
    assert all(0.4 < y < 0.6 for y in series.y)
    assert training_charts(tmp_path / "none", "teacher") == []
