"""Samplers learned for a model, which it carries: saved with it, and its default.

A model carries plain data: for each number of steps the times, the multipliers and the sampler that
they scale (:class:`fewjump.sampler.Scaled`). A model that is trained further loses them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.options.sampled import ScaledName
from fewjump.sampler.base import Sampler, get_sampler
from fewjump.sampler.carried_grids import decreasing
from fewjump.sampler.scaled import Scaled
from fewjump.sampler.time_grid import GridSpec


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
    steps, with its own times, where neither a grid nor an end without the final draw is asked for;
    else ``ancestral``, or what would be scaled.

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
    return get_sampler("ancestral") if method is None else method, grid


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
