"""Time grids: where to stop between noise (1) and data (0).

========== ======================================================================================
name       times t_k, k = 0 … K
========== ======================================================================================
uniform    1 − k/K
cosine     cos(πk/2K): fine steps near noise, coarse ones near data
log-linear equally spaced in log σ̄ from σ̄(1) down to σ̄(1/K), the last positive time of the
           uniform grid; then 0. Fine steps near data
fitted     the K intervals that lose the least, found from the denoiser itself
           (:mod:`fewjump.sampler.fitted_grid`)
========== ======================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fewjump.config import MOST_STEPS
from fewjump.denoiser.base import Denoiser
from fewjump.registry import ENTRY_POINTS
from fewjump.schedule import Schedule

GridSpec: TypeAlias = str | Sequence[float] | Tensor

FITTED = "fitted"


def uniform_grid(steps: int, schedule: Schedule) -> Tensor:
    """Equally spaced times: (steps + 1,) float64."""
    del schedule
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def cosine_grid(steps: int, schedule: Schedule) -> Tensor:
    """cos(πk/2K), the number of masked tokens of MaskGIT (arXiv 2202.04200): (steps + 1,)."""
    del schedule
    times = torch.cos(torch.linspace(0, math.pi / 2, steps + 1, dtype=torch.float64))
    times[-1] = 0
    return times


def log_linear_grid(steps: int, schedule: Schedule) -> Tensor:
    """Equally spaced in log σ̄ from t = 1 to t = 1/steps, then 0: (steps + 1,)."""
    first = schedule.sigma_bar(1.0).log()
    last = schedule.sigma_bar(1 / steps).log()
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    times = schedule.time_of_sigma_bar(torch.exp(first + (last - first) * share))
    times[0] = 1
    return torch.cat([times, times.new_zeros(1)])


GRIDS: dict[str, Callable[[int, Schedule], Tensor]] = {
    "uniform": uniform_grid,
    "cosine": cosine_grid,
    "log-linear": log_linear_grid,
}


def time_grid(spec: GridSpec | None, steps: int | None, schedule: Schedule) -> Tensor:
    """The times of a trajectory.

    Args:
        spec: a name of :data:`GRIDS` (None is ``uniform``), or the times themselves.
        steps: number of intervals K ≥ 1; may be None when the times are given.
        schedule: of the process.

    Returns:
        (K + 1,) float64 on the CPU, strictly decreasing, within [0, 1].

    Raises:
        ValueError: for an unknown name, fewer than one step, times that are not strictly
            decreasing within [0, 1], or a ``steps`` that does not agree with them.
    """
    if spec is None or isinstance(spec, str):
        name = spec or "uniform"
        if name == FITTED:
            raise ValueError(
                "the fitted grid depends on the denoiser; use fewjump.sampler.fitted_grid, and "
                "pass its times"
            )
        if name not in GRIDS:
            known = ", ".join((*GRIDS, FITTED))
            raise ValueError(f"unknown grid {name!r}; known: {known}, or a list of times")
        times = GRIDS[name](_whole(steps), schedule)
    else:
        times = torch.as_tensor(spec, dtype=torch.float64).detach().cpu()
        if times.dim() != 1 or times.numel() < 2:
            raise ValueError("a grid needs at least two times, for example [1.0, 0.5, 0.0]")
        if steps is not None and steps != times.numel() - 1:
            raise ValueError(
                f"the grid has {times.numel() - 1} intervals but steps={steps}; "
                "leave steps=None, or make them agree"
            )
    if not bool((times[1:] < times[:-1]).all()) or not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError(
            f"times must decrease strictly within [0, 1], from noise to data; got {times.tolist()}"
        )
    return times


def _whole(steps: Any) -> int:
    # NumPy's numbers are counted too.
    number = issubclass(type(steps), Real) and not isinstance(steps, bool)
    if not number or not 1 <= steps <= MOST_STEPS or steps % 1:
        raise ValueError(
            f"steps must be an integer of at least 1 and at most {MOST_STEPS}, got {steps!r}"
        )
    return int(steps)


def times_for(
    spec: GridSpec | None, steps: int | None, denoiser: Denoiser, length: int | None = None
) -> Tensor:
    """:func:`time_grid`, and for ``fitted`` the grid fitted to the denoiser's own samples.

    Raises:
        ValueError: as :func:`time_grid` does; for ``fitted``, for a denoiser of joint laws.
    """
    times = check_spec(spec, steps, denoiser.process.schedule)
    return ENTRY_POINTS[FITTED](denoiser, steps, length) if is_fitted(spec) else times


def is_fitted(spec: GridSpec | None) -> bool:
    """Whether the times depend on the denoiser."""
    return isinstance(spec, str) and spec == FITTED


def check_spec(spec: GridSpec | None, steps: int | None, schedule: Schedule) -> Tensor:
    """:func:`time_grid`; for ``fitted``, of which only ``steps`` is judged, the uniform one."""
    return time_grid("uniform" if is_fitted(spec) else spec, steps, schedule)
