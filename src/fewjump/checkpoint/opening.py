"""Open whatever a path holds: a saved model, an original's checkpoint, a masked language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.folder import CONFIG_FILE, load, read_config
from fewjump.checkpoint.teacher import Facts, own_facts, read_teacher
from fewjump.checkpoint.vocabulary import settle_vocabulary
from fewjump.denoiser import Denoiser
from fewjump.denoiser.masked_lm import read_masked_lm, tell
from fewjump.denoiser.network import parameter_counts
from fewjump.denoiser.pretrained import (
    INDEX_SUFFIX,
    WEIGHTS_FILES,
    Pretrained,
    folder_config,
    is_masked_lm,
)
from fewjump.device import usable_device
from fewjump.process import Absorbing
from fewjump.reading import given_flags

# Besides a config.json: what a SEDD run or a Lightning run holds.
ORIGINALS = ("checkpoints-meta/checkpoint.pth", "last.ckpt", "checkpoints/last.ckpt")


def model_place(path: Path) -> Path:
    """The file or folder that ``path`` means: itself, or ``model`` in a run's folder.

    A file of weights beside a config.json, or that file, means their folder.

    Raises:
        FileNotFoundError: if there is no model of any kind.
    """
    for folder in (path, path / "model"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    parts = (CONFIG_FILE, *WEIGHTS_FILES, *(f"{name}{INDEX_SUFFIX}" for name in WEIGHTS_FILES))
    if path.is_file() and path.name in parts and (path.parent / CONFIG_FILE).is_file():
        return path.parent
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

    Args and errors are those of :func:`open_described`.
    """
    denoiser, described, _ = open_described(place, device, reading, name)
    return denoiser, described


def open_described(
    place: Path,
    device: torch.device | str = "cpu",
    reading: Mapping[str, Any] | None = None,
    name: str | None = None,
    told: bool = True,
) -> tuple[Denoiser, dict[str, Any] | None, Facts]:
    """A denoiser, the description of its vocabulary, and where it came from.

    Args:
        place: of :func:`model_place`.
        device: where to put the parameters.
        reading: what the model does not say itself: options of :func:`fewjump.load_teacher`
            (:func:`fewjump.reading.reading_values`). For another than an original that is its
            ``tokenizer`` at most; a masked language model's is then not read.
        name: of the hub's repository that ``place`` is the configuration of, if it is one's.
        told: log what was assumed and left aside in reading a masked language model.

    Raises:
        CheckpointError: for options of originals with a model that is none, and for a tokenizer
            that is not the model's.
        ValueError, FileNotFoundError: as the function does that reads the model.
    """
    device = usable_device(device)
    if is_original(place):
        denoiser, facts = read_teacher(place, device=device, **(reading or {}))
        return denoiser, denoiser.vocabulary_config, facts
    tokenizer = (reading or {}).get("tokenizer")
    refuse_reading(reading or {}, f"{place} is no checkpoint of SEDD, MDLM, UDLM or Duo")
    if is_masked_lm(place):
        source = place if name is None else name
        masked_lm, found = read_masked_lm(source, tokenizer, device=device)
        if told:
            tell(source, found)
        return masked_lm, masked_lm.vocabulary_config, _masked_lm_facts(source, masked_lm, found)
    own = load(place, device)
    described, notes = settle_vocabulary(own, read_config(place)["data"], tokenizer, place)
    facts = own_facts(place, own)
    facts.notes += notes
    return own, described, facts


def _masked_lm_facts(source: Any, denoiser: Denoiser, found: Pretrained) -> Facts:
    assert isinstance(denoiser.process, Absorbing)
    config = found.model.config
    named = {"hidden": "hidden_size", "blocks": "num_hidden_layers", "heads": "num_attention_heads"}
    sizes = {"vocab_size": denoiser.process.vocab_size, "longest": denoiser.longest}
    sizes |= {ours: getattr(config, theirs, None) for ours, theirs in named.items()}
    sizes["parameters"] = parameter_counts(denoiser)["total"]
    return Facts(
        path=str(source),
        container="folder of transformers",
        family=f"{type(found.model).__name__}, a masked language model",
        weights="published",
        available=["published"],
        ema="the only weights in the folder",
        sizes={name: value for name, value in sizes.items() if value is not None},
        mask=denoiser.process.mask,
        ignored=[f"{name} (not the network's)" for name in found.aside],
        notes=found.notes,
    )


def refuse_reading(reading: Mapping[str, Any], why: str) -> None:
    """Raise CheckpointError if options say how an original is to be read and there is none."""
    flags = given_flags({k: v for k, v in reading.items() if k != "tokenizer"})
    if flags:
        raise CheckpointError(
            f"{why}, and holds one set of weights; leave out {' and '.join(flags)}"
        )
