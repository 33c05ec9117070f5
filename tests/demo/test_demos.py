"""The demos, at sizes that only show that every part fits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from fewjump.demo.parts import value_of
from fewjump.results import read_results


def check_outputs(out: Path, report: Path, models: set[str]) -> None:
    assert report == out / "report.html"
    page = report.read_text(encoding="utf-8")
    if importlib.util.find_spec("matplotlib"):
        assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://arxiv", "")
    rows, facts = read_results(out)
    assert {row.model for row in rows if row.nfe} == models
    assert facts["seed"] == 0
    content = json.loads((out / "results.json").read_text())
    keys = {"model", "sampler", "steps", "nfe", "metric", "value", "low", "high", "seconds"}
    assert all(set(row) == keys for row in content["rows"])


def test_markov(tmp_path: Path) -> None:
    from fewjump.demo.markov import JOINT, PRODUCT, run_demo

    report = run_demo(tmp_path, quick=True)
    models = {f"{law}, {noise}" for law in (PRODUCT, JOINT) for noise in ("uniform", "masked")}
    check_outputs(tmp_path, report, models)
    rows, _ = read_results(tmp_path)
    floor = value_of(rows, "fresh data", None, "bigram_tv")
    for noise in ("uniform", "masked"):
        assert value_of(rows, f"{PRODUCT}, {noise}", 1, "bigram_tv") > 0.35
        assert value_of(rows, f"{JOINT}, {noise}", 1, "bigram_tv") < 2 * floor
    assert (tmp_path / "samples.txt").read_text().count("# ") == 2 * (3 + 2)


def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewjump.report.page._drawing", lambda *_: "")


def test_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewjump.demo.text import JOINT, PRODUCT, TEACHER, run_demo

    report = run_demo(tmp_path, quick=True)
    check_outputs(tmp_path, report, {TEACHER, PRODUCT, JOINT})
    before = (tmp_path / "teacher" / "metrics.jsonl").stat().st_mtime_ns
    without_charts(monkeypatch)
    run_demo(tmp_path, quick=True)
    assert (tmp_path / "teacher" / "metrics.jsonl").stat().st_mtime_ns == before


def test_text_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewjump.demo.text import run_demo

    without_charts(monkeypatch)
    source = tmp_path / "book.txt"
    source.write_text("The quick brown fox jumps over the lazy dog. " * 400)
    report = run_demo(tmp_path / "out", data=source, quick=True)
    assert report.is_file()


def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from fewjump.demo.digits import JOINT, PRODUCT, TEACHER, run_demo

    report = run_demo(tmp_path, quick=True)
    check_outputs(tmp_path, report, {TEACHER, PRODUCT, JOINT})
    assert len(list((tmp_path / "samples").glob("*.png"))) == 3 + 2 + 2 + 1
