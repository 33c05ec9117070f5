"""The grids that a saved model carries, written into its folder after the fact."""

from __future__ import annotations

import json
from pathlib import Path

from fewjump.checkpoint.folder import CONFIG_FILE, read_config
from fewjump.denoiser import Denoiser
from fewjump.files import write_text
from fewjump.sampler.carried_grids import current_grids


def check_can_keep(folder: str | Path) -> None:
    """Raise ValueError unless ``folder`` is that of a model saved by :func:`fewjump.save`."""
    try:
        read_config(folder)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"grids are kept in the folder of a saved model, and {folder} is none ({error}); save "
            "the model with fewjump.save first, or leave --keep-grid out"
        ) from None


def write_grids(denoiser: Denoiser, folder: str | Path) -> None:
    """Write the grids that a denoiser carries into the folder it was loaded from.

    Only its config.json changes, at once or not at all.

    Raises:
        ValueError: if the folder is no saved model's, or the denoiser carries no grids.
    """
    check_can_keep(folder)
    grids = current_grids(denoiser)
    if grids is None:
        raise ValueError("this denoiser carries no grids; use fewjump.sampler.carry_grid first")
    config = {**read_config(folder), "grids": grids}
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(Path(folder) / CONFIG_FILE, text)
