"""What experiments share: the command line, the cache, and the result's file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from experiments import harness


@dataclass(kw_only=True)
class Config(harness.Options):
    """Toy."""

    corpus: str
    """Of the result's name."""

    steps: tuple[int, ...] = (1, 2)


def test_a_result_holds_the_rows_and_the_facts_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["toy", "--corpus", "names", "--steps", "4", "8", "--seed", "3", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)

    def measure(config: Config) -> harness.Content:
        return {"rows": [{"steps": steps} for steps in config.steps]}

    path = harness.main("toy_{corpus}", Config, measure)
    found = json.loads(path.read_text())
    assert path == tmp_path / "toy_names.json"
    assert found["rows"] == [{"steps": 4}, {"steps": 8}]
    assert (found["experiment"], found["seed"]) == ("toy_names", 3)
    assert found["machine"]["torch"] == torch.__version__
    assert found["seconds"] >= 0
    assert [p.name for p in tmp_path.iterdir()] == ["toy_names.json"]


def test_rows_are_computed_once_for_the_same_settings(tmp_path: Path) -> None:
    calls = []

    def rows(**settings: int) -> harness.Rows:
        folder = harness.place(tmp_path, "copy V=4, seed 0", settings)
        return harness.kept(folder / "rows.json", lambda: calls.append(settings) or [settings])

    assert rows(steps=4, width=2) == rows(width=2, steps=4) == [{"steps": 4, "width": 2}]
    assert rows(steps=5, width=2) == [{"steps": 5, "width": 2}]
    assert len(calls) == 2
    assert all(p.name.startswith("copy-V4-seed-0-") for p in tmp_path.iterdir())
