"""docs/results.md holds what the committed result files say, and nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "results_page", ROOT / "benchmarks" / "results_page.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_up_to_date(page: ModuleType) -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), (
        "run: python benchmarks/results_page.py"
    )


def test_every_result_file_is_shown(page: ModuleType) -> None:
    files = {path.stem for path in page.RESULTS.glob("*.json")}
    assert files <= set(page.SECTIONS)
