"""Time grids fitted to a denoiser: the K intervals that lose the least.

What is minimised is the path KL of the ancestral sampler (:mod:`fewjump.sampler.interval_cost`),
which bounds the KL of what it emits. *Jump Your Steps* (arXiv 2410.07761) chooses times by a bound
of the same loss; here it is computed, up to a constant that no grid changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser, eval_mode
from fewjump.law.product import as_product
from fewjump.random import SampleStreams, draw_seed, fold_seed
from fewjump.sampler.carried import carried_grid
from fewjump.sampler.interval_cost import forward_entropies, reverse_entropies
from fewjump.sampler.prior_law import check_product
from fewjump.sampler.run import run
from fewjump.sampler.time_grid import time_grid

_GROUPS = 8
_NOISE, _ROLLOUT = 1, 2
_ROLLOUT_STEPS = 64


@dataclass(frozen=True)
class FittedGrid:
    """Times for a number of steps, and what they are worth.

    Attributes:
        times: (K + 1,) float64 from 1 to 0, for ``grid=``.
        saving: nats per sequence by which the path KL lies below that of the uniform grid, as the
            denoiser sees it. Grids are fitted to seven eighths of the samples and judged on the
            others in turn, so that it is not the fit's own optimism; it may be negative.
        saving_error: its standard error.
    """

    times: Tensor
    saving: float
    saving_error: float


class _StratifiedStreams(SampleStreams):
    """Uniforms that cover (0, 1) evenly over the samples of a group, entry by entry.

    Each alone is uniform, those of one sample are independent; only samples know of each other.

    Args:
        seed: as for the base class.
        size: (G,) int64, samples of each group, in order.
    """

    def __init__(self, seed: int, size: Tensor) -> None:
        super().__init__(seed, torch.arange(int(size.sum()), device=size.device))
        self.size = size.tolist()

    def uniform(self, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        inside = super().uniform(shape, device)
        keys = super().uniform(shape, device)
        ranks = [part.argsort(0).argsort(0) for part in keys.split(self.size)]
        size = torch.tensor(self.size, dtype=torch.float64, device=keys.device)
        width = size.reciprocal().repeat_interleave(size.long())
        return (torch.cat(ranks) + inside) * width.reshape(-1, *(1,) * (len(shape) - 1))


@torch.no_grad()
def interval_costs(
    denoiser: Denoiser,
    x0: Tensor,
    candidates: Sequence[float] | Tensor,
    generator: torch.Generator | int | None = None,
    *,
    batch_size: int = 256,
) -> IntervalCosts:
    """Estimate what every interval costs, at one network evaluation a candidate time and batch.

    All times share their noise, so that costs of different intervals err together, and each
    position's noise is spread evenly over the samples (Latin hypercube sampling).

    Args:
        denoiser: of product laws; put in eval mode meanwhile.
        x0: (N, L) int64 clean sequences, at least 2.
        candidates: increasing times from 0 to 1.
        generator: a seed, a generator that one seed is drawn from, or None.
        batch_size: sequences at once.

    Raises:
        ValueError: for times or samples that make no sense, or a law that is not a product.
    """
    times = torch.as_tensor(candidates, dtype=torch.float64)
    _check(denoiser, x0, times)
    process, device = denoiser.process, denoiser.device
    seed = fold_seed(draw_seed(generator), _NOISE)
    groups = min(_GROUPS, x0.shape[0])
    group = torch.arange(x0.shape[0], device=device) * groups // x0.shape[0]
    size = torch.bincount(group, minlength=groups)
    points = times.tolist()
    costs = torch.full((groups, len(points), len(points)), torch.inf, dtype=torch.float64)
    x0 = x0.to(device)
    counts = torch.zeros(groups, process.vocab_size, dtype=torch.float64, device=device)
    counts.index_put_((group[:, None], x0), counts.new_ones(()), accumulate=True)
    counted = denoiser.evaluations
    with eval_mode(denoiser):
        for j, t in enumerate(points[1:], 1):
            x_t = process.corrupt(x0, 0.0, t, _StratifiedStreams(seed, size))
            total = counts.new_zeros(groups, j)
            for rows in torch.arange(x0.shape[0], device=device).split(batch_size):
                law = as_product(denoiser(x_t[rows], t))
                total.index_add_(
                    0, group[rows], reverse_entropies(law, process, x_t[rows], t, points[:j])
                )
            total -= forward_entropies(process, counts, t, points[:j])
            costs[:, :j, j] = (total / size[:, None]).cpu()
    denoiser.evaluations = counted
    return IntervalCosts(times, costs)


def fitted_grid(
    denoiser: Denoiser,
    x0: Tensor | None,
    steps: int,
    *,
    candidates: int | Sequence[float] | Tensor = 32,
    samples: int = 256,
    length: int | None = None,
    generator: torch.Generator | int | None = 0,
    batch_size: int = 256,
) -> FittedGrid:
    """The best times for ``steps`` ancestral steps of a denoiser, found from the denoiser alone.

    Args:
        denoiser: of product laws: a teacher, or a product student.
        x0: (N, L) int64 clean data; None for the denoiser's own samples, of 64 steps.
        steps: K ≥ 1, intervals of the grid.
        candidates: number of equal intervals of [0, 1] whose ends may be chosen, or those times;
            the times of the uniform grid are always among them.
        samples: sequences used, the first of ``x0``.
        length: L of the denoiser's own samples; the denoiser's by default.
        generator: a seed (0 by default, so that a fit can be repeated), a generator that one seed
            is drawn from, or None for torch's global one.
        batch_size: sequences at once.

    The cost is ``samples`` × (candidates + steps) rows through the network, 64 × ``samples`` more
    without data, and one pass over the vocabulary for each row (masked), or each row and earlier
    time (other processes).

    Raises:
        ValueError: for arguments that make no sense, or a denoiser of joint laws, whose steps do
            not lose what is minimised here.
    """
    uniform = time_grid("uniform", steps, denoiser.process.schedule)
    times = _candidates(candidates, uniform)
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    seed = draw_seed(generator)
    check_product(denoiser, length if x0 is None else x0.shape[-1])
    if x0 is None:
        rollout = fold_seed(seed, _ROLLOUT)
        x0 = run(denoiser, samples, _ROLLOUT_STEPS, generator=rollout, length=length).samples
    table = interval_costs(denoiser, x0[:samples], times, seed, batch_size=batch_size)
    groups = table.costs.shape[0]
    savings = []
    for held in range(groups):
        others = [g for g in range(groups) if g != held]
        judged = IntervalCosts(times, table.costs[[held]])
        chosen = IntervalCosts(times, table.costs[others]).best(int(steps))
        savings.append(judged.total(uniform) - judged.total(chosen))
    saved = torch.cat(savings)
    return FittedGrid(
        times=table.best(int(steps)),
        saving=float(saved.mean()),
        saving_error=float(saved.std() / groups**0.5),
    )


_REMEMBERED: WeakKeyDictionary[Denoiser, dict[tuple[Any, ...], Tensor]] = WeakKeyDictionary()


def remembered_grid(denoiser: Denoiser, steps: int, length: int | None) -> Tensor:
    """``grid="fitted"``: the grid that the denoiser carries, or :func:`fitted_grid` to its samples.

    It is fitted once, and again where a weight has been written to since. A denoiser that was given
    classes is asked for by the same classes of the same model.
    """
    asked, model = denoiser.condition, denoiser.unconditioned
    given = () if asked is None else (asked.labels, asked.scale)
    weights = (*denoiser.parameters(), *denoiser.buffers())
    key = (
        *(None if part is None else tuple(part.tolist()) for part in given),
        int(steps),
        length or 0,
        *(w.data_ptr() for w in weights),
        *(w._version for w in weights),
    )
    kept = _REMEMBERED.setdefault(model, {})
    if key not in kept:
        times = carried_grid(denoiser, int(steps), length)
        if times is None:
            times = fitted_grid(denoiser, None, steps, length=length).times
        kept[key] = times
    return kept[key].clone()


def _candidates(candidates: int | Sequence[float] | Tensor, uniform: Tensor) -> Tensor:
    if isinstance(candidates, int):
        if candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {candidates}")
        times = torch.linspace(0, 1, candidates + 1, dtype=torch.float64)
    else:
        times = torch.as_tensor(candidates, dtype=torch.float64).detach().cpu().reshape(-1)
    times = torch.cat([times, uniform]).sort().values
    # Equal times may differ in their last bit.
    apart = torch.cat([times.diff() > 1e-9, torch.ones(1, dtype=torch.bool)])
    return times[apart]


def _check(denoiser: Denoiser, x0: Tensor, times: Tensor) -> None:
    increasing = times.dim() == 1 and len(times) > 1 and bool((times.diff() > 0).all())
    if not increasing or times[0] != 0 or times[-1] != 1:
        raise ValueError(f"candidate times must increase from 0 to 1, got {times.tolist()}")
    if x0.dim() != 2 or x0.shape[0] < 2:
        raise ValueError(f"x0 must be (N, L) with at least 2 sequences, got {tuple(x0.shape)}")
    if not 0 <= int(x0.min()) <= int(x0.max()) < denoiser.clean_vocab_size:
        raise ValueError(f"x0 must hold clean tokens, below {denoiser.clean_vocab_size}")
    check_product(denoiser, x0.shape[1])


@dataclass(frozen=True)
class IntervalCosts:
    """The cost of every interval between candidate times.

    Attributes:
        times: (M,) float64, increasing from 0 to 1.
        costs: (G, M, M) float64, nats per sequence: [g, s, t] is TC(x_s|x_t) + H(x_s) − H(x_t) as
            group g of the samples has it; +inf unless s < t.
    """

    times: Tensor
    costs: Tensor

    def total(self, grid: Sequence[float] | Tensor) -> Tensor:
        """The cost of a grid of candidate times, by group of samples: (G,).

        Path KLs of two grids that both run from 1 to 0 differ as these do.

        Raises:
            ValueError: for a time that is not a candidate.
        """
        times = torch.as_tensor(grid, dtype=torch.float64)
        distance, place = (times[:, None] - self.times).abs().min(-1)
        if bool((distance > 1e-12).any()):
            raise ValueError(f"{times.tolist()} are not all among the candidate times")
        return self.costs[:, place[1:], place[:-1]].sum(-1)

    def best(self, steps: int) -> Tensor:
        """The cheapest grid of ``steps`` intervals from 1 to 0: (steps + 1,) float64.

        Raises:
            ValueError: if there are not as many candidate intervals.
        """
        if not 1 <= steps < len(self.times):
            raise ValueError(
                f"{len(self.times)} candidate times have no grid of {steps} steps; give more "
                "candidates, or ask for 1 step or more"
            )
        return self.times[cheapest_path(self.costs.mean(0), steps)]


def cheapest_path(costs: Tensor, steps: int) -> Tensor:
    """Indices from M − 1 down to 0 in ``steps`` jumps of least total cost: (steps + 1,) int64.

    Args:
        costs: (M, M), [s, t] for the jump from t to s; +inf where there is none.
        steps: number of jumps.
    """
    reached = torch.full_like(costs[0], torch.inf)
    reached[0] = 0.0
    choices: list[Tensor] = []
    for _ in range(steps):
        reached, before = (reached[:, None] + costs).min(0)
        choices.append(before)
    path = [costs.shape[0] - 1]
    for before in reversed(choices):
        path.append(int(before[path[-1]]))
    return torch.tensor(path)
