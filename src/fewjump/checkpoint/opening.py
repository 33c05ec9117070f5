"""Open whatever a path holds: a saved model, an original's checkpoint, a masked language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.folder import CONFIG_FILE, load, read_config
from fewjump.checkpoint.teacher import load_teacher
from fewjump.denoiser import Denoiser
from fewjump.denoiser.masked_lm import folder_config, from_masked_lm, is_masked_lm
from fewjump.device import usable_device
from fewjump.reading import given_flags

# Besides a config.json: what a SEDD run or a Lightning run holds.
ORIGINALS = ("checkpoints-meta/checkpoint.pth", "last.ckpt", "checkpoints/last.ckpt")


def model_place(path: Path) -> Path:
    """The file or folder that ``path`` means: itself, or ``model`` in a run's folder.

    Raises:
        FileNotFoundError: if there is no model of any kind.
    """
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if path.is_file() or any((path / name).is_file() for name in ORIGINALS):
        return path
    if (path / "training_state.pt").is_file():
        raise FileNotFoundError(
            f"the training in {path} has not finished; run the same command again to go on"
        )
    raise FileNotFoundError(
        f"there is no saved model in {path}: neither {path / CONFIG_FILE} nor "
        f"{path / 'model' / CONFIG_FILE} exists, nor is it a checkpoint of SEDD, MDLM, UDLM or Duo"
    )


def is_original(place: Path) -> bool:
    """Whether a place of :func:`model_place` is, by its files, a checkpoint of an original."""
    if not (place / CONFIG_FILE).is_file():
        return True
    config = folder_config(place)
    return bool(config) and config.get("format") != "fewjump" and not is_masked_lm(place)


def open_place(
    place: Path,
    device: torch.device | str = "cpu",
    reading: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> tuple[Denoiser, dict[str, Any] | None]:
    """A denoiser and the description of its vocabulary, None where nothing was saved of it.

    Args:
        place: of :func:`model_place`.
        device: where to put the parameters.
        reading: options of :func:`fewjump.load_teacher` for an original
            (:func:`fewjump.reading.reading_values`).
        name: of the hub's repository that ``place`` is the configuration of, if it is one's.

    Raises:
        CheckpointError: for options of originals with a model that is none.
        ValueError, FileNotFoundError: as the function does that reads the model.
    """
    device = usable_device(device)
    if is_original(place):
        denoiser = load_teacher(place, device=device, **(reading or {}))
        return denoiser, denoiser.vocabulary_config
    refuse_reading(reading or {}, f"{place} is no checkpoint of SEDD, MDLM, UDLM or Duo")
    if is_masked_lm(place):
        denoiser = from_masked_lm(place if name is None else name, device=device)
        return denoiser, denoiser.vocabulary_config
    return load(place, device), read_config(place)["data"]


def refuse_reading(reading: Mapping[str, Any], why: str) -> None:
    """Raise CheckpointError if options say how an original is to be read and there is none."""
    flags = given_flags(dict(reading))
    if flags:
        raise CheckpointError(
            f"{why}, and holds one set of weights; leave out {' and '.join(flags)}"
        )
