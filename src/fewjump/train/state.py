"""Training state on disk: written atomically, refused when it belongs to another run."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewjump.config import differences
from fewjump.denoiser.wrappers import unwrapped

STATE_FILE = "training_state.pt"
_FORMAT = 1


class ResumeError(ValueError):
    """The run folder holds the state of a different configuration."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _publish(temporary, path)


def save_state(folder: Path, state: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Write the training state of a run; the previous one stays valid until this one is whole."""
    path = folder / STATE_FILE
    temporary = path.with_name(path.name + ".tmp")
    content = {
        "format": _FORMAT,
        "config": json.dumps(config, sort_keys=True),
        "config_hash": config_hash(config),
        **state,
    }
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    _publish(temporary, path)
    return path


def load_state(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The training state in ``folder``, or None if there is none.

    Raises:
        ResumeError: if it was written under another configuration; the message names each
            difference.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("format") != _FORMAT:
        raise ResumeError(
            f"{path} was written by another version of fewjump; choose a new output folder"
        )
    check_identity(folder, state, config)
    return state


def check_identity(folder: Path, state: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise ResumeError, naming each difference, if a state belongs to another configuration."""
    if state["config_hash"] == config_hash(config):
        return
    lines = differences(json.loads(state["config"]), json.loads(json.dumps(config)))
    raise ResumeError(
        f"{folder} holds a run with another configuration:\n  "
        + "\n  ".join(lines)
        + "\nRestore these values to resume it, or choose a new output folder."
    )


def config_hash(config: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that name a plain configuration."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_checksum(module: nn.Module) -> str:
    """A checksum of every tensor of a module: which teacher this is."""
    value = 0
    for name, tensor in sorted(unwrapped(module).state_dict().items()):
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        value = zlib.crc32(data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def _publish(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
