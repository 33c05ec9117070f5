"""docs/checkpoints.md holds what the committed result files say, and they say what was asked."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    file = ROOT / "benchmarks" / "checkpoints_page.py"
    spec = importlib.util.spec_from_file_location("checkpoints_page", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_up_to_date(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.render(text), "run: python benchmarks/checkpoints_page.py"


def test_the_results_are_of_every_family_and_within_what_is_allowed(page: ModuleType) -> None:
    content = json.loads((page.RESULTS / "originals.json").read_text(encoding="utf-8"))
    assert {row["family"] for row in content["rows"]} == set(page.NAMES)
    assert content["atol"] == 5e-6
    assert all(row["excess"] <= 1 for row in content["rows"])


def test_at_least_a_thousand_files_were_loaded_and_none_is_a_defect(page: ModuleType) -> None:
    content = json.loads((page.RESULTS / "fuzz.json").read_text(encoding="utf-8"))
    assert content["files"] >= 1000
    assert content["defects"] == []
    assert len(content["containers"]) >= 7
