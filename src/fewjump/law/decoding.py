"""Ways to draw from an autoregressive law with all positions side by side.

Scoring a given sequence takes one pass over all positions together, and both ways here draw by
scoring guesses. Neither changes the law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewjump.inversion import invert_cdf
from fewjump.law.autoregressive import AutoregressiveLaw
from fewjump.law.base import Decoding
from fewjump.law.cross_entropy import token_log_prob
from fewjump.random import Generator, forked, of_rows, uniform


@dataclass
class FixedPoint(Decoding[AutoregressiveLaw]):
    """The walk's own samples, by iteration.

    See :meth:`~fewjump.law.autoregressive.AutoregressiveLaw.sample_fixed_point`.
    """

    kind: ClassVar[str] = "fixed-point"

    def draw(self, law: AutoregressiveLaw, generator: Generator = None) -> Tensor:
        found = law.sample_fixed_point(generator)
        self._count(law, found.passes, law.pinned()[1])
        return found.samples


@dataclass
class DraftAndVerify(Decoding[AutoregressiveLaw]):
    """A cheaper law drafts all positions; the autoregressive one accepts the first of them.

    Speculative sampling (Leviathan et al., arXiv 2211.17192). Along the order of the positions a
    drafted token is accepted with probability min(1, p/q), where p is its conditional under the
    law and q under the draft, both given the tokens before it. The first that is not is drawn anew
    in proportion to (p − q)₊, and what follows is drafted again. The law of the result is the
    autoregressive law whatever the draft says; a good draft makes it quick.

    The draft is ``law.draft``, which must leave every continuation possible (a network's law does,
    a truncated one may not), and draws positions independently or from left to right as the law
    does; without one, the product of what the head says of each position
    before it reads any token (self-speculation, SSMD: arXiv 2510.03929).

    Attributes:
        examined: drafted tokens that were accepted or refused.
        accepted: those that were accepted.
    """

    kind: ClassVar[str] = "draft"
    examined: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float:
        """The share of examined tokens that were accepted; NaN before anything was drawn."""
        return self.accepted / self.examined if self.examined else float("nan")

    def draw(self, law: AutoregressiveLaw, generator: Generator = None) -> Tensor:
        # How much is drawn depends on what is drawn.
        source = forked(generator)
        if not law.drafting().independent:
            law.check_left_to_right()
        x0, settled = (part.clone() for part in law.pinned())
        passes = torch.zeros(law.batch_size, dtype=torch.int64, device=law.device)
        rows, part = torch.arange(law.batch_size, device=law.device), law
        while True:
            left = (~settled[rows]).any(1)
            if not bool(left.all()):
                rows, part = rows[left], part.select(left)
            if not rows.numel():
                break
            source = forked(source)
            here = of_rows(source, rows)
            x0[rows], settled[rows] = self._round(part, x0[rows], settled[rows], here)
            passes[rows] += 1
        self._count(law, passes, law.pinned()[1])
        return x0

    def _round(
        self, law: AutoregressiveLaw, x0: Tensor, settled: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Draft, score, and settle positions up to the first refusal: new x0 and settled."""
        draft = law.drafting().given(x0, settled)
        guess = torch.where(settled, x0, draft.sample(generator))
        own, drafted = law.logits(guess), draft.conditional_logits(guess)
        ratio = token_log_prob(own, guess).double() - token_log_prob(drafted, guess).double()
        keep = settled | (uniform(guess.shape, generator, guess.device).log() < ratio)
        u = uniform(guess.shape[:1], generator, guess.device)
        order = law.conditionals.order
        if order is None:
            order = torch.arange(law.length, device=guess.device).expand_as(guess)
        number = keep.gather(1, order).long().cumprod(1).sum(1, keepdim=True)
        rank = order.argsort(1)
        before, refused = rank < number, rank == number
        self.accepted += int((before & ~settled).sum())
        self.examined += int((before & ~settled).sum()) + int(refused.sum())
        out = torch.where(before, guess, x0)
        row, position = refused.nonzero(as_tuple=True)
        if row.numel():
            p, q = (part[row, position].double().softmax(-1) for part in (own, drafted))
            surplus = (p - q).clamp(min=0)
            # Where p and q differ by rounding alone nothing is left of the surplus.
            surplus = torch.where(surplus.sum(-1, keepdim=True) > 0, surplus, p)
            out[row, position] = invert_cdf(surplus, u[row])
        return out, settled | before | refused

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.acceptance:.1%} of drafted tokens accepted"
