"""The recovery check against brute force, and its readings of planted curves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from fewjump import cli
from fewjump.checkpoint import save
from fewjump.denoiser import NetworkDenoiser
from fewjump.process import FixedRate, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear
from fewjump.verify.checks import run_check
from fewjump.verify.ratio_errors import (
    RememberingRate,
    break_point,
    degrade,
    make_case,
    measure,
    measure_checkpoint,
    relative_error,
)
from fewjump.verify.ratio_sources import DENSE, STRUCTURED, Source
from fewjump.verify.recovery import METHODS, _saved_told, exceeds


@pytest.mark.parametrize("family", STRUCTURED + DENSE)
def test_the_case_is_bayes_rule_by_brute_force(family: str) -> None:
    case = make_case(family, 5, 3)
    t, x_t, posterior, ratios = case.at(0.3)
    gap = float(case.process.schedule.level(t))
    kernel = torch.linalg.matrix_exp(gap * case.process.base_rate())
    noised = case.law0 @ kernel
    for i, x in enumerate(x_t[0].tolist()):
        bayes = case.law0 * kernel[:, x] / noised[x]
        torch.testing.assert_close(posterior[0, i], bayes, atol=1e-12, rtol=0)
        torch.testing.assert_close(ratios[0, i], noised / noised[x], atol=1e-11, rtol=1e-11)
    if family == "absorbing":
        assert bool((x_t == 4).all())


def test_noise_and_rounding_are_what_they_claim() -> None:
    ratios = torch.rand(1, 50, 1000, generator=generator_for(0), dtype=torch.float64) + 0.5
    x_t = torch.zeros(1, 50, dtype=torch.int64)
    noisy = degrade(ratios, x_t, Source("noise", noise=0.05), generator_for(1))
    assert bool((noisy[..., 0] == 1).all())
    assert float((noisy / ratios)[..., 1:].log().std()) == pytest.approx(0.05, rel=0.01)
    rounded = Source("bfloat16", "bfloat16")
    given = degrade(ratios, x_t, rounded, generator_for(1))
    assert given.dtype == torch.bfloat16
    error = float((given.double() / ratios - 1).std())
    assert error == pytest.approx(relative_error(rounded), rel=0.5)


def test_a_break_point_is_where_the_curve_crosses() -> None:
    alphas = [0.5, 0.1, 0.01]
    assert break_point(alphas, [0.002, 0.01, 0.1], 0.01) == pytest.approx(0.1)
    half = break_point(alphas, [0.001, 0.01, 1.0], 0.1)
    assert half == pytest.approx(math.sqrt(0.1 * 0.01))
    assert break_point(alphas, [0.001, 0.001, 0.001], 0.1) is None
    assert break_point(alphas, [0.001, None, None], 0.1) == 0.1
    assert break_point(alphas, [0.5, 0.5, 0.5], 0.1) == 0.5


def test_uniform_noise_is_amplified_by_one_over_alpha_and_absorbing_is_not() -> None:
    rows = measure(["uniform"], [16], [0, 1], 0.1, 64) + measure(["absorbing"], [16], [0], 0.1, 64)
    found = {(r["family"], r["source"], r["method"]): r for r in rows}
    uniform = found["uniform", "noise 1%", "exact"]
    ratio = [a / p for a, p in zip(uniform["l1"], uniform["predicted"])]
    assert 0.8 < min(ratio) <= max(ratio) < 1.5
    assert uniform["l1"][-1] > 100 * uniform["l1"][2]
    assert 0.05 < uniform["break_low"] < uniform["break_alpha"] < uniform["break_high"] < 0.1
    absorbing = found["absorbing", "noise 1%", "exact"]
    assert max(absorbing["l1"]) < 0.02
    assert absorbing["break_alpha"] is None
    assert max(absorbing["condition"]) > 1e4
    # Rounding costs more the coarser it is, and none of it in float64.
    breaks = [
        found["uniform", f"exact, {d}", "exact"]["break_alpha"] for d in ("float32", "bfloat16")
    ]
    assert breaks[0] < 1e-5 < 1e-3 < breaks[1]
    assert found["uniform", "exact, float64", "exact"]["break_alpha"] is None


def test_a_dense_family_above_the_limit_is_left_out_and_a_singular_kernel_is_a_break() -> None:
    assert measure(["random rate"], [32], [0], 0.1, 16) == []
    rows = measure(["discretised Gaussian"], [16], [0], 0.1, 16)
    exact = next(r for r in rows if (r["source"], r["method"]) == ("exact, float64", "exact"))
    assert None in exact["l1"]
    assert exact["break_alpha"] is not None


def test_remembering_a_kernel_changes_no_number() -> None:
    case = make_case("random rate", 6, 1)
    process = case.process
    assert isinstance(process, RememberingRate)
    for t in (0.01, 0.02, 0.01):
        torch.testing.assert_close(
            process.kernel(0.0, t).dense(),
            FixedRate(process.base_rate(), process.schedule).kernel(0.0, t).dense(),
        )


def test_the_check_on_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    process = Uniform(5, LogLinear())
    trunk = {"hidden": 8, "blocks": 1, "heads": 1}
    model = NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": 4})
    save(model, tmp_path / "model")
    words = ["verify", "recovery", "--vocab-sizes", "4", "--families", "uniform", "--seeds", "1"]
    words += ["--network-steps", "0", "--model", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(words) == cli.OK
    assert "Your model" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not result["failures"]
    # An untrained network says "uniform" whatever x_t is; its ratios then are all it can say.
    mine = [r for r in result["rows"] if "nll" in r]
    assert all(abs(r["nll"] - math.log(5)) < 1e-3 for r in mine if r["method"] == "clip")
    assert exceeds(mine, "exact", "clipped", 0.1) is None


def test_a_method_that_is_refused_where_it_is_hard_does_not_win_by_it() -> None:
    """`exact` answers at α = 0.5 alone; there and where all answer it is the worst."""

    def row(method: str, alpha: float, nll: float | None) -> dict:
        return {"method": method, "alpha": alpha, "nll": nll, "clipped": 0.0}

    rows = [row(m, 0.5, 2.0 if m == "exact" else 1.0) for m in METHODS]
    rows += [row(m, 0.01, None if m == "exact" else 4.0) for m in METHODS]
    told = _saved_told(rows)
    assert "Where all answer the method to use is `clip`" in told
    none = [row(m, 0.01, None if m == "exact" else 4.0) for m in METHODS]
    assert "At no α do all methods answer" in _saved_told(none)


def test_tokens_that_the_model_does_not_know_are_refused() -> None:
    process = Uniform(3, LogLinear())
    trunk = {"hidden": 8, "blocks": 1, "heads": 1}
    model = NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": 2})
    with pytest.raises(ValueError, match="the data hold others"):
        measure_checkpoint(model, torch.tensor([[0, 7]]), 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"families": ["unifrom"]}, "unknown family 'unifrom'"),
        ({"vocab_sizes": [2]}, "at least 3"),
        ({"families": ["random rate"], "vocab_sizes": [1024]}, "leave nothing to measure"),
        ({"families": []}, "leave nothing to measure"),
        ({"threshold": 3.0}, "between 0 and 2"),
        ({"data": "text"}, "belongs to --model"),
        ({"model": Path("no/such")}, "no saved model"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict, said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        run_check("recovery", **options)
