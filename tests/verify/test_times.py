"""The check of adaptive times: paired differences, the words for them, models it is not for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewjump.checkpoint import save
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser
from fewjump.evaluate.bootstrap import over_seeds
from fewjump.evaluate.exact import data_law, kl
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.sampler import exact_output_law
from fewjump.schedule import LogLinear
from fewjump.verify.checks import run_check
from fewjump.verify.times import Bench, grid_rows, told

TRUNK = {"hidden": 8, "blocks": 1, "heads": 1}


def saved(tmp_path: Path, model: Any) -> dict[str, Any]:
    tmp_path.mkdir(exist_ok=True)
    save(model, tmp_path / "model")
    tokens = torch.randint(5, (400, 4), generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "tokens.npy", tokens.astype(np.uint8))
    return {"model": tmp_path, "data": str(tmp_path / "tokens.npy"), "seeds": 1, "sequences": 16}


def test_the_bound_ranks_grids_as_the_exact_output_law_does() -> None:
    """Four copies of a token, or noise; uniform noise, where grids matter. The path's KL is at
    least the output's, and the better grid by one is the better by the other."""
    joint = torch.full((4,) * 4, 0.1 / 256, dtype=torch.float64)
    for token in range(4):
        joint[(token,) * 4] += 0.9 / 4
    problem = EnumeratedJoint(joint)
    teacher, law = problem.denoiser(Uniform(4, LogLinear())), data_law(problem)
    entropy = -float(torch.xlogy(law, law).sum())
    x0 = problem.sample(8192, generator_for(0, 1))
    rows = grid_rows(Bench(teacher, x0, x0[:4096], x0[4096:]), [1, 2], 0)
    exact = {}
    for r in rows:
        grid = torch.tensor(r["times"]) if "times" in r else r["choice"]
        found = kl(law, exact_output_law(teacher, r["steps"], grid=grid)) / 4
        exact[r["choice"], r["steps"]] = found
        assert r["bound"] > found + entropy / 4 - 0.03
        if r["steps"] == 1:
            assert r["difference"] == 0
    at = {r["choice"]: r for r in rows if r["steps"] == 2}
    assert exact["fitted", 2] < exact["uniform", 2] - 0.02
    assert at["fitted"]["difference_high"] < 0
    assert exact["cosine", 2] > exact["uniform", 2] + 0.02
    assert at["cosine"]["difference_low"] > 0


def row(part: str, choice: str, steps: int, seed: int, difference: float) -> dict[str, Any]:
    ends = {"difference_low": difference - 0.01, "difference_high": difference + 0.01}
    about = {"part": part, "choice": choice, "steps": steps, "seed": seed, "bound": 2.0}
    return {**about, "difference": difference, **ends}


def test_a_winner_is_better_everywhere_and_the_others_are_told_apart() -> None:
    rows = []
    for seed in (0, 1, 2):
        for steps in (1, 2, 4):
            noise = 0.001 * seed
            rows += [
                row("grid", "uniform", steps, seed, 0.0),
                row("grid", "fitted", steps, seed, (-0.1 if steps > 1 else 0.0) + noise),
                row("grid", "cosine", steps, seed, {1: 0.0, 2: -0.1, 4: 0.1}[steps] + noise),
                row("grid", "log-linear", steps, seed, noise),
            ]
    first, second = told(rows, "grid", partial(over_seeds, metric="difference"))
    assert first.startswith("**Grids, at equal evaluations: fitted is better than uniform**")
    assert "0.099 at 2, 0.099 at 4 nats per token (`--grid fitted" in first
    assert second == (
        "Against uniform: cosine (better at 2, worse at 4), log-linear (no difference can be told)."
    )


def test_the_check_on_a_problem(tmp_path: Path) -> None:
    result = run_check("times", steps=[2], seeds=1, training=3, teacher_steps=5, sequences=8)
    parts = {(r["part"], r["choice"]) for r in result.rows}
    assert {("grid", "fitted"), ("training", "importance pairs")} <= parts
    assert all(r["difference"] == 0 for r in result.rows if r["choice"] == "uniform")
    assert len(result.charts) == 3
    assert result.save(tmp_path / "page").is_file()


def test_the_check_on_saved_models(tmp_path: Path) -> None:
    """A score network under a mask is the network of posteriors that it equals."""
    found = []
    for made in (NetworkDenoiser, ScoreDenoiser):
        config = {"process": Absorbing(6, LogLinear()).config(), "trunk": TRUNK, "length": 4}
        torch.manual_seed(0)
        files = saved(tmp_path / made.__name__, made.from_config(config))
        result = run_check("times", training=0, steps=[1, 2], **files)
        found.append([row["bound"] for row in result.rows])
        assert {r["part"] for r in result.rows} == {"grid"}
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    # Fresh heads are uniform, and at one step the bound is −log p of five tokens.
    assert found[0][0] == pytest.approx(np.log(5), abs=1e-5)


def test_models_without_such_a_bound_are_refused(tmp_path: Path) -> None:
    config = {"process": Uniform(5, LogLinear()).config(), "trunk": TRUNK, "length": 4}
    with pytest.raises(ValueError, match="distil it first"):
        run_check("times", **saved(tmp_path / "a", ScoreDenoiser.from_config(config)))
    joint = NetworkDenoiser.from_config({**config, "head": {"kind": "chain", "states": 2}})
    with pytest.raises(ValueError, match="a chain student draws all positions jointly"):
        run_check("times", **saved(tmp_path / "b", joint))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": [3]}, "divisors of 32"),
        ({"steps": []}, "divisors of 32"),
        ({"sequences": 3}, "at least 8"),
        ({"seeds": 0}, "at least 1"),
        ({"data": "text"}, "belongs to --model"),
        ({"weights": "raw"}, "belongs to --model"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run_check("times", **options)
