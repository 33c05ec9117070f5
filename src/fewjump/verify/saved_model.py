"""A user's own model and data, as the named checks open them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.process import Absorbing
from fewjump.random import generator_for


class Saved(NamedTuple):
    """A denoiser, and the description of its vocabulary (None where none was saved)."""

    denoiser: Denoiser
    vocabulary: dict[str, Any] | None
    folder: Path


def open_saved(path: Path, reading: Mapping[str, Any] | None = None) -> Saved:
    """Load a saved model (the folder itself, or ``model`` inside a run's folder) or an original.

    Args:
        path: of the model.
        reading: options of :func:`fewjump.load_teacher` for a checkpoint of the originals.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for ``reading`` of a model that is no original, and what is wrong with it.
    """
    from fewjump.checkpoint.opening import model_place, open_place

    place = model_place(path)
    return Saved(*open_place(place, reading=reading), place)


def tokens_for(model: Saved, source: str | None, count: int, seed: int, steps: int = 64) -> Tensor:
    """Clean tokens (count, L) for a model: rows of its data's test part, or its own samples.

    Args:
        model: what they are for.
        source: as for :func:`fewjump.data.load_data`; None for samples of ``steps`` steps.
        count: how many; fewer if the data have fewer.
        seed: of the choice, or of the sampling.
        steps: of the ancestral sampler.

    Raises:
        ValueError: for data in another vocabulary.
    """
    from fewjump.data import Characters, Vocabulary, load_data
    from fewjump.data.load import BUILTIN
    from fewjump.sampler import sample

    if source is None:
        return sample(model.denoiser, count, steps, generator=seed)
    known = None if model.vocabulary is None else Vocabulary.from_config(model.vocabulary)
    alphabet = None
    if isinstance(known, Characters) and source not in BUILTIN and not source.endswith(".npy"):
        alphabet = known.symbols.replace(known.padding or "", "")
    data = load_data(source, model.denoiser.length, alphabet=alphabet)
    if known is not None and data.vocabulary != known:
        raise ValueError(
            f"the model in {model.folder} speaks {known.name} of {known.size} symbols, but "
            f"{source} has {data.vocabulary.name} of {data.vocabulary.size}; give the data it was "
            "trained on"
        )
    rows = torch.randperm(len(data.test), generator=generator_for(seed, 3))[:count]
    return data.batch(rows, "test")


@torch.no_grad()
def surprise(denoiser: Denoiser, data: Tensor, seed: int, batch_size: int = 128) -> float:
    """−log p(x₀ⁱ|x_t), nats per position, over t = 0.2 … 1 and all of ``data``; less is better.

    Where there is a mask, over masked positions. The noise depends on the seed alone, so that two
    denoisers are judged on the same states.

    Args:
        denoiser: its per-position marginals are judged.
        data: (N, L) clean tokens that it was not trained on.
        seed: of the noise.
        batch_size: rows at a time.
    """
    process, total, count = denoiser.process, 0.0, 0
    for number in range(1, 6):
        generator = generator_for(seed, 20 + number)
        for first in range(0, data.shape[0], batch_size):
            x0, t = data[first : first + batch_size], number / 5
            x_t = process.corrupt(x0, 0.0, t, generator)
            picked = denoiser(x_t, t).marginals().gather(-1, x0[..., None])[..., 0]
            keep = x_t == process.mask if isinstance(process, Absorbing) else x_t >= 0
            total -= float(picked.double().clamp(min=1e-9).log()[keep].sum())
            count += int(keep.sum())
    return total / count
