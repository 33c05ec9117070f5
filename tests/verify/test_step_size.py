"""The step-size check: its world is exact, its break points are read right, Euler breaks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewjump.checkpoint import save
from fewjump.denoiser import NetworkDenoiser
from fewjump.law.base import enumerate_states
from fewjump.objective import ConditionalMatching
from fewjump.process import Uniform
from fewjump.schedule import LogLinear
from fewjump.verify.checks import run_check
from fewjump.verify.step_size import StepSize, break_points, distilled
from fewjump.verify.subjects import surprise
from fewjump.verify.table_student import TableStudent, make_world, output_kl, posterior_kl


@pytest.mark.parametrize("family", ["uniform", "absorbing"])
def test_the_world_is_what_it_claims(family: str) -> None:
    world = make_world(family, 0.5, 3)
    assert posterior_kl(world, world.exact) == pytest.approx(0, abs=1e-12)
    # Half the logits' variance, less what the softmax ignores; averaged over growing times.
    right, wrong = make_world(family, 0.0, 3), posterior_kl(world, world.teacher)
    assert posterior_kl(right, right.teacher) == pytest.approx(0, abs=1e-12)
    assert 0.01 < wrong < 0.1
    # Uniform noise keeps α = 1e-3 of the data at t = 1, and its square moves the law.
    floor = world.problem.one_step_floor()
    assert output_kl(world, world.exact, 1) == pytest.approx(floor, abs=1e-5)


@pytest.mark.parametrize("family", ["uniform", "absorbing"])
def test_a_table_student_starts_at_its_teacher(family: str) -> None:
    world = make_world(family, 0.5, 0)
    student = TableStudent(world.process, world.teacher)
    states = enumerate_states(world.process.vocab_size, 3)[::7]
    for t in (0.25, 0.5, 1.0):  # at knots, where nothing is interpolated
        mine, theirs = student(states, t).marginals(), world.teacher(states, t).marginals()
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)
    cold = TableStudent(world.process)(states, 0.5).marginals().detach()
    assert float(cold[..., :4].std()) < 1e-12


def test_long_euler_steps_do_harm_and_long_forward_pairs_help() -> None:
    world = make_world("uniform", 0.5, 0)
    before = posterior_kl(world, world.teacher)
    found = {}
    for draw in ("student-euler", "forward"):
        objective = ConditionalMatching(draw, max_gap=0.5)
        student, record = distilled(world.subject(0), objective, 200, 0)
        found[draw] = posterior_kl(world, student)
        assert (record["clipped"] > 0) == (draw == "student-euler")
        assert record["spike"] >= 1
    assert found["forward"] < before / 1.5 < before < found["student-euler"]


def rows_of(curves: dict[int, list[float]], teacher: float = 1.0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for seed, curve in curves.items():
        rows.append({"seed": seed, "draw": "teacher", "gap": None, "kl": teacher})
        for gap, value in zip((0.1, 0.2, 0.4), curve):
            rows.append({"seed": seed, "draw": "student-euler", "gap": gap, "kl": value})
    return rows


def test_break_points_are_where_the_gain_is_gone() -> None:
    one = break_points(rows_of({0: [0.5, 0.5, 1.5]}), "student-euler")
    assert one["at"] == pytest.approx(0.3)
    assert one["low"] == one["high"] == one["at"]
    two = break_points(rows_of({0: [0.5, 0.5, 1.5], 1: [0.5, 1.5, 2.0]}), "student-euler")
    assert two["by_seed"] == pytest.approx([0.3, 0.15])
    assert two["at"] == pytest.approx(0.225)
    assert two["low"] < two["at"] < two["high"]
    never = break_points(rows_of({0: [0.5, 0.5, 0.9]}), "student-euler")
    assert (never["at"], never["by_seed"]) == (None, [None])
    some = break_points(rows_of({0: [0.5, 0.5, 0.9], 1: [0.5, 1.5, 2.0]}), "student-euler")
    assert some["at"] is None
    always = break_points(rows_of({0: [1.2, 1.3, 1.4]}), "student-euler")
    assert always["at"] == 0.1


def test_rows_hold_every_draw_step_and_grid() -> None:
    rows = StepSize(processes=["uniform"], gaps=[0.1, 0.4], grids=[2], seeds=1, steps=3).measure()
    draws = [(r["draw"], r["gap"], r["grid"]) for r in rows]
    assert len(draws) == len(set(draws)) == 2 + 4 * 3
    floor = next(r for r in rows if r["draw"] == "teacher" and r["grid"] == 2)
    assert 0 < floor["floor"] < floor["output_kl_2"]


def test_surprise_is_the_true_tokens_negative_log_probability() -> None:
    process = Uniform(5, LogLinear())
    trunk = {"hidden": 8, "blocks": 1, "heads": 1}
    model = NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": 4})
    data = torch.randint(5, (30, 4), generator=torch.Generator().manual_seed(0))
    assert surprise(model, data, 0) == pytest.approx(math.log(5), abs=1e-5)


def test_the_check_on_a_problem_and_on_a_saved_model(tmp_path: Path) -> None:
    small = {"gaps": [0.1, 0.5], "seeds": 1, "steps": 2}
    result = run_check("step-size", processes=["uniform"], grids=[2], **small)
    assert len(result.charts) == 3
    assert "Euler" in result.verdict[0]
    torch.manual_seed(0)
    process = Uniform(5, LogLinear())
    trunk = {"hidden": 8, "blocks": 1, "heads": 1}
    model = NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": 4})
    save(model, tmp_path / "model")
    tokens = torch.randint(5, (200, 4), generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "tokens.npy", tokens.astype(np.uint8))
    mine = run_check("step-size", model=tmp_path, data=str(tmp_path / "tokens.npy"), **small)
    values = [r["kl"] for r in mine.rows if "kl" in r]
    assert len(values) == 1 + 4 * 2
    assert all(abs(v - math.log(5)) < 0.1 for v in values)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gaps": [0.1]}, "two numbers"),
        ({"gaps": [0.1, 2.0]}, r"in \(0, 1\]"),
        ({"processes": ["gaussian"]}, "unknown process"),
        ({"steps": 0}, "at least 1"),
        ({"data": "text"}, "belongs to --model"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run_check("step-size", **options)
