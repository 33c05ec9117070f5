"""From an opened container and its description to a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.checkpoint.containers import Opened, Weights
from fewjump.checkpoint.errors import CheckpointError
from fewjump.checkpoint.families import Description
from fewjump.checkpoint.rekey import FREQUENCIES, expected_names, renamed
from fewjump.checkpoint.sizes import Sizes, check_frequencies, sizes_of
from fewjump.denoiser import (
    NetworkDenoiser,
    ProductHead,
    ScoreDenoiser,
    ScoreNetwork,
    Transformer,
)
from fewjump.process import Absorbing, Process, Uniform
from fewjump.schedule import Schedule

# No trained weight is anywhere near; a flipped exponent bit is.
LARGEST_WEIGHT = 1e6


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
    label: int | None,
    dtype: torch.dtype,
) -> NetworkDenoiser | ScoreDenoiser:
    """The denoiser with its weights."""
    if label is not None and not 0 <= label < sizes.classes:
        raise CheckpointError(
            f"label is {label}, but the checkpoint knows {sizes.classes} classes"
            + (" (the last is: no class)" if sizes.classes else "")
        )
    names = expected_names(sizes.blocks, label is not None)
    originals = {name: read.read(name) for name in names}
    if FREQUENCIES in read.shapes:
        check_frequencies(read.read(FREQUENCIES))
    check_values(originals)
    tensors = {n: t.to(dtype) for n, t in renamed(originals, label).items()}
    config = sizes.trunk(described.time_conditioned, label is not None)
    with torch.device("meta"):
        trunk = Transformer(config)
        head = ProductHead(sizes.hidden, sizes.vocab_size)
    if described.family.startswith("sedd"):
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
