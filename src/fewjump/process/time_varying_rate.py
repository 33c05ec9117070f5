"""Any generator that changes with time: Q_t = σ(t)·R(t), time-ordered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fewjump.process.base import Process, check_dense, check_times, expand_time
from fewjump.process.condition import largest_singular_value
from fewjump.process.flow import ActionFlow, DenseFlow, Flow
from fewjump.process.generators import stationary_law
from fewjump.process.rate_path import RatePath, SampledRates
from fewjump.random import Generator, invert_cdf, uniform
from fewjump.schedule import Schedule, Time, as_time

Route = Literal["auto", "dense", "action"]

# Above this the steps of a dense flow are slower than what they save.
_DENSE_STATES = 256
_KERNELS_KEPT = 32
_UNMIXED = 0.05
_POWER_STEPS = 40
_CHUNK_ELEMENTS = 1 << 23


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
        if mask is not None and not 0 <= mask < path.vocab_size:
            raise ValueError(f"mask must lie in [0, {path.vocab_size}), got {mask}")
        self.path, self.schedule, self.mask = path, schedule, mask
        self.vocab_size = path.vocab_size
        self.tolerance, self.route = tolerance, route
        dense = route == "dense" or (
            route == "auto" and not path.sparse and path.vocab_size <= _DENSE_STATES
        )
        self.flow: Flow = (DenseFlow if dense else ActionFlow)(
            path, self._times, self._first_edges(), tolerance
        )
        self._kernels: dict[tuple[float, float], Tensor] = {}
        self._limit, left = self._limit_law()
        if left > _UNMIXED:
            warnings.warn(
                f"at t = 1 the slowest mode of this chain still has weight {left:.2g}, so its "
                "limit law is a poor start for generation; use a schedule with more total noise",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"TimeVaryingRate(vocab_size={self.vocab_size}, schedule={self.schedule})"

    def config(self) -> dict[str, Any]:
        return {
            "name": "TimeVaryingRate",
            "rate": self.path.config(),
            "mask": self.mask,
            "tolerance": self.tolerance,
            "route": self.route,
            "schedule": self.schedule.config(),
        }

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

    def kernel(self, s: Time, t: Time) -> Tensor:
        check_times(s, t)
        begin, finish = torch.broadcast_tensors(as_time(s).double(), as_time(t).double())
        check_dense(self.vocab_size, finish.numel())
        if finish.dim():
            levels = torch.stack(self._levels(begin, finish, finish.numel()))
            pairs, index = levels.unique(dim=1, return_inverse=True)
            return self.flow.matrices(*pairs)[index].to(finish.device)
        key = (float(begin), float(finish))
        if key not in self._kernels:
            if len(self._kernels) >= _KERNELS_KEPT:
                self._kernels.pop(next(iter(self._kernels)))
            with torch.inference_mode(False):
                self._kernels[key] = self.flow.matrices(*self._levels(begin, finish, 1))[0]
        return self._kernels[key].to(finish.device)

    def condition_number(self, t: Time) -> Tensor:
        """2-norm condition number of P_{t|0}; from 256 states on the action route estimates it.

        The estimate, by power iterations on P and P⁻¹, approaches it from below.
        """
        if not isinstance(self.flow, ActionFlow) or self.vocab_size <= _DENSE_STATES:
            return super().condition_number(t)
        check_times(0.0, t)
        when = as_time(t).double()
        start, end = self._levels(0.0, when, max(1, when.numel()))
        flow = self.flow
        largest = largest_singular_value(
            lambda v: flow.pull(flow.push(v, start, end), start, end), len(end), self.vocab_size
        )
        smallest = largest_singular_value(
            lambda v: flow.pull_inverse(flow.push_inverse(v, start, end), start, end),
            len(end),
            self.vocab_size,
        )
        return (largest * smallest).reshape(when.shape).to(when.device)

    def weights_from_ratios(self, ratios: Tensor, t: Time) -> Tensor:
        if not isinstance(self.flow, ActionFlow):
            return super().weights_from_ratios(ratios, t)
        flat, start, end = self._flatten(ratios, 0.0, t)
        weights = self.flow.push_inverse(flat, start, end)
        flat = flat.detach()
        residual = self.flow.push(weights.detach(), start, end).sub_(flat).abs_().amax(-1)
        if not bool((residual <= 1e-6 * flat.abs().amax(-1)).all()):
            raise ValueError(
                f"the kernel at t = {t} is singular in float64, so ratios there do not determine a "
                "posterior; use a smaller t, or a denoiser that gives posteriors"
            )
        return weights.reshape(ratios.shape).to(ratios.device)

    # -- draws -----------------------------------------------------------------------------------

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        if not isinstance(self.flow, ActionFlow):
            return super().corrupt(x, s, t, generator)
        check_times(s, t)
        u = uniform(x.shape, generator, x.device).reshape(-1).cpu()
        tokens, start, end, index = self._distinct(x, s, t)
        out = torch.empty(x.numel(), dtype=torch.int64)
        for part in row_parts(tokens.numel(), self.vocab_size):
            rows = self.flow.push(self._one_hot(tokens[part]), start[part], end[part])
            mine = ((index >= part.start) & (index < part.stop)).nonzero()[:, 0]
            for some in row_parts(mine.numel(), self.vocab_size):
                chosen = rows.clamp(min=0)[index[mine[some]] - part.start]
                out[mine[some]] = invert_cdf(chosen, u[mine[some]])
        return out.reshape(x.shape).to(x.device)

    # -- products with the kernel ------------------------------------------------------------

    def _rows(self, s: Time, t: Time, x: Tensor) -> Tensor:
        if not isinstance(self.flow, ActionFlow):
            return super()._rows(s, t, x)
        return self._of_tokens(self.flow.push, s, t, x)

    def _columns(self, s: Time, t: Time, x: Tensor) -> Tensor:
        if not isinstance(self.flow, ActionFlow):
            return super()._columns(s, t, x)
        return self._of_tokens(self.flow.pull, s, t, x)

    def _push(self, rows: Tensor, s: Time, t: Time) -> Tensor:
        if not isinstance(self.flow, ActionFlow):
            return super()._push(rows, s, t)
        flat, start, end = self._flatten(rows, s, t)
        return self.flow.push(flat, start, end).reshape(rows.shape).to(rows)

    def _pull(self, rows: Tensor, s: Time, t: Time) -> Tensor:
        if not isinstance(self.flow, ActionFlow):
            return super()._pull(rows, s, t)
        flat, start, end = self._flatten(rows, s, t)
        return self.flow.pull(flat, start, end).reshape(rows.shape).to(rows)

    def _rate_columns(self, x: Tensor, t: Time) -> Tensor:
        when = as_time(t).double()
        sigma = expand_time(self.schedule.sigma(when).to(x.device), x)[..., None]
        flat = x.reshape(-1).cpu()
        per = max(1, flat.numel() // max(1, when.numel()))
        times = when.reshape(-1).cpu().repeat_interleave(per).expand(flat.numel())
        columns = torch.empty(flat.numel(), self.vocab_size, dtype=torch.float64)
        for part in row_parts(flat.numel(), self.vocab_size):
            ones = torch.ones_like(times[part])
            operator = self.path.operator((times[part],), (1.0,), ones)
            columns[part] = operator.right(self._one_hot(flat[part]))
        return sigma * columns.reshape(*x.shape, -1).to(x.device)

    def _of_tokens(
        self, apply: Callable[[Tensor, Tensor, Tensor], Tensor], s: Time, t: Time, x: Tensor
    ) -> Tensor:
        """``apply`` to the unit vectors of tokens ``x``: (..., V); each distinct one once."""
        check_times(s, t)
        tokens, start, end, index = self._distinct(x, s, t)
        rows = apply(self._one_hot(tokens), start, end)
        return rows.clamp(min=0)[index].reshape(*x.shape, -1).to(x.device)

    def _distinct(self, x: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Distinct (token, start, end), each (K,), and which each position has (numel(x),)."""
        start, end = self._levels(s, t, x.shape[0] if x.dim() else 1)
        per = x.numel() // start.numel()
        pairs, which = torch.stack([start, end]).unique(dim=1, return_inverse=True)
        keys = x.reshape(-1).cpu() + self.vocab_size * which.repeat_interleave(per)
        values, index = keys.unique(return_inverse=True)
        start, end = pairs[:, values // self.vocab_size]
        return values % self.vocab_size, start, end, index

    def _flatten(self, rows: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (..., V) as (N, V) float64 on the CPU, with the noise levels of each."""
        check_times(s, t)
        flat = rows.reshape(-1, self.vocab_size).cpu().double()
        start, end = self._levels(s, t, rows.shape[0] if rows.dim() > 1 else 1)
        per = flat.shape[0] // start.numel()
        return flat, start.repeat_interleave(per), end.repeat_interleave(per)

    def _one_hot(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(tokens, self.vocab_size).double()

    # -- time and noise --------------------------------------------------------------------------

    def _levels(self, s: Time, t: Time, count: int) -> tuple[Tensor, Tensor]:
        """Noise levels of s and t for each of ``count`` elements, on the CPU."""
        levels = [self.schedule.level(as_time(v, "cpu").double()).reshape(-1) for v in (s, t)]
        return levels[0].expand(count), levels[1].expand(count)

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
        if self.vocab_size <= _DENSE_STATES:
            kernel = self.kernel(0.0, 1.0)
            eye = torch.eye(self.vocab_size, dtype=torch.float64)
            law = stationary_law(kernel - eye)
            return law, float(torch.linalg.eigvals(kernel).abs().sort().values[-2])
        # From two starts at once: where they end apart there is no single limit law.
        ramp = torch.arange(1, self.vocab_size + 1, dtype=torch.float64)
        laws = torch.stack([torch.ones_like(ramp), ramp])
        laws = laws / laws.sum(-1, keepdim=True)
        start, end = self._levels(0.0, 1.0, 2)
        changes = [1.0]
        while changes[-1] > 1e-13 and len(changes) < _POWER_STEPS:
            moved = self.flow.push(laws, start, end).clamp(min=0)
            moved = moved / moved.sum(-1, keepdim=True)
            changes.append(float((moved - laws).abs().sum(-1).max()))
            laws = moved
        if float((laws[0] - laws[1]).abs().sum()) > 1e-6:
            raise ValueError(
                "where this chain ends depends on where it starts, so that there is no law to "
                "start generation from; connect its states, or use more noise"
            )
        return laws[0], changes[2] / changes[1] if len(changes) > 2 and changes[1] > 0 else 0.0


def row_parts(count: int, width: int) -> list[slice]:
    """Slices of {0..count−1} of at most 2²³ entries with ``width`` a row."""
    rows = max(1, _CHUNK_ELEMENTS // width)
    return [slice(i, min(i + rows, count)) for i in range(0, count, rows)]
