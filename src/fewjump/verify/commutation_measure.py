"""Do the generators of different times commute, and what does it cost to pretend so?

If every [Q_t, Q_u] vanishes, P_{t|s} = exp(∫ Q_u du). If not, that closed form is wrong, and the
kernel is the time-ordered exponential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewjump.process import Absorbing, Process, Uniform, gidd, mask_to_uniform
from fewjump.process.exponential import exponential_from_series
from fewjump.process.flow import DenseFlow
from fewjump.process.generators import close_rows
from fewjump.process.rate_path import SampledRates
from fewjump.schedule import Cosine, Geometric, Linear, LogLinear, Schedule

#: Relative commutators below this are rounding.
COMMUTES = 1e-10
TOLERANCE = 1e-9
_NODES = 16


@dataclass(frozen=True)
class Commutation:
    """What was found for one generator.

    Attributes:
        name: whose.
        times: the grid.
        commutators: at each time, the largest ‖[Q_t, Q_u]‖/(‖Q_t‖·‖Q_u‖) over the other times u.
        largest: the largest of them.
        between: the two times of the largest.
        errors: at each time, total variation between exp(∫₀ᵗ Q) and the time-ordered kernel, for
            the worst token.
        reference_error: what the reference itself may be off by.
    """

    name: str
    times: list[float]
    commutators: list[float]
    largest: float
    between: tuple[float, float]
    errors: list[float]
    reference_error: float

    @property
    def commutes(self) -> bool:
        """Whether the generators commute, up to rounding."""
        return self.largest <= COMMUTES

    @property
    def worst_error(self) -> float:
        """The largest error of the closed form."""
        return max(self.errors)

    def row(self) -> dict[str, Any]:
        """As plain data, with ``commutes`` and ``worst_error``."""
        return {**asdict(self), "commutes": self.commutes, "worst_error": self.worst_error}


def commutation(
    generator: Process | Callable[[float], Tensor],
    name: str | None = None,
    times: Sequence[float] | int = 17,
) -> Commutation:
    """Measure one generator.

    Args:
        generator: a process, whose ``rate(t)`` is taken; or a function from t in [0, 1] to the rate
            matrix Q_t (V, V), ``[a, b]`` the rate a → b.
        name: what to call it.
        times: the grid, increasing in (0, 1]; or how many, evenly spaced.

    Raises:
        ValueError: if it is no generator, is too large to be dense, or moves too fast to be
            resolved to 1e-9.
    """
    if isinstance(times, int):
        times = [(k + 1) / times for k in range(times)]
    grid = torch.tensor(list(times), dtype=torch.float64)
    if grid.numel() < 2 or bool((grid.diff() <= 0).any()) or not 0 < grid[0] < grid[-1] <= 1:
        raise ValueError(f"times must be at least 2 increasing numbers in (0, 1], got {times}")
    schedule: Schedule = generator.schedule if isinstance(generator, Process) else Linear(1.0)
    path = SampledRates(_per_noise(generator))
    relative = _commutators(path.dense(grid))
    first, second = divmod(int(relative.argmax()), grid.numel())
    levels = schedule.level(grid)
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), levels])
    inner = schedule.sigma_bar(0.0).reshape(1)
    edges = torch.cat([edges, inner[(inner > 0) & (inner < levels[-1])]]).unique()
    flow = DenseFlow(path, schedule.time_of_sigma_bar, edges, TOLERANCE)
    exact = flow.matrices(torch.zeros_like(levels), levels)
    errors = []
    for total, kernel in zip(_integrals(path, schedule, edges, levels), exact, strict=True):
        closed = exponential_from_series(close_rows(total), torch.ones(1, dtype=torch.float64))[0]
        errors.append(float((closed - kernel).abs().sum(-1).max()) / 2)
    return Commutation(
        name=name or (repr(generator) if isinstance(generator, Process) else "this generator"),
        times=grid.tolist(),
        commutators=relative.amax(1).tolist(),
        largest=float(relative.max()),
        between=(float(grid[first]), float(grid[second])),
        errors=errors,
        reference_error=flow.error,
    )


def _per_noise(generator: Process | Callable[[float], Tensor]) -> Callable[[float], Tensor]:
    """The generator in units of the noise rate, as a function of time."""
    if not isinstance(generator, Process):
        function = generator
        return lambda t: function(t).double()
    process = generator
    return lambda t: process.rate(t) / process.schedule.sigma(t)


def _commutators(rates: Tensor) -> Tensor:
    """‖[Q_t, Q_u]‖/(‖Q_t‖·‖Q_u‖) in the Frobenius norm: (M, V, V) → (M, M)."""
    norms = rates.flatten(1).norm(dim=1)
    out = torch.zeros(len(rates), len(rates), dtype=torch.float64)
    for k, rate in enumerate(rates):
        bracket = rate @ rates - rates @ rate
        out[k] = bracket.flatten(1).norm(dim=1)
    return out / (norms[:, None] * norms).clamp(min=1e-300)


def _integrals(
    path: SampledRates, schedule: Schedule, edges: Tensor, levels: Tensor
) -> list[Tensor]:
    """∫₀ of R over the noise, up to each of ``levels`` (all of them edges)."""
    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(_NODES))
    total = torch.zeros(path.vocab_size, path.vocab_size, dtype=torch.float64)
    out = []
    for start, end in pairwise(edges):
        half = (end - start) / 2
        rates = path.dense(schedule.time_of_sigma_bar(start + half * (1 + nodes)))
        total = total + half * torch.einsum("n,nab->ab", weights, rates)
        if bool((levels == end).any()):
            out.append(total)
    return out


def families(vocab_size: int = 6) -> dict[str, tuple[Process, bool]]:
    """The original models' noise, over ``vocab_size`` clean tokens, and whether it commutes."""
    masked = vocab_size + 1
    return {
        "SEDD absorbing": (Absorbing(masked, LogLinear()), True),
        "SEDD uniform": (Uniform(vocab_size, Geometric()), True),
        "MDLM": (Absorbing(masked, LogLinear(eps=1e-5)), True),
        "UDLM": (Uniform(vocab_size, LogLinear()), True),
        "Duo": (Uniform(vocab_size, Cosine()), True),
        "GIDD hybrid": (gidd(masked, LogLinear(), peak=0.2), False),
        "mask to uniform": (mask_to_uniform(masked, LogLinear()), False),
    }
