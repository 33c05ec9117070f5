"""The registry of named checks: how one is found, run, written and read back."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fewjump import cli
from fewjump.report import Chart, KeyNumber, Note, Reference, Series, Table
from fewjump.verify import checks
from fewjump.verify.checks import (
    CHECKS,
    Check,
    CheckResult,
    Rows,
    check_called,
    run_check,
)

CHART = Chart(
    "Squares", [Series("n²", [1, 2, 3], [1, 4, 9])], [Reference("ten", 10)], "n", "n²", log_x=False
)
RESULT = CheckResult(
    name="squares",
    question="Do squares grow?",
    verdict=("They do: **9** at 3.",),
    rows=[{"n": 1, "square": 1.0}, {"n": 3, "square": float("nan")}],
    charts=[CHART],
    tables=[Table("Squares", ("n", "n²"), [(1, 1), (3, 9)])],
    notes=[Note("Squares", ("A number times itself.",))],
    key_numbers=[KeyNumber("9", "square of 3")],
    settings={"seed": 0},
)


@dataclass
class Squares(Check):
    """Square some numbers.

    Whole ones.
    """

    name = "squares-of-numbers"
    about = "do squares grow?"
    question = "Do squares grow?"

    largest: int = 3
    """Last number."""

    def validate(self) -> None:
        if self.largest < 1:
            raise ValueError("--largest must be at least 1")

    def measure(self) -> list[dict[str, Any]]:
        return [{"n": 1, "square": 1.0}, {"n": self.largest, "square": float("nan")}]

    def answer(self, rows: Rows) -> CheckResult:
        failures = () if self.largest == 3 else ("9 is the largest",)
        return self.result(rows, RESULT.verdict, RESULT.charts, failures=failures)


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("fewjump.verify.squares_of_numbers")
    module.__dict__["Squares"] = Squares
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(checks.CHECKS, "squares-of-numbers", "Squares")
    return module


def test_a_check_is_a_line_and_a_file(
    squares: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_check("squares-of-numbers")
    assert result.passed
    assert result.settings == {"seed": 0, "largest": 3}
    assert result.notes[0].paragraphs == ["Square some numbers.", "Whole ones."]
    assert cli.main(["verify", "list"]) == cli.OK
    assert "squares-of-numbers  do squares grow?" in capsys.readouterr().out
    out = tmp_path / "out"
    assert cli.main(["verify", "squares-of-numbers", "--out", str(out)]) == cli.OK
    said = capsys.readouterr().out
    assert "They do: 9 at 3." in said
    assert str(out / "report.html") in said
    content = json.loads((out / "results.json").read_text())
    assert content["rows"] == [{"n": 1, "square": 1.0}, {"n": 3, "square": None}]
    assert content["machine"]["torch"]
    page = (out / "report.html").read_text()
    assert "What was measured" in page
    assert "Quality against" not in page
    pytest.importorskip("matplotlib", reason="needs the report extra")
    assert "<svg" in page


def test_a_failure_is_exit_code_1(
    squares: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["verify", "squares-of-numbers", "--largest", "4", "--out", str(tmp_path)]
    assert cli.main(words) == cli.FAILED
    assert "does not hold: 9 is the largest" in capsys.readouterr().err
    assert "Does not hold:" in (tmp_path / "report.html").read_text()


def test_what_is_written_is_the_result_and_the_facts(tmp_path: Path) -> None:
    RESULT.save(tmp_path, seconds=1.5)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content.pop("seconds") == 1.5
    assert content.pop("machine")["torch"]
    assert content == json.loads(json.dumps(RESULT.content()))
    assert content["check"] == "squares"


def test_bad_options_are_refused_before_anything_is_measured(squares: ModuleType) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        run_check("squares-of-numbers", largest=0)


def test_an_unknown_check_is_bad_usage(
    squares: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", "squares-of-number"]) == cli.USAGE
    assert "did you mean 'squares-of-numbers'?" in capsys.readouterr().err
    assert cli.main(["verify", "xyzzy"]) == cli.USAGE
    assert "checks: " in capsys.readouterr().err


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_its_options_and_documents_them(name: str) -> None:
    check = check_called(name)
    assert issubclass(check, Check)
    assert check.name == name
    assert check.question.endswith("?")
    assert inspect.cleandoc(check.__doc__ or "") != inspect.cleandoc(Check.__doc__ or "")


def test_no_check_imports_torch_before_it_runs() -> None:
    modules = ", ".join(f"fewjump.verify.{name.replace('-', '_')}" for name in CHECKS)
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
