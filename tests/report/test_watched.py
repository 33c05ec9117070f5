"""What a run's monitors saw, on the page."""

from __future__ import annotations

import json
from pathlib import Path

from fewjump import cli
from fewjump.report import monitor_charts, monitor_table
from fewjump.results import Row, write_results

BIN = {"t": 0.5, "predicted": 1.0, "realised": 1.5, "error": 0.1}
SEEN = {"loss": 1.0, "student_support": 2.0, "teacher_support": 3.0}
SEEN |= {"student_distinct": 0.2, "teacher_distinct": 0.5}


def record(folder: Path, *lines: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_each_kind_is_a_row_with_its_steps_and_its_first_words(tmp_path: Path) -> None:
    bad = {"warnings": ["collapse"], "advice": {"collapse": "lower lr"}}
    later = {"warnings": ["collapse"], "advice": {"collapse": "much lower lr"}}
    run = record(
        tmp_path,
        {"step": 1, **SEEN, "calibration": [BIN, {**BIN, "t": 0.7}]},
        {"step": 50, **SEEN, **bad},
        {"step": 100, **SEEN, **later},
        {"step": 100, "event": "inspected"},
    )
    table = monitor_table(run, "student")
    assert table is not None
    assert table.rows == [("collapse", 50, 100, 2, "lower lr")]
    assert "3 lines" in table.caption
    support, distinct, calibration = monitor_charts(run, "student")
    assert [list(s.y) for s in support.series] == [[2.0] * 3, [3.0] * 3]
    assert [list(s.y) for s in distinct.series] == [[0.2] * 3, [0.5] * 3]
    assert list(calibration.series[0].x) == [0.5, 0.7]
    assert calibration.series[0].low is not None
    assert calibration.series[0].low[0] < 1.5 < calibration.series[0].high[0]  # type: ignore[index]


def test_a_quiet_run_says_so_and_one_that_was_not_watched_says_nothing(tmp_path: Path) -> None:
    quiet = monitor_table(record(tmp_path / "quiet", {"step": 1, **SEEN}), "student")
    assert quiet is not None
    assert quiet.rows[0][0] == "none"
    assert monitor_charts(tmp_path / "quiet", "student") == []
    assert monitor_table(record(tmp_path / "teacher", {"step": 1, "loss": 1.0}), "teacher") is None
    assert monitor_charts(tmp_path / "teacher", "teacher") == []
    assert monitor_table(tmp_path / "nothing", "student") is None


def test_the_report_verb_shows_them(tmp_path: Path) -> None:
    write_results(tmp_path, [Row("student", "ancestral", 1, 1, "kl", 0.5)], {})
    bad = {"warnings": ["clipping"], "advice": {"clipping": "mass 0.3: lower max_gap"}}
    record(tmp_path / "student", {"step": 1, **SEEN, **bad}, {"step": 2, **SEEN})
    assert cli.main(["report", str(tmp_path)]) == cli.OK
    page = (tmp_path / "report.html").read_text()
    assert "What the monitors saw" in page
    assert "mass 0.3: lower max_gap" in page
    assert "Tokens that one-step draws really use" in page
