"""Any generator that changes with time: Q_t = σ(t)·R(t), time-ordered."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from fewjump.inversion import row_chunks
from fewjump.process.base import Process, check_mask
from fewjump.process.flow import CHUNK_ELEMENTS, ActionFlow, DenseFlow, Flow
from fewjump.process.generators import birth_death_rate, stationary_law, warn_if_unmixed
from fewjump.process.kernel import DENSE_STATES, Kernel, checked_times, expand_time
from fewjump.process.rate_path import (
    RatePath,
    SampledRates,
    SummedRates,
    rate_path_from_config,
)
from fewjump.schedule import Schedule, Time, as_time

Route = Literal["auto", "dense", "action"]

_KERNELS_KEPT = 32
_POWER_STEPS = 40


class TimeVaryingRate(Process):
    """A chain with rate σ(t)·R(t), for generators that need not commute.

    The kernel is the time-ordered exponential, by fourth-order Magnus steps in the noise level
    whose widths are found once by step doubling, to a stated tolerance
    (:mod:`fewjump.process.flow`). With ``Linear(1.0)`` as schedule R is the generator itself.

    Two routes: *dense* keeps the steps as matrices, for up to a few hundred states; *action*
    multiplies vectors by sparse or dense R and never builds a kernel, at the cost of one pass over
    the steps for every call. Both compute on the CPU.

    Generation starts from the law that noising to t = 1 leaves unchanged; a warning says when the
    chain does not forget its start by then.

    Args:
        rate: a :class:`~fewjump.process.rate_path.RatePath`, or a function float → (V, V), dense or
            sparse, ``[a, b]`` the rate a → b; with a function the process cannot be saved.
        schedule: the noise schedule.
        mask: a state that no clean sequence holds, if there is one.
        tolerance: of the kernel, in the largest row sum of absolute differences.
        route: ``auto`` is dense for up to 256 states with dense R, and the action otherwise.

    Raises:
        ValueError: if R is not a generator, if the dense route is asked for where its matrices
            would not fit, if R moves too fast for the tolerance, or if where the chain ends depends
            on where it starts.
    """

    def __init__(
        self,
        rate: RatePath | Callable[[float], Tensor],
        schedule: Schedule,
        mask: int | None = None,
        tolerance: float = 1e-9,
        route: Route = "auto",
    ) -> None:
        if route not in get_args(Route):
            raise ValueError(f"unknown route {route!r}; known: {', '.join(get_args(Route))}")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie in (0, 1), got {tolerance}")
        path = rate if isinstance(rate, RatePath) else SampledRates(rate)
        self.path, self.schedule = path, schedule
        self.vocab_size = path.vocab_size
        self.mask = check_mask(mask, path.vocab_size)
        self.tolerance, self.route = tolerance, route
        dense = route == "dense" or (
            route == "auto" and not path.sparse and path.vocab_size <= DENSE_STATES
        )
        self.flow: Flow = (DenseFlow if dense else ActionFlow)(
            path, self._times, self._first_edges(), tolerance
        )
        self._kernels: dict[tuple[float, float], Kernel] = {}
        self._limit, left = self._limit_law()
        warn_if_unmixed(left)

    @classmethod
    def from_config(cls, options: dict[str, Any]) -> Self:
        if isinstance(options.get("rate"), dict):
            options["rate"] = rate_path_from_config(options["rate"])
        return cls(**options)

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        walk = birth_death_rate(4, up=1.5, down=1.0)
        jumps = torch.ones(4, 4, dtype=torch.float64) - 4 * torch.eye(4, dtype=torch.float64)
        path = SummedRates([walk, jumps], [0, 1], [[1, 0.2], [0, 1]])
        return cls(path, schedule, tolerance=1e-12)

    def config(self) -> dict[str, Any]:
        return self._described(
            rate=self.path.config(), mask=self.mask, tolerance=self.tolerance, route=self.route
        )

    def prior(self) -> Tensor:
        return self._limit

    @property
    def error(self) -> float:
        """The error of P_{1|0} that step doubling estimated."""
        return self.flow.error

    def rate(self, t: Time) -> Tensor:
        when = as_time(t).double()
        sigma = self.schedule.sigma(when)[..., None, None]
        rates = self.path.dense(when.reshape(-1).cpu())
        return sigma * rates.reshape(*when.shape, *rates.shape[1:]).to(sigma.device)

    def kernel(self, s: Time, t: Time) -> Kernel:
        times = torch.broadcast_tensors(*checked_times(s, t))
        start, end = (self.schedule.level(v.cpu()) for v in times)
        if end.dim():
            return self.flow.kernel(start, end)
        key = (float(start), float(end))
        if key not in self._kernels:
            if len(self._kernels) >= _KERNELS_KEPT:
                self._kernels.pop(next(iter(self._kernels)))
            self._kernels[key] = self.flow.kernel(start, end)
        return self._kernels[key]

    def rate_columns(self, x: Tensor, t: Time) -> Tensor:
        when = as_time(t).double()
        sigma = expand_time(self.schedule.sigma(when).to(x.device), x)[..., None]
        flat = x.reshape(-1).cpu()
        per = max(1, flat.numel() // max(1, when.numel()))
        times = when.reshape(-1).cpu().repeat_interleave(per).expand(flat.numel())
        columns = torch.empty(flat.numel(), self.vocab_size, dtype=torch.float64)
        for part in row_chunks(flat.numel(), self.vocab_size, CHUNK_ELEMENTS):
            ones = torch.ones_like(times[part])
            operator = self.path.operator((times[part],), (1.0,), ones)
            columns[part] = operator.right(
                torch.nn.functional.one_hot(flat[part], self.vocab_size).double()
            )
        return sigma * columns.reshape(*x.shape, -1).to(x.device)

    # -- time and noise --------------------------------------------------------------------------

    def _times(self, level: Tensor) -> Tensor:
        return self.schedule.time_of_sigma_bar(level)

    def _first_edges(self) -> Tensor:
        """Noise levels that steps must not cross, and a start for refining them."""
        last = float(self.schedule.level(1.0))
        count = max(4, math.ceil(last))
        levels = torch.linspace(0, last, count + 1, dtype=torch.float64)
        kinks = torch.tensor([0.0, *self.path.kinks], dtype=torch.float64)
        # A schedule that starts above zero stays at time 0 until it is there.
        inner = self.schedule.sigma_bar(kinks)
        inner = inner[(inner > 0) & (inner < last)]
        return torch.cat([levels, inner]).unique()

    def _limit_law(self) -> tuple[Tensor, float]:
        """The law that P_{1|0} leaves unchanged, and the weight of its slowest mode."""
        if self.vocab_size <= DENSE_STATES:
            kernel = self.kernel(0.0, 1.0).dense()
            eye = torch.eye(self.vocab_size, dtype=torch.float64)
            law = stationary_law(kernel - eye)
            return law, float(torch.linalg.eigvals(kernel).abs().sort().values[-2])
        # From two starts at once: where they end apart there is no single limit law.
        ramp = torch.arange(1, self.vocab_size + 1, dtype=torch.float64)
        laws = torch.stack([torch.ones_like(ramp), ramp])
        laws = laws / laws.sum(-1, keepdim=True)
        kernel = self.kernel(0.0, 1.0)
        changes = [1.0]
        while changes[-1] > 1e-13 and len(changes) < _POWER_STEPS:
            moved = kernel.push(laws).clamp(min=0)
            moved = moved / moved.sum(-1, keepdim=True)
            changes.append(float((moved - laws).abs().sum(-1).max()))
            laws = moved
        if float((laws[0] - laws[1]).abs().sum()) > 1e-6:
            raise ValueError(
                "where this chain ends depends on where it starts, so that there is no law to "
                "start generation from; connect its states, or use more noise"
            )
        return laws[0], changes[2] / changes[1] if len(changes) > 2 and changes[1] > 0 else 0.0
