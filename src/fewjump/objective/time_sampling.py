"""How training draws its times: evenly spread over the batch, and the same for any batch split.

And times that adapt: importance sampling, learned weights, a curriculum of gaps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fewjump.config import one_of
from fewjump.options.matching import Weighting
from fewjump.process import Process
from fewjump.random import Generator, SampleStreams, fold_seed, uniform

Curriculum = Literal["none", "doubling", "halving"]
_GOLDEN = 0.6180339887498949


def spread_uniform(
    batch_size: int, generator: Generator, device: torch.device | str | None = None
) -> Tensor:
    """Float64 uniforms (B,) that cover (0, 1) evenly: frac(u + i·golden ratio), one shared u.

    Each is uniform on its own; together they have low discrepancy, which lowers the variance of
    an average over times. With per-sample streams ``i`` is the sample's global index, so the draw
    does not depend on how a batch is split.
    """
    if isinstance(generator, SampleStreams):
        shared = SampleStreams(fold_seed(generator.seed, generator.calls), torch.zeros(1))
        generator.calls += 1
        start, index = shared.uniform((1,), device), generator.indices.to(device)
    else:
        start = uniform((1,), generator, device)
        index = torch.arange(batch_size, device=device)
    return ((start + index.double() * _GOLDEN) % 1.0).clamp_(min=2.0**-54)


def draw_time_pair(
    batch_size: int,
    generator: Generator,
    device: torch.device | str | None,
    grid: tuple[float, ...] | None,
    min_time: float,
    max_gap: float,
    first: Tensor | None = None,
    second: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Times (s, t), each (B,) float64, with min_time ≤ s < t ≤ 1.

    Without a grid: t uniform on (min_time, 1) and the gap t − s uniform (Algorithm 1). With one:
    t is a grid time other than the last, chosen uniformly, and s lies uniformly between the next
    grid time and t. Gaps never exceed ``max_gap``. ``first`` (B,) takes the place of the spread
    uniforms that t is made of, ``second`` (B,) of those that the gap is made of.
    """
    first = spread_uniform(batch_size, generator, device) if first is None else first
    second = uniform((batch_size,), generator, device) if second is None else second
    if grid is None:
        t = min_time + (1 - min_time) * first
        lowest = torch.full_like(t, min_time)
    else:
        t, following = grid_times(first, grid)
        lowest = torch.minimum(following.clamp(min=min_time), t)
    lowest = torch.maximum(lowest, t - max_gap)
    return t - (t - lowest) * second, t


def grid_times(first: Tensor, grid: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """A grid time other than the last, chosen by uniforms (B,), and the one after it: (B,) each."""
    times = torch.tensor(grid, dtype=torch.float64, device=first.device)
    interval = (first * (len(grid) - 1)).long().clamp_(max=len(grid) - 2)
    return times[interval], times[interval + 1]


def time_weight(weighting: Weighting, process: Process, t: Tensor) -> Tensor:
    """w(t), float64, in the shape of ``t``.

    ``uniform``: 1. ``elbo``: σ·α/(1−α), the rate at which the reverse chain puts data in place;
    for an absorbing process it turns cross-entropy into the ELBO (MDLM). ``sigma``: σ(t).
    """
    if callable(weighting):
        return weighting(t)
    if weighting == "uniform":
        return torch.ones_like(t)
    rate = process.schedule.sigma(t)
    if weighting == "sigma":
        return rate
    return rate * process.schedule.alpha(t) / process.schedule.one_minus_alpha(t)


class DrawnTimes(NamedTuple):
    """Where a batch's times lie.

    Attributes:
        first: (B,) float64 in (0, 1), in place of uniforms.
        weight: (B,) float64 factor of each loss.
        bins: (B,) int64, the bin of each time, or of each pair of times.
        second: (B,) float64 in (0, 1), in place of the uniforms that the gap is made of; None
            where none were given.
    """

    first: Tensor
    weight: Tensor
    bins: Tensor
    second: Tensor | None = None


class TimeSampling:
    """How conditional matching draws and weighs its times, from the losses of earlier steps.

    The uniform number that a time is made of is cut into equal bins. Every bin keeps running means
    of the loss and of its square; they change between steps only, so that all parts of a batch are
    drawn alike. One object belongs to one objective.

    * ``importance``: a bin is drawn in proportion to the root of its mean square loss (arXiv
      2102.09672, Sec. 3.3) and the loss divided by that proportion: the expected loss and gradient
      are those of uniform times. No bin is drawn less than ``floor`` times as often as uniformly.
      With ``gap_bins`` above 1 it is pairs (t, s) that are drawn so: each bin of t is cut again by
      the uniform number that the gap t − s is made of.
    * ``learned_weight``: w(t) ∝ 1/(mean loss of the bin), with mean 1 over bins: what minimises
      Σ w·loss − log w, the uncertainty weighting of arXiv 1705.07115, kept at its minimum. The
      objective then is another one.
    * ``curriculum``: the largest t − s, over ``curriculum_steps`` in ``stages`` equal stages, times
      2 from a small start up to the objective's ``max_gap`` (``doubling``), or ½ down from it
      (``halving``). Only :class:`~fewjump.objective.ConditionalMatching` has a gap to bound.

    Args:
        importance, learned_weight, curriculum: see above.
        bins: number of bins.
        gap_bins: parts that each bin is cut into by the gap; 1 draws by t alone. More go with
            ``importance``, and with ConditionalMatching.
        floor: share in (0, 1] of the draws that stays uniform; 1 is uniform.
        decay: of the running means, per step in which the bin was seen.
        curriculum_steps: optimiser steps that the stages fill; after them the last one stays. 0 for
            the steps that the run is begun with.
        stages: of the curriculum.

    Raises:
        ValueError: for options outside their range, or steps of no curriculum.
    """

    def __init__(
        self,
        importance: bool = False,
        learned_weight: bool = False,
        curriculum: Curriculum = "none",
        *,
        bins: int = 16,
        gap_bins: int = 1,
        floor: float = 0.2,
        decay: float = 0.95,
        curriculum_steps: int = 0,
        stages: int = 4,
    ) -> None:
        one_of("curriculum", curriculum, get_args(Curriculum))
        if bins < 2 or stages < 2 or not 0 < floor <= 1 or not 0 < decay < 1:
            raise ValueError(
                "bins and stages must be at least 2, floor lie in (0, 1] and decay in (0, 1); got "
                f"{bins}, {stages}, {floor} and {decay}"
            )
        if gap_bins < 1 or (gap_bins > 1 and not importance):
            raise ValueError(
                f"gap_bins must be at least 1, and 1 without importance=True; got {gap_bins}"
            )
        if curriculum_steps < 0 or (curriculum == "none" and curriculum_steps):
            raise ValueError(
                "curriculum_steps must be ≥ 0, and 0 without a curriculum; got "
                f"{curriculum_steps} and {curriculum!r}"
            )
        self.importance, self.learned_weight = importance, learned_weight
        self.curriculum: Curriculum = curriculum
        self.bins, self.floor, self.decay = bins, floor, decay
        self.gap_bins = gap_bins
        self.curriculum_steps, self.stages = curriculum_steps, stages
        self._step = 0
        self.take_up({})

    def describe(self) -> str:
        """The options as text: part of what identifies a run."""
        options = {k: v for k, v in sorted(vars(self).items()) if not k.startswith("_")}
        if self.gap_bins == 1:
            # What identifies runs by t alone stays as it was before there were pairs.
            del options["gap_bins"]
        return ", ".join(f"{k}={v}" for k, v in options.items())

    def settle(self, steps: int, earlier: str | None) -> None:
        """Let a curriculum without steps of its own fill the run.

        Args:
            steps: of the run.
            earlier: what :meth:`describe` said when the run was begun, if it is gone on with.
        """
        if self.curriculum != "none" and not self.curriculum_steps:
            begun = re.search(r"curriculum_steps=(\d+)", earlier or "")
            self.curriculum_steps = int(begun[1]) if begun else steps

    # -- drawing ----------------------------------------------------------------------------

    def probabilities(self) -> Tensor:
        """How often each bin is drawn, those of one t side by side: (bins·gap_bins,) float64."""
        uniform = torch.full((self._cells,), 1 / self._cells, dtype=torch.float64)
        if not self.importance or not self._complete:
            return uniform
        root = self._square.sqrt()
        return (1 - self.floor) * root / root.sum() + self.floor * uniform

    def weights(self) -> Tensor:
        """Learned w(t) of each bin of t, mean 1: (bins,) float64."""
        if not self.learned_weight or not self._complete:
            return torch.ones(self.bins, dtype=torch.float64)
        inverse = 1 / self._mean.reshape(self.bins, -1).mean(1).clamp(min=1e-8)
        return inverse / inverse.mean()

    def draw(self, uniform: Tensor, second: Tensor | None = None) -> DrawnTimes:
        """Spread uniforms (B,) as the statistics say; of pairs, ``second`` (B,) as well.

        Raises:
            ValueError: for bins of pairs without ``second``.
        """
        if second is None and self.gap_bins > 1:
            raise ValueError("bins of pairs need the uniforms that the gap is made of")
        share = self.probabilities()
        edges = torch.cat([share.new_zeros(1), share.cumsum(0)])
        edges[-1] = 1.0
        edges, share = edges.to(uniform.device), share.to(uniform.device)
        cell = (torch.searchsorted(edges, uniform, right=True) - 1).clamp(0, self._cells - 1)
        inside = ((uniform - edges[cell]) / (edges[cell + 1] - edges[cell])).clamp(0, 1)
        place = cell // self.gap_bins
        first = ((place + inside) / self.bins).clamp(2.0**-54, 1 - 2.0**-53)
        weight = self.weights().to(uniform.device)[place] / (self._cells * share[cell])
        if second is not None:
            second = (cell % self.gap_bins + second) / self.gap_bins
        return DrawnTimes(first, weight, cell, second)

    def max_gap(self, limit: float) -> float:
        """The largest t − s of this step, at most ``limit``."""
        if self.curriculum == "none":
            return limit
        length = max(1, self.curriculum_steps)
        stage = min(self.stages - 1, self._step * self.stages // length)
        if self.curriculum == "doubling":
            stage = self.stages - 1 - stage
        return limit / 2**stage

    # -- learning ---------------------------------------------------------------------------

    def see(self, bins: Tensor, loss: Tensor) -> None:
        """Losses (B,) ≥ 0 of this step, at times of the bins (B,), before any weight."""
        loss = loss.detach().double().cpu().clamp(min=0)
        sums = torch.zeros(3, self._cells, dtype=torch.float64)
        values = torch.stack([torch.ones_like(loss), loss, loss**2])
        self._pending = self._pending + sums.index_add_(1, bins.cpu(), values)

    def begin_step(self, step: int) -> None:
        """Take what was seen into the running means."""
        self._step = step
        self._gather()
        count, total, squares = self._pending
        seen = count > 0
        safe = count.clamp(min=1)
        # The first mean of a bin is taken whole.
        keep = torch.where(self._mean.isnan(), 0.0, self.decay)
        for running, value in ((self._mean, total / safe), (self._square, squares / safe)):
            mixed = keep * running.nan_to_num() + (1 - keep) * value
            running.copy_(torch.where(seen, mixed, running))
        self._pending, self._gathered = torch.zeros_like(self._pending), False

    @property
    def _cells(self) -> int:
        return self.bins * self.gap_bins

    @property
    def _complete(self) -> bool:
        """Whether every bin has been seen; until then times are uniform."""
        return not bool(self._mean.isnan().any()) and float(self._square.sum()) > 0

    def _gather(self) -> None:
        """Add up over processes what each has seen."""
        if self._gathered or not torch.distributed.is_initialized():
            return
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        total = self._pending.to(device)
        torch.distributed.all_reduce(total)
        self._pending, self._gathered = total.cpu(), True

    # -- kept with the training -------------------------------------------------------------

    def state(self) -> dict[str, list[float]]:
        """What the next step depends on; every process must call this."""
        self._gather()
        pending = self._pending.flatten().tolist()
        # JSON has no NaN, which stands for "not seen yet"; losses are never negative.
        mean = self._mean.nan_to_num(nan=-1.0).tolist()
        return {"mean": mean, "square": self._square.nan_to_num(nan=-1.0).tolist(), "new": pending}

    def take_up(self, state: Mapping[str, list[float]]) -> None:
        """Go on from a state of :meth:`state`; an empty one starts afresh."""

        def read(name: str) -> Tensor:
            values = torch.tensor(state.get(name, [-1.0] * self._cells), dtype=torch.float64)
            return torch.where(values < 0, torch.nan, values)

        self._mean, self._square = read("mean"), read("square")
        new = state.get("new", [0.0] * (3 * self._cells))
        self._pending = torch.tensor(new, dtype=torch.float64).reshape(3, self._cells)
        self._gathered = bool(state)
