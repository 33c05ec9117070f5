"""docs/experiments.md and its charts hold what the committed checks say, and nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "experiments_page", ROOT / "benchmarks" / "experiments_page.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_up_to_date(page: ModuleType) -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), (
        "run: python benchmarks/experiments_page.py"
    )


def test_charts_are_up_to_date(page: ModuleType) -> None:
    drawn = {path.name: path.read_text(encoding="utf-8") for path in page.CHARTS.glob("*.svg")}
    assert drawn == page.drawings(), "run: python benchmarks/experiments_page.py"


# Times of sparse rates' recovery grow faster than V once vectors leave the caches, and say so.
NOT_ALL_HOLDS = {"vocabulary"}


def test_every_committed_check_has_a_name_and_holds_or_says_so(page: ModuleType) -> None:
    from fewjump.verify.checks import CHECKS

    text = page.PAGE.read_text(encoding="utf-8")
    for stem, check, facts in page.results():
        assert check.name in {*CHECKS, "monitor-overhead"}, stem
        assert (check.failures != []) == (check.name in NOT_ALL_HOLDS), stem
        for failure in check.failures:
            assert f"**Does not hold:** {failure}" in text
        assert facts["machine"]["torch"]


def test_every_table_cell_is_in_the_page(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    for _, check, _ in page.results():
        for table in check.tables:
            assert f"**{table.title}**" in text
            for row in table.rows:
                assert "| " + " | ".join(page.cell(value) for value in row) + " |" in text
