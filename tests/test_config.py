"""Strict configurations: what is written is read back, what is unknown is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from fewjump.config import (
    ConfigError,
    changed,
    differences,
    dump_config,
    read_yaml,
)
from fewjump.options.sampled import OnPolicyOptions


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
    steps: int = 1
    name: Literal["train", "distill"] = "train"
    grid: tuple[float, ...] | None = None
    out: Path = Path("run")
    compile: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    weight: Literal["none"] | Callable[[float], float] = "none"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_what_is_dumped_is_loaded_again(tmp_path):
    run = Run(5, "distill", (1.0, 0.5), Path("a/b"), True)
    path = write(tmp_path, dump_config({"run": vars(run), "none": None, "list": (1, "y")}))
    found = read_yaml(path)
    assert changed(found["run"], Run()) == (run,)
    assert (found["none"], found["list"]) == (None, [1, "y"])


def test_options_are_changed_by_name_in_the_group_that_has_them():
    run, optimiser = changed({"steps": 7, "grid": [1, 0.25], "clip": None}, Run(5), Optimiser())
    assert (run, optimiser) == (Run(7, grid=(1.0, 0.25)), Optimiser(clip=None))
    # Numbers that YAML 1.1 takes for text.
    assert changed({"steps": "1e3"}, Run(1)) == (Run(1000),)
    # The name that the user knows it by.
    assert changed({"jumps": 2}, OnPolicyOptions()) == (OnPolicyOptions(steps=2),)
    assert changed({"weight": abs}, Run())[0].weight is abs
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
        ("steps: many", r"steps: must be int, got 'many'"),
        ("steps: 1.5", "steps: must be int"),
        ("steps: true", "steps: must be int"),
        ("compile: 1", "compile: must be bool"),
        ("name: sample", "name: must be one of 'train', 'distill'"),
        ("pair: [0.9]", r"pair: must hold 2 values, got 1"),
        ("grid: [1, a]", r"grid\[1\]: must be float"),
        ("grid: abc", "grid: must be a list"),
        ("weight: heavy", "fits none of the allowed types"),
        ("steps: [", "not valid YAML"),
        ("steps: 1\nname: train\nsteps: 2", "'steps' is given twice"),
        ("extra: {lr: 1, lr: 2}", "'lr' is given twice"),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        changed(read_yaml(write(tmp_path, text)), Run())


def test_differences_name_every_changed_leaf():
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": 2, "g": None}
    new = {"a": 1, "b": {"c": 5, "d": 3}, "f": 1}
    assert differences(old, new) == ["b.c: 2 → 5", "e: 2 → '(absent)'", "f: '(absent)' → 1"]
    assert differences(old, old) == []
