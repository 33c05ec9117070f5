"""Moves that unmask some of the masked positions, block after block or wherever."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewjump.config import check_count
from fewjump.denoiser import Denoiser
from fewjump.law import Law
from fewjump.law.posterior import outer
from fewjump.random import Generator, permutation_keys, uniform
from fewjump.sampler.base import Move
from fewjump.sampler.moves import fill, law_table
from fewjump.sampler.reverse import posterior


class RevealMove(Move):
    """Unmask some masked positions of each row: those of the first block that still has masks,
    chosen uniformly there, and then those of the next.

    Args:
        denoiser: of an absorbing process.
        x: (B, L) int64.
        block: length of the blocks; see :func:`turns`.
    """

    def __init__(self, denoiser: Denoiser, x: Tensor, block: int | None) -> None:
        self.process, self.x = denoiser.process, x
        self.masked = x == denoiser.process.mask
        self.turn = turns(denoiser, self.masked, block)
        self.number = self.masked.sum(-1)

    @abstractmethod
    def law_of_table(self) -> Law:
        """The law that the unmasked positions are drawn from, for :meth:`table`."""

    @abstractmethod
    def chance(self, count: int) -> Tensor:
        """Probability that ``count`` positions are unmasked: (B,) float64."""

    def chosen(self, count: Tensor, generator: Generator) -> Tensor:
        """Draw which ``count`` (B,) positions of each row are unmasked: (B, L) boolean."""
        keys = permutation_keys(self.x.shape, generator, self.x.device)
        return (self.turn + keys).argsort(-1).argsort(-1) < count[:, None]

    def table(self) -> Tensor:
        vocab, (batch, length) = self.process.vocab_size, self.x.shape
        joint = self._joint(self.law_of_table())
        joint = joint.reshape(batch, *(vocab,) * length)
        here = one_hot(self.x, vocab).double()
        out = torch.zeros_like(joint)
        for chosen in itertools.product((False, True), repeat=length):
            weight = self._weight(chosen)
            if bool((weight > 0).any()):
                shaped = weight.reshape(-1, *(1,) * length)
                out += shaped * _keep_only(joint, here, chosen)
        return out.reshape(batch, -1)

    def _joint(self, law: Law) -> Tensor:
        if law.independent:
            return outer(posterior(law, self.process))
        return law_table(law, self.process.vocab_size)

    def _weight(self, chosen: tuple[bool, ...]) -> Tensor:
        """Probability that exactly these positions are unmasked: (B,) float64."""
        subset = torch.tensor(chosen, device=self.x.device)
        # All of the blocks before the last one that is reached, and some of that one.
        last = self.turn.masked_fill(~subset, -1).amax(-1, keepdim=True)
        fits = (subset <= self.masked).all(-1) & (subset | (self.turn >= last)).all(-1)
        there = (self.turn == last).sum(-1)
        taken = (subset & (self.turn == last)).sum(-1)
        ways = [math.comb(int(n), int(k)) for n, k in zip(there, taken, strict=True)]
        shares = fits.double() / torch.tensor(ways, device=self.x.device)
        return shares * self.chance(sum(chosen))


class AncestralRevealMove(RevealMove):
    """As many positions as the reverse step t → s unmasks, block after block.

    That step unmasks each masked position with probability (α_s − α_t)/(1 − α_t), so that their
    number is binomial; here the number is the same, and which they are is for the blocks to say.

    Args:
        denoiser: of an absorbing process; it is asked at t.
        x: (B, L) int64.
        t, s: () or (B,) float64.
        block: see :func:`turns`.
    """

    def __init__(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, block: int) -> None:
        super().__init__(denoiser, x, block)
        self.law = denoiser(x, t)
        left_s, left_t = (self.process.schedule.one_minus_alpha(time) for time in (s, t))
        self.leave = (1 - left_s / left_t).expand(x.shape[0])

    def sample(self, generator: Generator = None) -> Tensor:
        u = uniform(self.x.shape, generator, self.x.device)
        count = ((u < self.leave[:, None]) & self.masked).sum(-1)
        return fill(self.x, self.law, self.chosen(count, generator), generator)

    def law_of_table(self) -> Law:
        return self.law

    def chance(self, count: int) -> Tensor:
        ways = [math.comb(int(n), count) for n in self.number]
        stay = (self.number - count).clamp(min=0)
        ways = torch.tensor(ways, dtype=torch.float64, device=self.x.device)
        return ways * self.leave**count * (1 - self.leave) ** stay


def checked_block(block: int | None) -> int | None:
    """A length of blocks; ValueError below 1."""
    if block is not None:
        check_count(block, "block")
    return block


def turns(denoiser: Denoiser, masked: Tensor, block: int | None) -> Tensor:
    """The turn of each masked position of (B, L), by its block; after all of them where it is none.

    Blocks are so many positions that follow each other in the order in which the denoiser's laws
    draw them: from left to right for most. Without blocks all positions have the first turn.
    """
    length = masked.shape[-1]
    place = denoiser.drawn_in.ranks(length, masked.device)
    number = torch.zeros_like(place) if block is None else place // block
    return number.expand_as(masked).masked_fill(~masked, length)


def _keep_only(joint: Tensor, here: Tensor, chosen: tuple[bool, ...]) -> Tensor:
    """Sum out the positions not chosen and put them back at their current token."""
    for i, is_chosen in enumerate(chosen):
        if not is_chosen:
            shape = [joint.shape[0], *(1,) * len(chosen)]
            shape[i + 1] = joint.shape[i + 1]
            joint = joint.sum(i + 1, keepdim=True) * here[:, i].reshape(shape)
    return joint
