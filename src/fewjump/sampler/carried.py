"""What a model carries for its samplers: grids that were fitted to it, and samplers learned for it.

Both are plain data, and saved with it. Grids have a digest of what they were fitted to, and for
each number of steps and length the times; ``grid="fitted"`` takes them where the digest is still
the model's. Samplers have for each number of steps the times, the multipliers and the sampler that
they scale (:class:`fewjump.sampler.Scaled`), which is the model's default there; a model that is
trained further loses them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.wrappers import unwrapped
from fewjump.options.sampled import ScaledName
from fewjump.sampler.base import Sampler, get_sampler
from fewjump.sampler.scaled import Scaled
from fewjump.sampler.time_grid import GridSpec, time_grid


def carry_grid(
    denoiser: Denoiser, times: Sequence[float] | Tensor, length: int | None = None
) -> None:
    """Let a model carry a grid, for as many steps as it has; saving the model saves it.

    Grids that were kept for other weights or another process are dropped.

    Args:
        denoiser: one that can be saved.
        times: from noise to data, for example ``fitted_grid(...).times``.
        length: L that they were fitted at; the denoiser's by default.

    Raises:
        ValueError: for times that are no grid, or a denoiser without a configuration.
    """
    grid = time_grid(torch.as_tensor(times, dtype=torch.float64), None, denoiser.process.schedule)
    digest = model_digest(denoiser)
    if digest is None:
        raise ValueError(
            f"a {type(denoiser).__name__} cannot be saved, so that it carries no grids; pass the "
            "times as grid="
        )
    entry = {
        "steps": grid.numel() - 1,
        "length": denoiser.length if length is None else int(length),
        "times": grid.tolist(),
    }
    kept = denoiser.grids or {}
    others = kept["grids"] if kept.get("digest") == digest else []
    same = ("steps", "length")
    others = [g for g in others if any(g[k] != entry[k] for k in same)]
    denoiser.grids = {"digest": digest, "grids": [*others, entry]}


def carried_grid(denoiser: Denoiser, steps: int, length: int | None) -> Tensor | None:
    """The grid that a model carries for so many steps, or None: (steps + 1,) float64.

    None as well where the model is no longer the one that the grid was fitted to. Of a model that
    was given classes it is the model's, whatever the class.
    """
    denoiser = denoiser.unconditioned
    kept = denoiser.grids
    if not kept:
        return None
    length = denoiser.length if length is None else length
    for entry in kept["grids"]:
        if (entry["steps"], entry["length"]) == (steps, length):
            if kept["digest"] != model_digest(denoiser):
                return None
            return torch.tensor(entry["times"], dtype=torch.float64)
    return None


def current_grids(denoiser: Denoiser) -> dict[str, Any] | None:
    """What a model carries, for its folder: None where it carries nothing, or has changed since."""
    kept = denoiser.grids
    return kept if kept and kept["digest"] == model_digest(denoiser) else None


def read_grids(data: Any) -> dict[str, Any] | None:
    """Grids as a folder holds them, checked; None for a folder without.

    Raises:
        ValueError: for anything but a digest and entries of steps, length and their times.
    """
    if data is None:
        return None
    try:
        digest, entries = data["digest"], data["grids"]
        if not isinstance(digest, str) or not isinstance(entries, list):
            raise TypeError("a digest and a list of grids are needed")
        read = []
        for entry in entries:
            steps, length = entry["steps"], entry["length"]
            if type(steps) is not int or not (length is None or type(length) is int):
                raise TypeError("steps and length are whole numbers")
            # A list of times is judged without a schedule.
            times = decreasing(entry["times"], steps)
            read.append({"steps": steps, "length": length, "times": times})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the grids of this model cannot be read ({error}); remove 'grids' from its config.json"
        ) from None
    return {"digest": digest, "grids": read}


def model_digest(denoiser: Denoiser) -> str | None:
    """SHA-256 of a model's configuration, process included, and weights; None where it has none."""
    describe = getattr(denoiser, "config", None)
    if describe is None:
        return None
    try:
        described = json.dumps(describe(), sort_keys=True)
    except (TypeError, ValueError):
        # Built on functions, for example: such a model cannot be saved either.
        return None
    found = hashlib.sha256(described.encode())
    for name, value in sorted(unwrapped(denoiser).state_dict().items()):
        plain = value.detach().cpu().contiguous()
        found.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def decreasing(times: Any, steps: int) -> list[float]:
    if not isinstance(times, list) or not all(type(t) in (int, float) for t in times):
        raise TypeError("times are a list of numbers")
    if len(times) != steps + 1 or len(times) < 2:
        raise ValueError(f"{steps} steps have {steps + 1} times, got {len(times)}")
    if not all(1 >= a > b >= 0 for a, b in pairwise(times)):
        raise ValueError("times decrease strictly within [0, 1]")
    return [float(t) for t in times]


def carry_sampler(
    denoiser: Denoiser, times: Tensor, multipliers: Tensor, base: ScaledName = "ancestral"
) -> None:
    """Let a model carry a sampler, for as many steps as it has; saving the model saves it.

    Args:
        denoiser: any.
        times: (K + 1,), from 1 to 0.
        multipliers: (K − 1,), of the steps before the final draw.
        base: the sampler that is scaled.

    Raises:
        ValueError: for values that are no sampler.
    """
    entry = {
        "steps": len(times) - 1,
        "times": times.tolist(),
        "multipliers": multipliers.tolist(),
        "base": base,
    }
    others = [one for one in denoiser.samplers or () if one["steps"] != entry["steps"]]
    denoiser.samplers = read_samplers([*others, entry])


def chosen_sampler(
    denoiser: Denoiser,
    sampler: str | Sampler | None,
    steps: int | None,
    grid: GridSpec | None,
    denoise: bool = True,
) -> tuple[Sampler, GridSpec | None]:
    """The sampler and the grid that are meant.

    None, or ``scaled`` without multipliers, is the one that the model carries for this number of
    steps, with its own times, where neither a grid nor an end without the final draw is asked for.
    Else None is ``ancestral``, position by position in their order (``block=1``) of a masked model
    whose laws are autoregressive, and ``scaled`` is what would be scaled.

    Raises:
        TypeError: for something else than a denoiser.
        ValueError: for a sampler that is unknown.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"a Denoiser is sampled, and this is a {type(denoiser).__name__}; a network from "
            "tokens and times to logits becomes one by LogitDenoiser(network, process, length)"
        )
    method = None if sampler is None else get_sampler(sampler)
    if _is_open(method) and grid is None and denoise:
        for one in denoiser.unconditioned.samplers or ():
            if one["steps"] == steps and (method is None or one["base"] == method.open_base):
                return Scaled(tuple(one["multipliers"]), one["base"]), one["times"]
    if method is None:
        walks = denoiser.autoregressive and denoiser.process.absorbing
        method = get_sampler("ancestral", **({"block": 1} if walks else {}))
    return method, grid


def _is_open(method: Sampler | None) -> bool:
    """Whether the multipliers are for the model to say."""
    return method is None or method.open_base is not None


def not_learned(
    denoiser: Denoiser, sampler: Sampler | None, steps: int | None, grid: GridSpec | None
) -> str | None:
    """What to tell who leaves multipliers to a model that has none for this number of steps."""
    learned = [one["steps"] for one in denoiser.unconditioned.samplers or ()]
    if not _is_open(sampler) or grid is not None or steps in learned:
        return None
    base = "ancestral" if sampler is None else sampler.open_base
    if learned:
        known = ", ".join(map(str, learned))
        return f"this model has a learned sampler for --steps {known}; at {steps}: {base}"
    if sampler is None:
        return None
    return f"this model has no learned sampler: scaled without multipliers is {base}"


def read_samplers(data: Any) -> list[dict[str, Any]] | None:
    """Samplers as a folder holds them, checked; None for a folder without.

    Raises:
        ValueError: for anything but entries of steps, times, multipliers and a base.
    """
    if data is None:
        return None
    read = []
    try:
        for entry in data:
            steps, multipliers = entry["steps"], entry["multipliers"]
            if len(multipliers) != steps - 1:
                raise ValueError(f"{steps} steps have {steps - 1} multipliers")
            scaled = Scaled(multipliers, entry["base"])
            read.append(
                {
                    "steps": steps,
                    "times": decreasing(entry["times"], steps),
                    "multipliers": list(scaled.multipliers),
                    "base": scaled.base,
                }
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the samplers of this model cannot be read ({error}); remove 'samplers' from its "
            "config.json"
        ) from None
    return read
