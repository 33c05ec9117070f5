"""First hitting: simulate the unmasking events themselves, not a grid."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law import Law
from fewjump.random import Generator, uniform
from fewjump.sampler.base import Moves, Sampler, Step
from fewjump.sampler.moves import fill
from fewjump.sampler.reveal import RevealMove, checked_block


class FirstHitting(Sampler):
    """Jump from one unmasking event to the next.

    With n masked positions at time t the next event is at τ, 1 − α(τ) = (1 − α(t))·u^{1/n}, and
    unmasks one position chosen uniformly, from the law at τ. With as many steps as masked positions
    (or more) an exact denoiser gives exactly the data law. With fewer, each round unmasks
    ⌈n / rounds left⌉ positions from one evaluation, at the time of the first of their events.

    With ``block`` the positions are those of the first block of so many that still has masks,
    chosen uniformly there, and then those of the next (semi-autoregressive: LLaDA, block
    diffusion); 1 goes from left to right, or in the order of a denoiser that has another. An exact
    denoiser that ignores time keeps the data law then too, and a student that draws in this order
    continues its own prefix.

    Args:
        block: length of the blocks, in the denoiser's order; None for no order.

    Evaluations: min(steps, masked positions), and no final step. The grid only sets the number of
    steps and the start.
    """

    name: ClassVar[str] = "first-hitting"
    order: ClassVar[float] = 1
    evaluations: ClassVar[int] = 1
    reference: ClassVar[str] = "Zheng et al. 2024, arXiv 2409.02908"
    uses_grid: ClassVar[bool] = False
    random_times: ClassVar[bool] = True
    masked_only: bool = True

    def __init__(self, block: int | None = None) -> None:
        self.block = checked_block(block)

    def moves(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Moves:
        """One round: all masked positions are unmasked at the first event after t."""
        yield EventMove(denoiser, x_t, t.expand(x_t.shape[0]), 1, self.block)

    def steps(self, denoiser: Denoiser, x: Tensor, times: Tensor) -> list[Step]:
        rounds = min(times.shape[0] - 1, int((x == denoiser.process.mask).sum(-1).max()))
        clock = _Clock(times[0], self.block)
        return [clock.step(denoiser, rounds - done) for done in range(rounds)]


class _Clock:
    """The time each sample of one trajectory has reached."""

    def __init__(self, start: Tensor, block: int | None) -> None:
        self.start, self.block = start, block
        self.time: Tensor | None = None

    def step(self, denoiser: Denoiser, rounds_left: int) -> Step:
        def moves(x: Tensor) -> Moves:
            time = self.start.expand(x.shape[0]) if self.time is None else self.time
            move = EventMove(denoiser, x, time, rounds_left, self.block)
            yield move
            self.time = move.time

        return moves


class EventMove(RevealMove):
    """Unmask ⌈n / rounds left⌉ of the n masked positions of each row.

    The evaluation time is itself random, so the denoiser is called when the move is drawn.

    Args:
        denoiser: of an absorbing process.
        x: (B, L) int64.
        time: (B,) float64, the time reached.
        rounds_left: rounds left, this one included.
        block: see :class:`FirstHitting`.

    Attributes:
        time: after :meth:`sample`, the time of the last event of the round.
    """

    def __init__(
        self, denoiser: Denoiser, x: Tensor, time: Tensor, rounds_left: int, block: int | None
    ) -> None:
        super().__init__(denoiser, x, block)
        self.denoiser = denoiser
        self.count = -(-self.number // rounds_left)
        self.start = time
        self.time: Tensor | None = None

    def sample(self, generator: Generator = None) -> Tensor:
        reveal = self.chosen(self.count, generator)
        first = self._event_times(generator)
        return fill(self.x, self.denoiser(self.x, first), reveal, generator)

    def _event_times(self, generator: Generator) -> Tensor:
        """Set ``time`` to that of the round's last event; return that of its first: (B,)."""
        schedule = self.process.schedule
        u = uniform(self.x.shape, generator, self.x.device)
        event = torch.arange(u.shape[1], device=u.device)
        left = (self.number[:, None] - event).clamp(min=1)
        shrink = torch.where(event < self.count[:, None], u.log() / left, 0.0)
        forget = schedule.one_minus_alpha(self.start)

        def time_of(log_factor: Tensor) -> Tensor:
            return schedule.time_of_sigma_bar(-torch.log1p(-forget * log_factor.exp()))

        self.time = time_of(shrink.sum(-1))
        return time_of(shrink[:, 0])

    def law_of_table(self) -> Law:
        """The law at the start of the round.

        Raises:
            ValueError: if the law depends on the time, which is random here.
        """
        if self.denoiser.time_conditioned:
            raise ValueError(
                "first-hitting evaluates the network at random times, so its transition table "
                "exists only for a denoiser that ignores time (time_conditioned=False); "
                "use sampler='ancestral', or estimate the output law from samples"
            )
        return self.denoiser(self.x, self.start)

    def chance(self, count: int) -> Tensor:
        return (self.count == count).double()
