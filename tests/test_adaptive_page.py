"""The tables of docs/adaptive-times.md hold what the committed result file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adaptive-times.md").read_text(encoding="utf-8")
FOUND = json.loads((ROOT / "benchmarks" / "results" / "adaptive_times.json").read_text())


def change(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.4f} ({row['low']:+.4f}, {row['high']:+.4f})"


def test_every_grid_is_in_the_table() -> None:
    found = {
        (r["problem"], r["process"], r["steps"], r["choice"]): r
        for r in FOUND["grids_against_uniform"]
    }
    cells = {key[:3] for key in found}
    assert len(cells) == 12
    for problem, process, steps in cells:
        fitted, cosine, log = (
            found[problem, process, steps, choice] for choice in ("fitted", "cosine", "log-linear")
        )
        line = (
            f"| {problem}, {process} | {steps} | {fitted['uniform']:.4f} | {change(fitted)} | "
            f"{cosine['difference']:+.4f} | {log['difference']:+.4f} |"
        )
        assert line in PAGE


def test_every_training_choice_is_in_the_table() -> None:
    found = {(r["problem"], r["choice"]): r for r in FOUND["training_against_uniform"]}
    choices = {choice for _, choice in found}
    assert len(choices) == 4
    for choice in choices:
        posterior, output = found["posterior", choice], found["output", choice]
        name = choice.replace("-", " ")
        assert f"| {name} | {change(posterior)} | {change(output)} |" in PAGE
        assert f"(uniform: {posterior['uniform']:.4f})" in PAGE
        assert f"(uniform: {output['uniform']:.4f})" in PAGE
