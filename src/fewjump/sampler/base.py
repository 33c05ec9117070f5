"""What a sampler is: one step from t to s, written once, drawn or enumerated.

A step is a chain of *moves*. A :class:`Move` is a distribution over the next state given all
that came before; the sampler is a Python generator that yields a move and receives the state
that followed. The runner answers with a draw (:func:`draw_step`); the exact evaluator answers
with every state in turn (:mod:`fewjump.sampler.exact`). The law that is tested is therefore the
law that is sampled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Generator as Coroutine
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.random import Generator
from fewjump.registry import SAMPLERS


class Move(ABC):
    """A distribution over the next state, one for each row of the batch.

    Attributes:
        clamped: () float64 probability that the method's formula asked for and could not have
            (a negative rate, a total above 1), averaged over positions; set by :meth:`sample`,
            None where nothing can be clamped.
    """

    clamped: Tensor | None = None

    @abstractmethod
    def sample(self, generator: Generator = None) -> Tensor:
        """Draw the next state: (B, L) int64."""

    @abstractmethod
    def table(self) -> Tensor:
        """Probability of every state in V^L, the last position fastest: (B, V^L) float64."""


Moves = Coroutine[Move, Tensor, None]
Step = Callable[[Tensor], Moves]


class Sampler(ABC):
    """One step of the reverse process.

    Attributes:
        name: what the user types.
        order: global order of convergence of the output law as the grid is refined.
        evaluations: network evaluations of one step.
        reference: where it comes from.
        uses_grid: whether the times between the first and the last mean anything to it, and the
            final draw of x₀ is left to the runner.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    evaluations: ClassVar[int]
    reference: ClassVar[str]
    uses_grid: ClassVar[bool] = True

    @abstractmethod
    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        """Yield the step's moves; the state sent after the last one is x_s.

        Args:
            denoiser: evaluated as often as :attr:`evaluations` says.
            x_t: (B, L) int64.
            t, s: () or, each row with its own, (B,) float64 tensors, s ≤ t. The runner gives (),
                training (B,).
        """

    def steps(self, denoiser: Denoiser, x: Tensor, times: Tensor) -> list[Step]:
        """The steps of one trajectory, each a function x_t → moves; one per interval of the grid.

        Args:
            denoiser: as for :meth:`moves`.
            x: (B, L) int64, the state that the trajectory starts from.
            times: (K + 1,) float64, strictly decreasing.
        """
        return [partial(_interval, self, denoiser, t, s) for t, s in pairwise(times)]

    def check(self, denoiser: Denoiser) -> None:  # noqa: B027 (most samplers accept everything)
        """Raise ValueError, naming the remedy, if the sampler does not apply to this process."""


def _interval(sampler: Sampler, denoiser: Denoiser, t: Tensor, s: Tensor, x: Tensor) -> Moves:
    return sampler.moves(denoiser, x, t, s)


def get_sampler(sampler: str | Sampler, **options: Any) -> Sampler:
    """A sampler from its name and constructor options (such as ``theta``), or the one given.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(sampler, Sampler):
        if options:
            raise ValueError("options go with a name; this sampler is already made")
        return sampler
    return SAMPLERS.named(sampler)(**options)


def draw_step(
    moves: Moves,
    generator: Generator = None,
    pin: Callable[[Tensor], Tensor] | None = None,
    watch: Callable[[Move], None] | None = None,
) -> Tensor:
    """Run a step's moves with random draws and return the state it ends in.

    Args:
        moves: the step.
        generator: source of randomness.
        pin: applied to every state that is drawn, intermediate ones included (infilling).
        watch: called with every move after it was drawn (diagnostics).
    """
    move = next(moves)
    while True:
        x = move.sample(generator)
        if pin is not None:
            x = pin(x)
        if watch is not None:
            watch(move)
        try:
            move = moves.send(x)
        except StopIteration:
            return x
