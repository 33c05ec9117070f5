"""docs/time-varying.md holds the tables of the committed result, number by number."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_tables_are_those_of_the_result_file() -> None:
    path = ROOT / "benchmarks" / "results_page.py"
    spec = importlib.util.spec_from_file_location("results_page", path)
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = (ROOT / "docs" / "time-varying.md").read_text(encoding="utf-8")
    for name in ("hybrid_noise", "hybrid_steps"):
        content = json.loads((page.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        assert getattr(page, name)(content) in text, (
            f"put the output of results_page.{name} into docs/time-varying.md"
        )
