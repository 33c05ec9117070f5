"""Rollouts on disk: the sampler's own samples, gone on with after any stop, and distilled from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewjump import cli, sample
from fewjump.checkpoint import read_config
from fewjump.data import Characters
from fewjump.rollouts import rollouts
from publish.toy import model

LETTERS = Characters("abc ")


def test_the_file_holds_the_samplers_samples(tmp_path: Path) -> None:
    path = rollouts(model(), tmp_path / "r.npy", 7, 3, seed=5, batch_size=3)
    expected = sample(model(), 7, 3, generator=5)
    found = np.load(path, mmap_mode="r")
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected.numpy())
    assert not path.with_name("r.npy.part").exists()


def test_an_interruption_costs_nothing_and_more_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewjump import rollouts as module

    whole = rollouts(model(), tmp_path / "whole.npy", 9, 2, batch_size=4).read_bytes()
    calls, draw = [], module.run

    def stopping(*arguments, **options):
        calls.append(options["first"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    monkeypatch.setattr(module, "run", stopping)
    path = tmp_path / "r.npy"
    with pytest.raises(KeyboardInterrupt):
        rollouts(model(), path, 9, 2, batch_size=4)
    assert not path.exists()
    # A write that was cut short leaves half a sample, which is drawn again.
    with (tmp_path / "r.npy.part").open("ab") as file:
        file.write(b"\x01\x02")
    assert rollouts(model(), path, 9, 2, batch_size=4).read_bytes() == whole
    assert calls == [0, 4, 4, 8]
    assert rollouts(model(), path, 9, 2, batch_size=4).read_bytes() == whole
    assert len(calls) == 4
    more = np.load(rollouts(model(), path, 12, 2, batch_size=4))
    assert calls[4:] == [9]
    assert np.array_equal(more, sample(model(), 12, 2, generator=0).numpy())


def test_other_samples_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "r.npy"
    rollouts(model(), path, 3, 2)
    for options, said in (({"seed": 1}, "seed"), ({"sampler": "euler"}, "sampler")):
        with pytest.raises(ValueError, match=f"another run .they differ in {said}"):
            rollouts(model(), path, 3, 2, **options)
    with pytest.raises(ValueError, match="differ in teacher"):
        rollouts(model(kind="chain"), path, 3, 2)
    with pytest.raises(ValueError, match="more than 2"):
        rollouts(model(), path, 2, 2)
    with pytest.raises(ValueError, match=r"in a \.npy file"):
        rollouts(model(), tmp_path / "r.txt", 2, 2)
    with pytest.raises(ValueError, match="at least 1"):
        rollouts(model(length=None), tmp_path / "s.npy", 2, 2)


def test_given_tokens_go_around(tmp_path: Path) -> None:
    prompt = torch.tensor([[1, 0, 0, 0, 0, 0], [2, 3, 0, 0, 0, 0]])
    fixed = torch.tensor([[True] + [False] * 5, [True, True] + [False] * 4])
    path = rollouts(model(), tmp_path / "r.npy", 5, 2, batch_size=2, prompt=prompt, fixed=fixed)
    found = np.load(path)
    assert found[::2, 0].tolist() == [1, 1, 1]
    assert found[1::2, :2].tolist() == [[2, 3], [2, 3]]


def test_students_learn_from_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(model().save_pretrained(tmp_path / "m", vocabulary=LETTERS))
    file = str(tmp_path / "r" / "r.npy")
    words = ["rollouts", teacher, "--out", file, "--num-samples", "40", "--steps", "4"]
    assert cli.main([*words, "--prompt", "ab"]) == cli.OK
    assert "40 samples of 6 tokens" in capsys.readouterr().out
    assert np.load(file)[:, :2].tolist() == [[0, 1]] * 40
    words = ["distill", "--teacher", teacher, "--data", file, "--out", str(tmp_path / "s")]
    quick = ["--steps", "2", "--batch-size", "4", "--no-progress", "--device", "cpu"]
    assert cli.main([*words, *quick, "--known", "prefix"]) == cli.OK
    config = read_config(tmp_path / "s" / "model")
    assert config["data"] == LETTERS.config()
    assert config["training"]["objective"]["known"] == "prefix"
    out = ["--out", str(tmp_path / "z")]
    latent = [*words, *out, *quick, "--student", "latent", "--head", "categories=2"]
    assert cli.main([*latent, "--known", "prefix"]) == cli.OK
    assert read_config(tmp_path / "z" / "model")["training"]["objective"]["known"] == "prefix"
    words_of_teacher = ["train", "--data", file, "--known", "infill", "--hidden", "8"]
    small = ["--blocks", "1", "--heads", "2", "--out", str(tmp_path / "t")]
    assert cli.main([*words_of_teacher, *small, *quick]) == cli.OK
    assert read_config(tmp_path / "t" / "model")["training"]["objective"]["known"] == "infill"
    words = ["distill", "--teacher", teacher, "--known", "infill", "--out", str(tmp_path / "u")]
    assert cli.main([*words, *quick]) == cli.USAGE
    assert "give --data" in capsys.readouterr().err
