"""What a sampler is: one step from t to s, written once, drawn or enumerated.

A step is a chain of *moves*. A :class:`Move` is a distribution over the next state given all
that came before; the sampler is a Python generator that yields a move and receives the state
that followed. The runner answers with a draw (:func:`draw_step`); the exact evaluator answers
with every state in turn (:mod:`fewjump.sampler.exact`). The law that is tested is therefore the
law that is sampled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator as Coroutine
from typing import ClassVar

from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.random import Generator


class Move(ABC):
    """A distribution over the next state, one for each row of the batch."""

    @abstractmethod
    def sample(self, generator: Generator = None) -> Tensor:
        """Draw the next state: (B, L) int64."""

    @abstractmethod
    def table(self) -> Tensor:
        """Probability of every state in V^L, the last position fastest: (B, V^L) float64."""


Moves = Coroutine[Move, Tensor, None]


class Sampler(ABC):
    """One step of the reverse process.

    Attributes:
        name: what the user types.
        order: global order of convergence of the output law as the grid is refined.
        evaluations: network evaluations of one step.
        reference: where it comes from.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    evaluations: ClassVar[int]
    reference: ClassVar[str]

    @abstractmethod
    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        """Yield the step's moves; the state sent after the last one is x_s.

        Args:
            denoiser: evaluated as often as :attr:`evaluations` says.
            x_t: (B, L) int64.
            t, s: () float64 tensors with s < t.
        """

    def check(self, denoiser: Denoiser) -> None:
        """Raise ValueError, naming the remedy, if the sampler does not apply to this process."""


def draw_step(moves: Moves, generator: Generator = None) -> Tensor:
    """Run a step's moves with random draws and return the state it ends in."""
    move = next(moves)
    while True:
        x = move.sample(generator)
        try:
            move = moves.send(x)
        except StopIteration:
            return x
