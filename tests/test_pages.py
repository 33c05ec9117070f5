"""The pages hold what the committed results say, and what they say in words is true of them."""

from __future__ import annotations

import importlib.util
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from experiments.harness import RESULTS
from experiments.pages import adaptive, checks, markdown, road, students
from experiments.pages.road import MARK, PAGES, load

MARKS = [
    (page.name, kind, said)
    for page in PAGES
    for kind, said, _ in MARK.findall(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == road.render(text), "run: make pages"


def said(svg: str) -> list[str | None]:
    """What a chart says in words: every line's numbers. Its look may differ between machines."""
    root = ElementTree.fromstring(svg)
    return [part.text for name in ("title", "desc") for part in root.iterfind(f".//{{*}}{name}")]


def test_drawings_are_up_to_date() -> None:
    pytest.importorskip("matplotlib", reason="charts come with fewjump[report]")
    drawn = {p.name: said(p.read_text(encoding="utf-8")) for p in checks.FOLDER.glob("*.svg")}
    wanted = {name: said(text) for name, text in checks.drawings().items()}
    assert all(len(words) > 1 for words in wanted.values())
    assert drawn == wanted, "run: make pages"


def test_no_marker_is_left_over() -> None:
    """A marker that is misspelled would never be filled in again."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("<!--") == 2 * len(MARK.findall(text)), page.name


def test_every_result_is_shown() -> None:
    load.cache_clear()
    for page in PAGES:
        road.render(page.read_text(encoding="utf-8"))
    unread = []
    for path in RESULTS.rglob("*.json"):
        misses = load.cache_info().misses
        load(str(path.relative_to(RESULTS).with_suffix("")))
        unread += [path.name] * (load.cache_info().misses - misses)
    assert unread == []


def test_every_function_of_the_pages_is_named_on_one() -> None:
    named = {said.split()[0] for _, kind, said in MARKS if kind != "made"}
    for module in road.MODULES:
        found = vars(import_module(f"experiments.pages.{module}"))
        own = {
            f"{module}.{name}"
            for name, value in found.items()
            if inspect.isfunction(value)
            and value.__module__ == f"experiments.pages.{module}"
            and not name.startswith("_")
        }
        drawn = {"checks.drawings", "checks.write_drawings"}
        drawn |= {"antibodies.loops_drawing", "molecules.pictures_drawing"}
        assert own - drawn <= named


def test_every_table_and_chart_of_a_committed_check_is_shown_or_left_out_on_purpose() -> None:
    shown = {said for _, _, said in MARKS}
    # What the dense route says where it would not fit: messages, not measurements.
    left_out = {"checks.table vocabulary 2"}
    for path in (RESULTS / "checks").glob("*.json"):
        check = load(f"checks/{path.stem}")
        for kind, many in (("table", check["tables"]), ("figure", check["charts"])):
            assert {f"checks.{kind} {path.stem} {n}" for n in range(len(many))} <= shown | left_out


def test_the_commands_that_pages_name_exist() -> None:
    lines = [road.made(*said.split(" ", 1)) for _, kind, said in MARKS if kind == "made"]
    for line in lines:
        command = line.split("`")[1]
        if match := re.match(r"python -m (\S+)", command):
            assert importlib.util.find_spec(match[1]), command
        elif match := re.match(r"python (\S+)", command):
            assert (RESULTS.parents[1] / match[1]).is_file(), command


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: results.nothing --><!-- end -->", "nothing in experiments.pages"),
        ("<!-- table: results._interval --><!-- end -->", "nothing in experiments.pages"),
        ("a <!-- value: digits:sizes.nothing --><!-- end -->", "digits.json has no"),
        ("<!-- value: digits:seed --><!-- end -->", "must not begin a line"),
    ],
)
def test_markers_that_name_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        road.render(text)


def test_a_value_is_put_into_its_sentence() -> None:
    text = "of <!-- value: digits:seeds count -->9<!-- end --> seeds"
    assert road.render(text) == "of <!-- value: digits:seeds count -->3<!-- end --> seeds"


def test_a_pivot_has_a_line_a_place_and_a_column_a_value() -> None:
    rows = [{"a": "x", "k": 2, "v": 1}, {"a": "x", "k": 1, "v": 2}, {"a": "y", "k": 1, "v": 3}]
    found = markdown.pivot(rows, {"": "a"}, "k", lambda r: str(r[0]["v"]), markdown.steps_head)
    assert found.splitlines()[2:] == ["| x | 2 | 1 |", "| y | 3 | – |"]
    assert found.splitlines()[0] == "|  | 1 step | 2 steps |"


def test_means_intervals_and_the_best_of_an_ablation(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(student: str, near: Any, steps: int, seed: int, nll: float) -> dict[str, Any]:
        about = {"student": student, "size": "r=8", "source": "forward", "near": near}
        return {**about, "steps": steps, "seed": seed, "nll": nll}

    rows = [
        row("chain", 0.1, 4, 0, 2.0),
        row("chain", 0.1, 1, 0, 1.0),
        row("chain", 0.1, 1, 1, 3.0),
    ]
    rows.append(row("mixture", "zero", 1, 0, 1.5))
    monkeypatch.setattr(students, "load", lambda _: {"rows": rows})
    assert students.ablation("nll", "1", "4").splitlines()[2:] == [
        "| chain | r=8 | forward | 0.1·t | 2.000 ± 12.706 | **2.000** |",
        "| mixture | r=8 | forward | zero | **1.500** | – |",
    ]


def test_a_comparison_and_a_tally_say_what_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(**changed: Any) -> dict[str, Any]:
        plain = {"problem": "text", "process": "bound", "steps": 2, "choice": "a", "uniform": 1.0}
        ends = {"difference": -0.2, "low": -0.3, "high": -0.1, "better": True, "worse": False}
        return {**plain, **ends, **changed}

    even = row(choice="b", difference=0.1, low=-0.1, high=0.3, better=False)
    worse = row(steps=4, better=False, worse=True, difference=0.2, low=0.1, high=0.3)
    content = {"grids_against_uniform": [row(), even, worse]}
    monkeypatch.setattr(adaptive, "load", lambda _: content)
    assert adaptive.comparison("grids").splitlines()[2:] == [
        "| text | likelihood bound | 2 | 1.0000 | **-0.2000 ± 0.1000** | +0.1000 ± 0.2000 |",
        "| text | likelihood bound | 4 | 1.0000 | **+0.2000 ± 0.1000** | – |",
    ]
    assert adaptive.tally("grids").splitlines()[2] == (
        "| `a` | 2 | 1 | text: likelihood bound at 2 | 1 | text: likelihood bound at 4 |"
    )
