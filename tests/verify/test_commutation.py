"""The commutation check: what commutes is told from what does not, by the right amount."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from fewjump import cli
from fewjump.process import FixedRate, Uniform, gidd, mask_to_uniform
from fewjump.schedule import Cosine, LogLinear
from fewjump.verify.checks import run_check
from fewjump.verify.commutation import HYBRIDS, Commutation, commutation, families, told
from laws.registry import random_rate

ONE, OTHER = random_rate(4, 1), random_rate(4, 2)


def blend(t: float) -> torch.Tensor:
    return (1 - t) * ONE + t * OTHER


def test_original_families() -> None:
    for name, process in families(4).items():
        found, commutes = commutation(process, name, times=5), name not in HYBRIDS
        assert found.commutes == commutes
        assert name in told(asdict(found))
        assert ("does not commute" in told(asdict(found))) != commutes
        assert (found.worst_error > 0.01) != commutes
        if commutes:
            assert found.largest < 1e-12
            assert found.worst_error < 1e-9


def test_a_family_that_does_not_do_what_it_must_is_a_failure() -> None:
    found = asdict(commutation(Uniform(4, LogLinear()), "GIDD hybrid", times=3))
    [said] = Commutation().answer([found]).failures
    assert "GIDD hybrid should not commute" in said
    assert not Commutation(rate="mine.py:rate").answer([found]).failures


def test_commutators_of_two_times_by_hand() -> None:
    found = commutation(blend, times=[0.25, 0.75])
    a, b = blend(0.25), blend(0.75)
    expected = float((a @ b - b @ a).norm() / (a.norm() * b.norm()))
    assert found.largest == pytest.approx(expected, rel=1e-12)
    assert found.commutators == pytest.approx([expected, expected], rel=1e-12)
    assert {*found.between} == {0.25, 0.75}


def test_errors_are_those_of_the_closed_form() -> None:
    process = mask_to_uniform(4, Cosine())
    times = [0.3, 0.9]
    found = commutation(process, times=times)
    for t, error in zip(times, found.errors, strict=True):
        # ∫R over the noise by a fine midpoint rule.
        level = float(process.schedule.level(t))
        middle = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 * level
        when = process.schedule.time_of_sigma_bar(middle)
        rates = process.rate(when) / process.schedule.sigma(when)[:, None, None]
        closed = torch.linalg.matrix_exp(rates.mean(0) * level)
        exact = float((closed - process.kernel(0.0, t).dense()).abs().sum(-1).max()) / 2
        assert error == pytest.approx(exact, rel=1e-4)
        assert exact > 0.01


def test_a_scalar_times_a_matrix_commutes_whatever_the_scalar() -> None:
    found = commutation(lambda t: (1 + math.sin(20 * t)) * ONE + 0.1 * ONE)
    assert found.commutes
    assert found.worst_error < 1e-8
    assert commutation(FixedRate(ONE, LogLinear())).commutes


@pytest.mark.parametrize("times", [1, [0.5], [0.5, 0.4], [0.0, 0.5], [0.5, 1.5]])
def test_a_grid_must_be_one(times) -> None:
    with pytest.raises(ValueError, match="times must be"):
        commutation(Uniform(3, LogLinear()), times=times)


def test_the_command_measures_your_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "import torch\n"
        "A = torch.tensor([[-1., 1, 0], [0, -1, 1], [1, 0, -1]])\n"
        "B = torch.tensor([[-1., 0, 1], [2, -2, 0], [0, 1, -1]])\n"
        "def rate(t):\n    return 2 * (1 - t) * A + t * B\n"
        "def wrong(t):\n    return A - 2 * t * A\n"
    )
    out = tmp_path / "out"
    words = ["verify", "commutation", "--times", "5", "--out", str(out)]
    assert cli.main([*words, "--rate", f"{own}:rate"]) == cli.OK
    assert "does not commute" in capsys.readouterr().out
    content = json.loads((out / "results.json").read_text())
    assert content["rows"][0]["worst_error"] > 1e-3
    assert (out / "report.html").exists()
    config = tmp_path / "config.json"
    config.write_text(json.dumps(gidd(4, LogLinear()).config()))
    assert cli.main([*words, "--process", str(config)]) == cli.OK
    assert "TimeVaryingPrior" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rate": "own.py"}, ValueError, "file.py:function"),
        ({"rate": "nowhere.py:rate"}, FileNotFoundError, "nowhere.py"),
        ({"rate": f"{__file__}:nothing"}, ValueError, "no function 'nothing'"),
        ({"rate": "a.py:b", "process": Path("c")}, ValueError, "not both"),
        ({"times": 1}, ValueError, "--times"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, error, message) -> None:
    with pytest.raises(error, match=message):
        run_check("commutation", **options)
