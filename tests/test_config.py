"""Strict configurations: what is written is read back, what is unknown is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from fewjump.config import (
    ConfigError,
    changed,
    differences,
    dump_config,
    from_dict,
    read_yaml,
    to_dict,
)


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
    assert from_dict(Run, read_yaml(tmp_path / "run.yaml")) == run
    assert yaml.safe_load(dump_config(run)) == to_dict(run)


def test_options_are_changed_by_name_in_the_group_that_has_them():
    run, optimiser = changed({"steps": 7, "grid": [1, 0.25], "clip": None}, Run(5), Optimiser())
    assert (run, optimiser) == (Run(7, grid=(1.0, 0.25)), Optimiser(clip=None))
    # Numbers that YAML 1.1 takes for text.
    assert changed({"steps": "1e3"}, Run(1)) == (Run(1000),)
    for options, words in (
        ({"stepz": 3}, "unknown key 'stepz'; did you mean 'steps'"),
        ({"steps": "many"}, "steps: must be int"),
        ({"lr": -1.0}, "lr must be positive"),
    ):
        with pytest.raises(ValueError, match=words):
            changed(options, Run(5), Optimiser())


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
        ("steps: [", "not valid YAML"),
        ("steps: 1\nname: train\nsteps: 2", "'steps' is given twice"),
        ("steps: 1\noptimiser: {lr: 1, lr: 2}", "'lr' is given twice"),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        from_dict(Run, read_yaml(write(tmp_path, text)))


def test_differences_name_every_changed_leaf():
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": 2, "g": None}
    new = {"a": 1, "b": {"c": 5, "d": 3}, "f": 1}
    assert differences(old, new) == ["b.c: 2 → 5", "e: 2 → '(absent)'", "f: '(absent)' → 1"]
    assert differences(old, old) == []
