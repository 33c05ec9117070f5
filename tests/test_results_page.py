"""README.md and the pages made from results hold what the committed result files say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


@pytest.mark.parametrize("name", ["results_page", "students_page", "adaptive_page"])
def test_page_is_up_to_date(name: str) -> None:
    page = module(name)
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), (
        f"run: python benchmarks/{name}.py"
    )


def test_every_result_file_is_shown() -> None:
    """On one of the pages that are made from them."""
    results, adaptive = module("results_page"), module("adaptive_page")
    files = {path.stem for path in results.RESULTS.glob("*.json")}
    shown = {*results.SECTIONS, *module("students_page").FILES, *adaptive.FILES}
    assert files <= shown


def test_the_tables_of_the_readme_are_up_to_date() -> None:
    page = module("readme_numbers")
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), (
        "run: python benchmarks/readme_numbers.py"
    )
