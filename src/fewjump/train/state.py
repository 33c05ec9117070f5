"""Training state on disk: whole or absent, refused when damaged or of another run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from fewjump.checkpoint.archive import Archive
from fewjump.config import differences
from fewjump.files import check_readable, whole_file
from fewjump.options.training import FREE_OPTIONS
from fewjump.reading import CheckpointError

STATE_FILE, CONFIG_FILE = "training_state.pt", "config.yaml"
#: In place of the former where the state lies in parts: which folder holds them.
POINTER_FILE = "training_state.json"
_FORMAT = 1
_PARTS = {"config", "step", "seconds", "window", "window_steps", "student", "optimiser", "ema"}
# What the verbs leave in a run's folder.
_OUTPUTS = ("model", "teacher", "metrics.jsonl", "results.json", "samples.json", "report.html")


class ResumeError(ValueError):
    """The run folder holds a run that this one cannot go on from."""


def save_state(folder: Path, state: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Write the training state of a run; the previous one stays valid until this one is whole."""
    path = folder / STATE_FILE
    content = {"format": _FORMAT, "config": json.dumps(config, sort_keys=True), **state}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return path


def load_state(folder: Path, config: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The training state in ``folder``, or None if there is none.

    Args:
        folder: of a run.
        config: the run's identity, which the state must have; None takes any.

    Raises:
        ResumeError: if the state is damaged, or was written under another configuration; the
            message names each difference.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    check_readable(path)
    try:
        with Archive(path) as archive:
            state = archive.tensors()
    except CheckpointError as error:
        # A file that was cut has lost the directory at its end.
        whole = zipfile.is_zipfile(path)
        why = str(error).removeprefix(f"{path}: ") if whole else f"{path.stat().st_size} bytes"
        raise ResumeError(damaged(path, why)) from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ResumeError(
            f"{path} was written by another version of fewjump, or by none; choose a new output "
            "folder"
        )
    if missing := _PARTS - state.keys():
        raise ResumeError(damaged(path, f"it lacks {', '.join(sorted(missing))}"))
    if config is not None:
        check_identity(folder, json.loads(state["config"]), config)
    return state


def damaged(path: Path, why: str) -> str:
    """What to say of a state that cannot be read."""
    return (
        f"{path} is damaged or cut short ({why}); put a copy of it back, or remove it to train "
        "again from the start"
    )


def read_config(folder: Path) -> dict[str, Any] | None:
    """The configuration that a run wrote down, its identity and ``free``; None if there is none.

    Raises:
        ValueError: if it cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {_first_line(error)}") from None
    if not isinstance(content, dict) or "run" not in content:
        raise ValueError(f"{path} is damaged: it holds no configuration of a run")
    return content


def begun_as(folder: Path | None) -> dict[str, Any]:
    """The identity of the run that lies in a folder; nothing where that is not said."""
    try:
        found = None if folder is None else read_config(folder)
    except ValueError:
        # Damage is told of where the state is taken up.
        return {}
    return {k: v for k, v in (found or {}).items() if k != "free"}


def check_fresh(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ResumeError if a folder without a state holds what another run has made."""
    try:
        written = read_config(folder)
    except ValueError as error:
        raise ResumeError(f"{error}; remove it, or choose a new output folder") from None
    if written is not None:
        check_identity(folder, {k: v for k, v in written.items() if k != "free"}, config)
        return
    found = [name for name in _OUTPUTS if (folder / name).exists()]
    if found:
        raise ResumeError(
            f"{folder} holds {', '.join(found)} and no {CONFIG_FILE} that says of which run; "
            "choose a new output folder, or move them"
        )


def check_identity(folder: Path, found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise ResumeError, naming each difference, if a state belongs to another configuration."""
    # Options may have become free since the state was written.
    bound = {k: v for k, v in found.get("train", {}).items() if k not in FREE_OPTIONS}
    lines = differences({**found, "train": bound}, json.loads(json.dumps(config)))
    if lines:
        raise ResumeError(
            f"{folder} holds a run with another configuration ({'; '.join(lines)}); restore these "
            "values to resume it, or choose a new output folder"
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
