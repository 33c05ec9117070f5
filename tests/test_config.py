"""Strict configurations: what is written is read back, what is unknown is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from fewjump.config import ConfigError, differences, dump_config, load_config, to_dict


@dataclass(frozen=True)
class Optimiser:
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError("lr must be positive")


@dataclass(frozen=True)
class Run:
    steps: int
    name: Literal["train", "distill"] = "train"
    grid: tuple[float, ...] | None = None
    out: Path = Path("run")
    compile: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    optimiser: Optimiser = field(default_factory=Optimiser)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_what_is_dumped_is_loaded_again(tmp_path):
    run = Run(
        5, "distill", (1.0, 0.5), Path("a/b"), True, {"x": [1, "y"]}, Optimiser(1e-3, (0.8, 0.9))
    )
    dump_config(run, tmp_path / "run.yaml")
    assert load_config(Run, tmp_path / "run.yaml") == run
    assert yaml.safe_load(dump_config(run)) == to_dict(run)


def test_overrides_come_last_and_reach_inside(tmp_path):
    path = write(tmp_path, "steps: 5\noptimiser:\n  lr: 1e-2\n")
    run = load_config(Run, path, ["optimiser.clip=null", "steps=7", "grid=[1, 0.25]"])
    assert run.optimiser == Optimiser(lr=0.01, clip=None)
    assert run.steps == 7
    assert run.grid == (1.0, 0.25)
    assert load_config(Run, None, {"steps": 1, "optimiser.lr": 2}).optimiser.lr == 2.0
    # Numbers that YAML 1.1 takes for text.
    assert load_config(Run, None, ["steps=1e3"]).steps == 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 1\nstep: 2", r"unknown key 'step'; did you mean 'steps'.*valid keys: steps, name"),
        ("steps: 1\noptimiser: {learning: 2}", r"'learning' in 'optimiser'.*lr, betas, clip"),
        ("steps: many", r"steps: must be int, got 'many'"),
        ("steps: 1.5", "steps: must be int"),
        ("steps: true", "steps: must be int"),
        ("steps: 1\ncompile: 1", "compile: must be bool"),
        ("steps: 1\nname: sample", "name: must be one of 'train', 'distill'"),
        ("steps: 1\noptimiser: {lr: [1]}", r"optimiser\.lr: must be float"),
        ("steps: 1\noptimiser: {lr: -1}", r"optimiser: lr must be positive"),
        ("steps: 1\noptimiser: {betas: [0.9]}", r"optimiser\.betas: must hold 2 values, got 1"),
        ("steps: 1\noptimiser: 3", "optimiser: must be a group"),
        ("steps: 1\ngrid: [1, a]", r"grid\[1\]: must be float"),
        ("steps: 1\ngrid: abc", "grid: must be a list"),
        ("name: train", "missing value for steps"),
        ("- 1", "mapping"),
        ("steps: [", "not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        load_config(Run, write(tmp_path, text))


def test_bad_overrides_and_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="key=value"):
        load_config(Run, None, ["steps"])
    with pytest.raises(ConfigError, match="is a value"):
        load_config(Run, None, {"steps": 1, "steps.a": 2})
    with pytest.raises(ConfigError, match="no such"):
        load_config(Run, tmp_path / "none.yaml")


def test_differences_name_every_changed_leaf():
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": None}
    new = {"a": 1, "b": {"c": 5, "d": 3}, "f": 1}
    assert differences(old, new) == ["b.c: 2 → 5", "e: None → '(absent)'", "f: '(absent)' → 1"]
    assert differences(old, old) == []
