"""The committed rows give the committed tables and charts: no number of a page is typed."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from experiments import monitor_overhead
from experiments.vocabulary import Vocabulary
from fewjump.verify.checks import CHECKS, Check, CheckResult, check_called

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results" / "checks"
#: Rows that a check adds to what it measured: break points, exponents.
ADDED = {"by_seed", "slope"}
# Times of sparse rates' recovery grow faster than V once vectors leave the caches, and say so.
NOT_ALL_HOLDS = {"vocabulary"}


def committed(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name.replace('-', '_')}.json").read_text(encoding="utf-8"))


def assert_same(found: CheckResult, known: dict[str, Any]) -> None:
    content = json.loads(json.dumps(found.content()))
    assert content["rows"] == known["rows"]
    assert content["failures"] == known["failures"]
    assert [number["value"] for number in content["key_numbers"]] == [
        number["value"] for number in known["key_numbers"]
    ]
    for table, same in zip(content["tables"], known["tables"], strict=True):
        assert (table["title"], table["columns"]) == (same["title"], same["columns"])
        assert table["rows"] == same["rows"]
    for chart, same in zip(content["charts"], known["charts"], strict=True):
        assert chart["title"] == same["title"]
        for line, as_before in zip(chart["series"], same["series"], strict=True):
            assert line["label"] == as_before["label"]
            assert line["x"] == pytest.approx(as_before["x"], rel=1e-12)
            assert line["y"] == pytest.approx(as_before["y"], rel=1e-12)
            for end in ("low", "high"):
                assert (line[end] is None) == (as_before[end] is None)
                if line[end] is not None:
                    assert line[end] == pytest.approx(as_before[end], rel=1e-9, abs=1e-12)
        assert chart["references"] == same["references"]


@pytest.mark.parametrize("check", [*map(check_called, CHECKS), Vocabulary])
def test_a_check_says_the_same_of_the_same_rows(check: type[Check]) -> None:
    expected = committed(check.name)
    known = {field.name for field in fields(check)}
    asked = check(**{k: v for k, v in expected["settings"].items() if k in known})
    rows = [row for row in expected["rows"] if not ADDED & set(row)]
    found = asked.answer(rows)
    assert_same(found, expected)
    assert found.verdict
    assert (not found.passed) == (check.name in NOT_ALL_HOLDS)


def test_the_monitors_share_is_read_from_its_rows_and_a_dear_look_fails() -> None:
    expected = committed("monitor-overhead")
    rows = [{k: v for k, v in row.items() if k != "share"} for row in expected["rows"]]
    assert_same(monitor_overhead.summarise(rows), expected)
    dear = {**rows[0], "look": 50 * rows[0]["step"]}
    assert len(monitor_overhead.summarise([dear]).failures) == 1
