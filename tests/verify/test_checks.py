"""The registry of named checks: how one is found, run, written and read back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType

import pytest

from fewjump import cli
from fewjump.report import Chart, KeyNumber, Note, Reference, Series, Table
from fewjump.verify import checks
from fewjump.verify.checks import (
    CHECKS,
    CheckOptions,
    CheckResult,
    check_module,
    read_result,
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
class SquareOptions(CheckOptions):
    """Square some numbers."""

    largest: int = 3
    """Last number."""


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("fewjump.verify.squares_of_numbers")
    module.__dict__.update(
        Options=SquareOptions,
        run=lambda o: replace(RESULT, failures=() if o.largest == 3 else ("9 is the largest",)),
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(checks.CHECKS, "squares-of-numbers", "do squares grow?")
    return module


def test_a_check_is_a_line_and_a_file(
    squares: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_check("squares-of-numbers").passed
    assert cli.main(["verify", "list"]) == cli.OK
    assert "squares-of-numbers" in capsys.readouterr().out
    out = tmp_path / "out"
    assert cli.main(["verify", "squares-of-numbers", "--out", str(out)]) == cli.OK
    said = capsys.readouterr().out
    assert "They do: 9 at 3." in said
    assert str(out / "report.html") in said
    content = json.loads((out / "results.json").read_text())
    assert content["rows"] == [{"n": 1, "square": 1.0}, {"n": 3, "square": None}]
    assert content["machine"]["torch"]
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "What was measured" in page
    assert "Quality against" not in page


def test_a_failure_is_exit_code_1(
    squares: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["verify", "squares-of-numbers", "--largest", "4", "--out", str(tmp_path)]
    assert cli.main(words) == cli.FAILED
    assert "does not hold: 9 is the largest" in capsys.readouterr().err
    assert "Does not hold:" in (tmp_path / "report.html").read_text()


def test_a_result_is_read_back_whole(tmp_path: Path) -> None:
    RESULT.save(tmp_path, {"seconds": 1.5})
    found, facts = read_result(tmp_path)
    assert facts == {"seconds": 1.5}
    assert found.content() == RESULT.content()
    (tmp_path / "results.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="fewjump verify NAME"):
        read_result(tmp_path)


def test_an_unknown_check_is_bad_usage(
    squares: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", "squares-of-number"]) == cli.USAGE
    assert "did you mean 'squares-of-numbers'?" in capsys.readouterr().err
    assert cli.main(["verify", "xyzzy"]) == cli.USAGE
    assert "checks: " in capsys.readouterr().err


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_its_options_and_documents_them(name: str) -> None:
    module = check_module(name)
    assert issubclass(module.Options, CheckOptions)
    assert module.Options.__doc__
    assert {field.name for field in fields(CheckOptions)} <= {
        field.name for field in fields(module.Options)
    }
    assert callable(module.run)


@pytest.mark.skipif(not CHECKS, reason="no check yet")
def test_no_check_imports_torch_before_it_runs() -> None:
    modules = ", ".join(f"fewjump.verify.{name.replace('-', '_')}" for name in CHECKS)
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
