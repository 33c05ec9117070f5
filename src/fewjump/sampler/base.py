"""What a sampler is: one step from t to s, written once, drawn or enumerated.

A step is a chain of *moves*. A :class:`Move` is a distribution over the next state given all
that came before; the sampler is a Python generator that yields a move and receives the state
that followed. The runner answers with a draw (:func:`draw_step`), the exact evaluator with every
state in turn (:mod:`fewjump.sampler.exact`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Generator as Coroutine
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from fewjump.config import checked_options, parameters_of
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
        order: global order of convergence of the output law as the grid is refined; 0 where it
            does not converge.
        evaluations: network evaluations of one step.
        reference: where it comes from.
        uses_grid: whether the times between the first and the last mean anything to it, and the
            final draw of x₀ is left to the runner.
        random_times: whether the denoiser is asked at times that are drawn.
        masked_only: whether it is for absorbing processes alone.
        holds_latent: whether one latent is held over all steps, which joint laws must then have.
        open_base: the sampler that it scales, where the multipliers are left to the model.
    """

    name: ClassVar[str]
    order: ClassVar[float]
    evaluations: ClassVar[int]
    reference: ClassVar[str]
    uses_grid: ClassVar[bool] = True
    random_times: ClassVar[bool] = False
    masked_only: bool = False
    holds_latent: ClassVar[bool] = False
    open_base: str | None = None

    @property
    def label(self) -> str:
        """The name, with the options that are not the defaults: ``psi(kappa=0.9)``."""
        options = parameters_of(type(self)).values()
        values = {option: getattr(self, option.name, option.default) for option in options}
        own = [f"{o.name}={value}" for o, value in values.items() if value != o.default]
        return f"{self.name}({', '.join(own)})" if own else self.name

    @abstractmethod
    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        """Yield the step's moves; the state sent after the last one is x_s.

        Args:
            denoiser: evaluated as often as :attr:`evaluations` says.
            x_t: (B, L) int64.
            t, s: () or, each row with its own, (B,) float64 tensors, s ≤ t. The runner gives (),
                training (B,).
        """

    def opened(self, denoiser: Denoiser) -> Denoiser:
        """What one trajectory asks in place of the denoiser, for what is kept from step to step."""
        return denoiser

    def steps(self, denoiser: Denoiser, x: Tensor, times: Tensor) -> list[Step]:
        """The steps of one trajectory, each a function x_t → moves; one per interval of the grid.

        Args:
            denoiser: as for :meth:`moves`.
            x: (B, L) int64, the state that the trajectory starts from.
            times: (K + 1,) float64, strictly decreasing.
        """
        return [partial(_interval, self, denoiser, t, s) for t, s in pairwise(times)]

    def check(self, denoiser: Denoiser) -> None:
        """Raise ValueError, naming the remedy, if the sampler does not apply to this denoiser."""
        if self.masked_only and not denoiser.process.absorbing:
            raise ValueError(
                f"{self.label} is about masks, which {denoiser.process} does not have; use "
                "sampler='ancestral', or a masked model"
            )
        if self.holds_latent and denoiser.joint and not denoiser.latent:
            raise ValueError(
                f"{self.name} is for latent students, and this joint denoiser has no latent to "
                "hold; use sampler='ancestral'"
            )

    def check_intervals(self, count: int) -> None:  # noqa: B027 - most take any number
        """Raise ValueError where a trajectory cannot have so many intervals before its last."""


def _interval(sampler: Sampler, denoiser: Denoiser, t: Tensor, s: Tensor, x: Tensor) -> Moves:
    return sampler.moves(denoiser, x, t, s)


def get_sampler(sampler: str | Sampler, **options: Any) -> Sampler:
    """A sampler from its name and constructor options (such as ``theta``), or the one given.

    Raises:
        ValueError: for an unknown name, and options that the sampler has not or that are out of
            their range.
    """
    if isinstance(sampler, Sampler):
        if options:
            raise ValueError("options go with a name; this sampler is already made")
        return sampler
    cls = SAMPLERS.named(sampler)
    return cls(**checked_options(cls, options, f"the {sampler} sampler"))


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
