"""``--sharding``, ``--checkpoint-blocks`` and ``--lora`` of train, distill and refine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fewjump
from fewjump import cli
from fewjump.commands.arguments import parse
from fewjump.commands.distill import Options as Distill
from fewjump.commands.refine import Options as Refine
from fewjump.commands.train import Options as Train
from fewjump.denoiser import NetworkDenoiser
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear

SMALL = ["--steps", "2", "--batch-size", "4", "--warmup", "1", "--device", "cpu", "--no-progress"]


@pytest.mark.parametrize("verb", [Train, Distill, Refine], ids=["train", "distill", "refine"])
def test_every_training_verb_takes_them(verb: type) -> None:
    plain = parse(verb, [], "x")
    assert (plain.training.sharding, plain.training.checkpoint_blocks) == ("none", False)
    asked = parse(verb, ["--sharding", "full", "--checkpoint-blocks"], "x")
    assert (asked.training.sharding, asked.training.checkpoint_blocks) == ("full", True)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    process = Absorbing(5, LogLinear())
    trunk = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8}
    torch.manual_seed(0)
    model = NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": 4})
    return fewjump.save(model, tmp_path / "teacher")


def distil(teacher: Path, out: Path, *words: str) -> int:
    return cli.main(["distill", "--teacher", str(teacher), "--out", str(out), *SMALL, *words])


def test_checkpointed_blocks_on_the_command_line(teacher: Path, tmp_path: Path) -> None:
    assert distil(teacher, tmp_path / "run", "--checkpoint-blocks", "--sharding", "full") == 0
    assert "checkpoint_blocks: true" in (tmp_path / "run" / "config.yaml").read_text()


def test_low_rank_on_the_command_line(teacher: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs fewjump[lora]")
    assert distil(teacher, tmp_path / "run", "--lora", "2") == 0
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["denoiser"]["kind"] == "network"
    assert "lora: 2" in (tmp_path / "run" / "config.yaml").read_text()
    fewjump.load(tmp_path / "run" / "model")


def test_low_rank_needs_the_teachers_weights(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distil(teacher, tmp_path / "run", "--lora", "2", "--no-warm-start") == 2
    assert "--warm-start" in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "-1", "8", "99"])
def test_a_rank_that_is_none_is_refused(
    rank: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distil(teacher, tmp_path / "run", "--lora", rank) == 2
    said = capsys.readouterr().err
    assert f"--lora must be a rank from 1 to less than the network's width 8, got {rank}" in said
    assert "alpha" not in said
    assert not (tmp_path / "run").exists()
