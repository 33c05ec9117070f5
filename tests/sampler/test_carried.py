"""Grids that a model carries: found again, and passed over once it is another model."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

import fewjump
from fewjump import cli
from fewjump.checkpoint.folder import write_grids
from fewjump.denoiser import LogitDenoiser, NetworkDenoiser
from fewjump.process import Absorbing, Uniform
from fewjump.publish import Pipeline
from fewjump.sampler import carried_grid, carry_grid, fitted_grid, run
from fewjump.sampler.carried import model_digest, read_grids
from fewjump.schedule import Cosine, LogLinear

TIMES = [1.0, 0.7, 0.2, 0.0]


@pytest.fixture
def model() -> NetworkDenoiser:
    torch.manual_seed(0)
    process = Absorbing(5, LogLinear())
    trunk = {"hidden": 16, "blocks": 1, "heads": 2}
    described = {"process": process.config(), "trunk": trunk, "length": 4}
    return NetworkDenoiser.from_config(described).eval()


@pytest.fixture
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a grid was fitted")

    monkeypatch.setattr(sys.modules[fitted_grid.__module__], "fitted_grid", refuse)


@pytest.mark.usefixtures("no_fit")
def test_a_saved_model_brings_its_grids_along(model: NetworkDenoiser, tmp_path: Path) -> None:
    carry_grid(model, TIMES)
    carry_grid(model, [1.0, 0.4, 0.0])
    carry_grid(model, [1.0, 0.5, 0.3, 0.0])  # takes the place of the first
    folder = model.save_pretrained(tmp_path / "m")
    again = fewjump.load(folder)
    assert carried_grid(again, 2, None) is not None
    assert run(again, 2, 3, grid="fitted", generator=0).times.tolist() == [1.0, 0.5, 0.3, 0.0]
    assert run(again, 2, 2, grid="fitted", generator=0).times.tolist() == [1.0, 0.4, 0.0]
    assert Pipeline(again)(2, 3, grid="fitted", generator=0).nfe == 3
    # Nothing is known of other numbers of steps, or of other lengths.
    assert carried_grid(again, 4, None) is None
    assert carried_grid(again, 3, 3) is None
    # Saved and loaded twice it still is the same model.
    twice = fewjump.load(again.save_pretrained(tmp_path / "n"))
    assert twice.grids == again.grids is not None


@pytest.mark.parametrize("change", ["weight", "process", "schedule", "architecture"])
def test_another_model_does_not_use_them(
    model: NetworkDenoiser, tmp_path: Path, change: str
) -> None:
    carry_grid(model, TIMES)
    assert carried_grid(model, 3, None) is not None
    other = copy.deepcopy(model)
    if change == "weight":
        with torch.no_grad():
            next(other.parameters()).view(-1)[0] += 1e-6
    elif change == "process":
        other.process = Uniform(5, LogLinear())
    elif change == "schedule":
        other.process = Absorbing(5, Cosine())
    else:
        other.length = 5
    assert model_digest(other) != model_digest(model)
    assert carried_grid(other, 3, 4) is None
    # Its folder does not carry them on, and a new grid drops the old ones.
    assert fewjump.load(other.save_pretrained(tmp_path / "m")).grids is None
    carry_grid(other, [1.0, 0.5, 0.0])
    assert other.grids is not None
    assert [g["steps"] for g in other.grids["grids"]] == [2]


def test_a_changed_model_is_fitted_again(model: NetworkDenoiser, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[fitted_grid.__module__], "_ROLLOUT_STEPS", 4)
    carry_grid(model, TIMES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    expected = fitted_grid(model, None, 3).times
    assert torch.equal(run(model, 2, 3, grid="fitted").times, expected)
    assert expected.tolist() != TIMES


def test_from_the_command_line(
    model: NetworkDenoiser, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = sys.modules[fitted_grid.__module__]
    monkeypatch.setattr(module, "_ROLLOUT_STEPS", 4)
    folder = model.save_pretrained(tmp_path / "m")
    weights = (folder / "model.safetensors").read_bytes()
    words = ["sample", str(folder), "--steps", "2", "--grid", "fitted", "--num-samples", "3"]
    assert cli.main([*words, "--keep-grid"]) == cli.OK
    first = capsys.readouterr()
    assert "keeps the times 1 " in first.err
    stored = json.loads((folder / "config.json").read_text())["grids"]["grids"]
    assert [g["steps"] for g in stored] == [2]
    assert (folder / "model.safetensors").read_bytes() == weights
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    monkeypatch.setattr(module, "fitted_grid", None)  # it is not called a second time
    assert cli.main(words) == cli.OK
    assert capsys.readouterr().out == first.out
    assert cli.main([*words[:4], "--keep-grid"]) != cli.OK
    assert "--keep-grid needs --grid fitted" in capsys.readouterr().err
    assert cli.main(["sample", "hf:a/b", *words[2:], "--keep-grid"]) != cli.OK
    assert "hub repository" in capsys.readouterr().err


def test_what_cannot_carry_or_be_read_is_refused(model: NetworkDenoiser, tmp_path: Path) -> None:
    loose = LogitDenoiser(lambda x, t: torch.zeros(*x.shape, 5), Absorbing(5, LogLinear()), 4)
    with pytest.raises(ValueError, match="cannot be saved"):
        carry_grid(loose, TIMES)
    with pytest.raises(ValueError, match="decrease strictly"):
        carry_grid(model, [1.0, 0.2, 0.7])
    folder = model.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="carries no grids"):
        write_grids(model, folder)
    carry_grid(model, TIMES)
    with pytest.raises(ValueError, match="is none"):
        write_grids(model, tmp_path)
    write_grids(model, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for spoiled in (
        [],
        {"digest": 3, "grids": []},
        {"digest": "x", "grids": [{"steps": 2, "length": 4, "times": [1, 0]}]},
        {"digest": "x", "grids": [{"steps": 1, "length": 4, "times": [0, 1]}]},
        {"digest": "x", "grids": [{"steps": 1, "length": "4", "times": [1, 0]}]},
        {"digest": "x", "grids": [{"steps": 1, "length": 4, "times": [float("nan"), 0]}]},
    ):
        with pytest.raises(ValueError, match="remove 'grids'"):
            read_grids(spoiled)
    file.write_text(json.dumps({**config, "grids": {"digest": "x"}}))
    with pytest.raises(ValueError, match="remove 'grids'"):
        fewjump.load(folder)
