"""Every example runs, as a user would run it, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_floor() -> None:
    rows = [line.split() for line in run("floor").splitlines() if re.match(r" +\d", line)]
    product = [float(row[1]) for row in rows]
    assert product == sorted(product, reverse=True)
    assert all(abs(float(row[2])) < 1e-12 for row in rows)


def test_own_network() -> None:
    errors = re.findall(
        r"(exact|teacher|student) +(\d+) steps: bigram error ([\d.]+)", run("own_network")
    )
    found = {(name, int(steps)): float(error) for name, steps, error in errors}
    assert len(found) == 9
    for name in ("exact", "teacher", "student"):
        assert found[name, 16] < found[name, 4] < found[name, 1]
    # Nothing that draws positions one by one gets under the exact teacher.
    assert found["student", 1] > found["exact", 1] - 0.03


def test_joint_student() -> None:
    errors = dict(
        re.findall(r"(teacher|chain|fresh)[^\n]*?bigram error ([\d.]+)", run("joint_student"))
    )
    assert float(errors["teacher"]) > 0.35
    assert float(errors["chain"]) < 0.05


def test_infilling() -> None:
    out = run("infilling")
    errors = dict(re.findall(r"(teacher|chain|fresh)[^\n]*?bigram error ([\d.]+)", out))
    # Given a hole of six, one step of the teacher's table misses what its tokens owe each other.
    assert float(errors["chain"]) < 0.07 < 0.14 < float(errors["teacher"])


def test_no_example_is_untested() -> None:
    tested = {"floor", "own_network", "joint_student", "infilling", "large_vocabulary"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_examples_say_how_to_run_them(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text(encoding="utf-8")


def test_large_vocabulary() -> None:
    assert "have LinearLogits: 50,000 logits each, unwritten" in run("large_vocabulary")
