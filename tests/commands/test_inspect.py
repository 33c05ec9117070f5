"""``fewjump inspect``, and the other verbs given checkpoints of the originals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fewjump
from checkpoint import written as w
from fewjump.cli import main
from fewjump.denoiser import LogitDenoiser
from fewjump.denoiser.exact import ExactDenoiser
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Uniform
from fewjump.sampler import carry_sampler
from fewjump.schedule import LogLinear
from fewjump.verify.inspection import check_denoiser, inspect

RAW, EMA = w.network(seed=1), w.network(seed=2)
PROBLEM = EnumeratedJoint.random(4, 3, generator=torch.Generator().manual_seed(0))
QUICK = ["--samples", "2", "--steps", "2"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return w.lightning(tmp_path / "run" / "last.ckpt", RAW, EMA, w.mdlm_config())


def test_the_facts_of_a_lightning_checkpoint(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(checkpoint), *QUICK]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "container  Lightning checkpoint",
        "family     mdlm",
        "weights    ema (there are: ema, raw)",
        "average    ema.shadow_params, a list in the order of the parameters, decay 0.9999",
        "vocab_size 7, length 6, hidden 16, blocks 2, heads 2",
        "noise      Absorbing; mask: 6",
        "schedule   LogLinear(eps=0.000999987)",
        "steps      3",
        "omegaconf",
        "verdict: finite and normalised",
    ):
        assert expected in shown, expected


def test_json_holds_everything(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--json", "--weights", "raw", *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["family"] == "mdlm"
    assert found["weights"] == "raw"
    assert found["mask"] == 6
    assert found["check"]["ok"] is True
    assert [row["t"] for row in found["check"]["times"]] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert main(["inspect", str(checkpoint), "--json", "--no-check"]) == 0
    assert "check" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["udlm", "duo", "mdlm"])
def test_published_and_own_folders(kind: str, tmp_path: Path) -> None:
    path = w.folder(tmp_path / "hf", w.prefixed(EMA), w.published_config(kind))
    found = inspect(path, samples=2, steps=2)
    assert (found["container"], found["family"]) == ("Hugging Face folder", kind)
    assert found["notes"] == ["the folder does not state its schedule: log-linear noise is assumed"]
    saved = fewjump.save(fewjump.load(path), tmp_path / "own")
    own = inspect(saved, samples=2, steps=2)
    assert own["container"] == "fewjump folder"
    for mine, theirs in zip(own["check"]["times"], found["check"]["times"]):
        assert mine["confidence"] == pytest.approx(theirs["confidence"], abs=1e-6)


def test_a_learned_sampler_is_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fewjump.load(checkpoint)
    assert inspect(checkpoint, check=False)["samplers"] == []
    carry_sampler(model, torch.tensor([1.0, 0.25, 0.0]), torch.tensor([1.5]), "euler")
    saved = fewjump.save(model, tmp_path / "own")
    assert inspect(saved, check=False)["samplers"] == model.samplers
    assert main(["inspect", str(saved), "--no-check"]) == 0
    told = "the default at 2 steps: euler at times 1 0.25 0, multipliers 1.5"
    assert told in capsys.readouterr().out


def test_what_is_wrong_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = w.lightning(tmp_path / "last.ckpt", RAW, None, w.mdlm_config())
    assert main(["inspect", str(path)]) == 2
    assert "ask for --weights raw" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert "give the folder of a saved model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.md", b"# A model\n", "is a text file, not a model; give the folder of a saved"),
        ("options.yaml", b"steps: 3\n", "is a text file, not a model; give the folder of a saved"),
        ("config.json", b'{"model_type": "mdlm"}', "holds no model: expected model.safetensors"),
        ("training_state.pt", b"PK", "is the state of a training, from which the same command"),
    ],
)
def test_a_file_that_is_no_model_is_named(
    name: str, content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["inspect", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "hf:owner/name" in error or name == "config.json"


# -- the check itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "process",
    [Uniform(4, LogLinear()), Uniform(4, LogLinear(), kept=[3]), Absorbing(5, LogLinear())],
    ids=["uniform", "a kept token", "absorbing"],
)
def test_an_exact_denoiser_is_calibrated(process: Uniform | Absorbing) -> None:
    denoiser = ExactDenoiser(PROBLEM, process, joint=True)
    result = check_denoiser(denoiser, samples=4000, steps=8, length=3)
    assert result["ok"]
    for row in result["times"]:
        # Positions of one sequence depend on each other, so their error is up to √3 larger.
        assert abs(row["confidence"] - row["right"]) < 7 * row["error"], row
        if isinstance(process, Absorbing):
            assert row["open"] == pytest.approx(row["t"] * 0.999, abs=0.02)
            assert row["kept"] is None
        else:
            assert row["kept"] == pytest.approx(row["kept_expected"], abs=0.02)


def test_a_denoiser_told_the_wrong_time_is_not_calibrated() -> None:
    exact = ExactDenoiser(PROBLEM, Uniform(4, LogLinear()))

    def late(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return exact.law(x_t, (t + 0.3).clamp(max=1)).log_probs()  # type: ignore[attr-defined]

    denoiser = LogitDenoiser(late, exact.process, 3)
    row = check_denoiser(denoiser, samples=2000, steps=8, length=3)["times"][2]
    assert row["kept_expected"] - row["kept"] > 0.1


def test_a_network_that_returns_nan_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewjump.verify import inspection

    exact = ExactDenoiser(PROBLEM, Uniform(4, LogLinear()))
    broken = LogitDenoiser(lambda x, t: torch.full((*x.shape, 4), torch.nan), exact.process, 3)
    monkeypatch.setattr(inspection, "sample", lambda *_, **__: PROBLEM.sample(2))
    result = check_denoiser(broken, samples=2, length=3)
    assert not result["ok"]
    assert not result["times"][0]["finite"]


# -- the other verbs ----------------------------------------------------------------------------


def test_a_checkpoint_is_distilled_sampled_and_evaluated(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = checkpoint.parent
    out = tmp_path / "student"
    words = ["distill", "--teacher", str(run), "--out", str(out), "--steps", "2"]
    assert main([*words, "--batch-size", "2", "--student", "chain", "--head", "states=3"]) == 0
    assert fewjump.load(out / "model").kind == "chain"  # type: ignore[union-attr]
    for path in (checkpoint, run, out):
        file = tmp_path / "samples.npy"
        assert main(["sample", str(path), "--out", str(file), "--num-samples", "3"]) == 0
        tokens = np.load(file)
        assert tokens.shape == (3, w.LENGTH)
        assert tokens.max() < w.V - 1
    np.save(tmp_path / "data.npy", np.random.default_rng(0).integers(0, w.V - 1, (40, w.LENGTH)))
    words = ["evaluate", str(checkpoint), str(out), "--data", str(tmp_path / "data.npy")]
    words += ["--steps", "2", "--num-samples", "8", "--out", str(tmp_path / "results")]
    assert main(words) == 0, capsys.readouterr().err
    assert (tmp_path / "results" / "results.json").is_file()
