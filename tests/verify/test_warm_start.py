"""The warm-start check: same data for both, the start read right, the curves read right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewjump.checkpoint import save
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser
from fewjump.process import Uniform
from fewjump.schedule import LogLinear
from fewjump.verify.checks import run_check
from fewjump.verify.subjects import chain_subject
from fewjump.verify.warm_start import both_starts, checkpoints, curve, steps_to_reach


def test_checkpoints_double_and_end_at_the_last_step() -> None:
    assert checkpoints(8) == [0, 5, 8]
    assert checkpoints(40) == [0, 5, 10, 20, 40]


def row(start: str, seed: int, step: int, quality: float) -> dict[str, Any]:
    return {"start": start, "seed": seed, "step": step, "loss": None, "quality": quality}


def test_curves_average_over_seeds_and_say_when_a_target_is_reached() -> None:
    rows = [row("random", k, s, 3.0 - s + k) for k in (0, 1) for s in (0, 1, 2)]
    found = curve(rows, "random", "quality")
    assert (found.x, found.y) == ([0, 1, 2], [3.5, 2.5, 1.5])
    assert found.high is not None
    assert found.high[0] - found.y[0] == pytest.approx(12.706 * 0.5)
    assert steps_to_reach(rows, "random", 2.6) == 1
    assert steps_to_reach(rows, "random", 1.0) is None
    assert curve(rows, "random", "loss").x == []


def test_the_warm_start_begins_at_the_teacher_and_the_other_does_not() -> None:
    subject = chain_subject(0, 20)
    rows = both_starts(subject, "forward", 8, 0)
    at = {(r["start"], r["step"]): r for r in rows}
    teacher = at["teacher itself", 0]["quality"]
    assert at["teacher", 0]["quality"] == pytest.approx(teacher)
    assert at["random", 0]["quality"] > teacher
    assert at["random", 8]["quality"] < at["random", 0]["quality"]
    assert at["teacher", 0]["loss"] is None
    assert at["teacher", 8]["loss"] > 0


def test_the_check_on_a_saved_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    process = Uniform(5, LogLinear())
    trunk = {"hidden": 8, "blocks": 1, "heads": 1}
    model = NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": 4})
    save(model, tmp_path / "model")
    tokens = torch.randint(5, (400, 4), generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "tokens.npy", tokens.astype(np.uint8))
    data = str(tmp_path / "tokens.npy")
    result = run_check("warm-start", model=tmp_path, data=data, steps=8, seeds=1)
    assert result.rows[0]["unit"].endswith("true tokens")
    assert len(result.charts) == 2
    # One seed has no interval that a difference could lie outside of.
    assert any(line.endswith(": one seed tells no difference.") for line in result.verdict)
    assert not any("±" in line for line in result.verdict)


def test_the_check_on_a_score_network_whose_law_has_zeros(tmp_path: Path) -> None:
    """Its students give posteriors, so that no loss is infinite; theirs is the random start too."""
    torch.manual_seed(0)
    trunk = {"hidden": 8, "blocks": 1, "heads": 1}
    config = {"process": Uniform(5, LogLinear()).config(), "trunk": trunk, "length": 4}
    model = ScoreDenoiser.from_config(config)
    torch.nn.init.normal_(model.network.linear.weight)  # type: ignore[union-attr]
    save(model, tmp_path / "model")
    x_t = torch.randint(5, (64, 4))
    assert bool((model(x_t, 0.95).marginals() == 0).any()), "the case must clip something"
    tokens = torch.randint(5, (400, 4), generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "tokens.npy", tokens.astype(np.uint8))
    data = str(tmp_path / "tokens.npy")
    for check, steps in (("warm-start", 8), ("step-size", 2)):
        result = run_check(check, model=tmp_path, data=data, steps=steps, seeds=1)
        losses = [row["loss"] for row in result.rows if row.get("loss") is not None]
        assert all(math.isfinite(loss) for loss in losses)
        assert losses or check == "step-size"


def test_bad_options_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        run_check("warm-start", steps=3)
    with pytest.raises(ValueError, match="belongs to --model"):
        run_check("warm-start", data="text")
