"""Checkpoints of SEDD, MDLM, UDLM and Duo as denoisers of this library."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from fewjump.checkpoint.containers import Opened, Weights, opened
from fewjump.checkpoint.families import Description, describe
from fewjump.checkpoint.original_network import (
    FREQUENCIES,
    Sizes,
    check_frequencies,
    expected_names,
    renamed,
    sizes_of,
)
from fewjump.checkpoint.vocabulary import adopt_tokenizer, tokenizer_config
from fewjump.denoiser import (
    NetworkDenoiser,
    ProductHead,
    ScoreDenoiser,
    ScoreNetwork,
    Transformer,
)
from fewjump.process import Absorbing, Process, Uniform
from fewjump.reading import CheckpointError, FamilyName, ReadingOptions, WeightsName
from fewjump.schedule import Schedule

# No trained weight is anywhere near; a flipped exponent bit is.
LARGEST_WEIGHT = 1e6


@dataclass
class Reading(ReadingOptions):
    """What a model does not say itself; see :func:`fewjump.load`."""

    schedule: Schedule | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.weights not in get_args(WeightsName):
            raise ValueError(f"weights must be 'ema' or 'raw', got {self.weights!r}")


@dataclass
class Facts:
    """Where a model came from.

    Attributes:
        family: the original, or the kind of denoiser of this library's own folder.
        weights: which weights were read.
        available: which there are.
        ema: what the average is, in words.
        sizes: of the network.
        mask: the mask's number, None without a mask.
        steps: optimiser steps behind the weights, where they are stored.
        ignored: what was left aside.
        notes: what had to be assumed.
    """

    path: str
    container: str
    family: str
    weights: str
    available: list[str]
    ema: str
    sizes: dict[str, Any]
    mask: int | None = None
    steps: int | None = None
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_original(
    path: Path, reading: Reading, device: torch.device | str = "cpu"
) -> tuple[NetworkDenoiser | ScoreDenoiser, Facts]:
    """The denoiser of a checkpoint, in eval mode, and what was found out about it.

    Args:
        path: a file or folder, as for :func:`fewjump.checkpoint.containers.opened`.
        reading: what it does not say itself.
        device: where to put the parameters.

    Raises:
        CheckpointError: for everything that is wrong with the contents.
    """
    tokenizer, mask = reading.tokenizer, reading.mask
    vocabulary = None if tokenizer is None else tokenizer_config(tokenizer)
    with opened(path) as found:
        try:
            described = describe(found.config, reading.family or _guessed(found))
            if "raw" in found.weights:
                # Before an average, which is a list, is matched with the names of these.
                checked_sizes(found.weights["raw"](), described)
            read = _chosen(found, reading.weights)
            sizes = checked_sizes(read, described)
            process, notes = process_of(found, described, sizes, mask, reading.schedule)
            dtype = reading.dtype or torch.float32
            denoiser = build(read, described, sizes, process, dtype)
            if vocabulary is not None:
                notes += adopt_tokenizer(denoiser, vocabulary, mask is not None)
        except CheckpointError as error:
            raise CheckpointError(f"{found.file}: {error}") from None
    if found.config is None:
        warnings.warn(f"{found.file}: {'; '.join(notes)}", stacklevel=4)
    facts = Facts(
        path=str(path),
        container=found.container,
        family=described.family,
        weights=reading.weights,
        available=sorted(found.weights),
        ema=_average_in_words(found),
        sizes=_sizes_in_words(sizes, denoiser),
        mask=process.mask if process.absorbing else None,
        steps=found.steps,
        ignored=found.ignored,
        notes=notes,
    )
    return denoiser.to(device).eval(), facts


def checked_sizes(read: Weights, described: Description) -> Sizes:
    """Sizes of the network, once they agree with the configuration."""
    sizes = sizes_of(read.shapes, described.heads)
    if described.vocab_size not in (None, sizes.vocab_size):
        raise CheckpointError(
            f"the configuration says {described.vocab_size} states ({described.family}), the "
            f"tensors have {sizes.vocab_size}; take both from the same checkpoint"
        )
    return sizes


def process_of(
    found: Opened,
    described: Description,
    sizes: Sizes,
    mask: int | None,
    schedule: Schedule | None,
) -> tuple[Process, list[str]]:
    """The forward process, and what had to be assumed about it."""
    notes = list(described.notes)
    if schedule is not None:
        if not notes and schedule != described.schedule:
            raise CheckpointError(
                f"the checkpoint states its schedule, {described.schedule}; leave schedule out"
            )
        notes = [note for note in notes if "schedule" not in note]
    schedule = schedule or described.schedule
    if not described.masked:
        if mask is not None:
            raise CheckpointError(f"{described.family} has no mask; leave mask out")
        return Uniform(sizes.vocab_size, schedule), notes
    last = sizes.vocab_size - 1
    # SEDD's own code knows no tokenizer: its mask is always on top.
    if mask is None and found.container in ("Lightning checkpoint", "Hugging Face folder"):
        mask = found.mask()
    mask = last if mask is None else mask
    if not 0 <= mask <= last:
        raise CheckpointError(f"the mask is {mask}, but there are {sizes.vocab_size} states")
    return Absorbing(sizes.vocab_size, schedule, mask), notes


def build(
    read: Weights,
    described: Description,
    sizes: Sizes,
    process: Process,
    dtype: torch.dtype,
) -> NetworkDenoiser | ScoreDenoiser:
    """The denoiser with its weights."""
    scores = described.family.startswith("sedd")
    # The last row of the embedding is that of no class. Score networks have no classes here.
    with_classes = sizes.classes > 1 and not scores
    names = expected_names(sizes.blocks, with_classes)
    originals = {name: read.read(name) for name in names}
    if FREQUENCIES in read.shapes:
        check_frequencies(read.read(FREQUENCIES))
    check_values(originals)
    tensors = {n: t.to(dtype) for n, t in renamed(originals).items()}
    config = sizes.trunk(described.time_conditioned, with_classes)
    with torch.device("meta"):
        trunk = Transformer(config)
        head = ProductHead(sizes.hidden, sizes.vocab_size)
    if scores:
        with torch.device("meta"):
            network = ScoreNetwork(trunk, process, described.scaled)
        network.load_state_dict(tensors, strict=True, assign=True)
        return ScoreDenoiser(network, process, log=True, length=described.length)
    head.linear.load_state_dict(_part(tensors, "linear."), strict=True, assign=True)
    trunk.load_state_dict(_part(tensors, "trunk."), strict=True, assign=True)
    leave_one_out = not described.masked
    return NetworkDenoiser(trunk, head, process, described.length, leave_one_out=leave_one_out)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def check_values(tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError for tensors that no network can have."""
    for name, value in tensors.items():
        if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise CheckpointError(
                f"{name} holds {value.dtype}; floating point of 16 to 64 bits was expected"
            )
        if value.numel() and not bool(value.isfinite().all()):
            count = int((~value.isfinite()).sum())
            raise CheckpointError(
                f"{name} holds {count} values that are not finite (NaN or infinity); the file is "
                "damaged, or its training diverged"
            )
        largest = float(value.detach().abs().max()) if value.numel() else 0.0
        if largest > LARGEST_WEIGHT:
            raise CheckpointError(
                f"{name} holds a value of {largest:.3g}, which no trained weight comes near; the "
                "file is damaged"
            )


def _guessed(found: Opened) -> FamilyName | None:
    """SEDD's run folders may come without a configuration; its code's default masks."""
    return "sedd-absorb" if found.container == "SEDD run folder" and found.config is None else None


def _chosen(found: Opened, weights: WeightsName) -> Weights:
    if weights in found.weights:
        return found.weights[weights]()
    if weights == "ema":
        raise CheckpointError(
            "there is no average (ema) in the checkpoint, only the trained weights; ask for "
            "weights='raw'"
        )
    raise CheckpointError(
        f"{found.file} holds one set of weights, the published or averaged one, which is what "
        "weights='ema' means; there are no others to be read with weights='raw'"
    )


def _average_in_words(found: Opened) -> str:
    if "raw" not in found.weights:
        return "the only weights in the folder; the originals publish the average"
    if "ema" not in found.weights:
        return "not in the checkpoint"
    decay = "" if found.decay is None else f", decay {found.decay:g}"
    return f"ema.shadow_params, a list in the order of the parameters{decay}"


def _sizes_in_words(sizes: Sizes, denoiser: NetworkDenoiser | ScoreDenoiser) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocab_size,
        "length": denoiser.length,
        "hidden": sizes.hidden,
        "blocks": sizes.blocks,
        "heads": sizes.heads,
        "condition_dim": sizes.condition_dim,
        "classes": sizes.classes,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "time_conditioned": denoiser.time_conditioned
        if isinstance(denoiser, NetworkDenoiser)
        else True,
    }
