"""docs/scale.md holds what the committed result files say, and those meet the stated bounds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scale"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    path = ROOT / "benchmarks" / "scale_page.py"
    spec = importlib.util.spec_from_file_location("scale_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_page_is_up_to_date(page: ModuleType) -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), (
        "run: python benchmarks/scale_page.py"
    )


def test_every_result_file_is_shown(page: ModuleType) -> None:
    shown = page.render()
    for path in RESULTS.glob("*.json"):
        assert f"benchmarks/{path.stem}.py" in shown


def test_the_chunked_loss_is_as_small_fast_and_exact_as_it_must_be() -> None:
    content = read("loss_memory")
    assert (content["hidden"], content["positions"]) == (768, 4096)
    rows = [r for r in content["rows"] if r["vocab"] == 50_258 and r["how"] == "chunked"]
    assert {r["labels"] for r in rows} == {"soft", "hard"}
    for row in rows:
        assert row["memory_ratio"] <= 1 / 8
        assert row["time_ratio"] <= 2.5
        assert row["value_error"] <= 1e-5
        assert row["gradient_error"] <= 1e-5


def test_two_processes_agree_with_one() -> None:
    content = read("two_ranks")
    curve = content["one_process_curve"]
    assert max(curve) - min(curve) > 0.01
    for row in content["rows"]:
        assert row["largest_loss_difference"] <= 1e-5


def test_the_small_shape_fits() -> None:
    if not (RESULTS / "small_step.json").is_file():
        pytest.skip("not measured: run benchmarks/small_step.py on a quiet machine")
    content = read("small_step")
    assert content["trunk"]["hidden"] * content["trunk"]["blocks"] == 768 * 12
    for row in content["rows"]:
        assert row["parameters"] > 160e6
        assert row["peak_bytes"] < 12 * 2**30
