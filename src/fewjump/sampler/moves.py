"""The moves that samplers are built of: each can be drawn, and each can be written out in full.

Draws decide first whether a position jumps and only then where to, in float64: one categorical
draw over a flat vocabulary in float32 would lose small jump probabilities (arXiv 2409.02908).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewjump.inversion import row_chunks
from fewjump.law import Law
from fewjump.law.posterior import outer
from fewjump.law.product import as_product
from fewjump.process import Process
from fewjump.process.kernel import expand_time
from fewjump.random import Generator, uniform, uniform_where
from fewjump.sampler.base import Move
from fewjump.sampler.rates import Rates
from fewjump.sampler.reverse import posterior

Rule = Literal["poisson", "linear"]


class JumpMove(Move):
    """Every position jumps or stays, by rates.

    With Λ the total intensity out of a position (its rate times ``duration``) it leaves with
    probability 1 − exp(−Λ) (``poisson``) or min(Λ, 1) (``linear``), to y in proportion to its
    rate. One uniform per position is compared with the bound of that probability first: only the
    rows that pass are read.

    Args:
        x: (B, L) int64, the current state.
        rates: rates out of it.
        duration: float, () tensor, or (B,) tensor of each row's own.
        rule: see above.
    """

    def __init__(self, x: Tensor, rates: Rates, duration: Tensor | float, rule: Rule) -> None:
        self.x, self.rates, self.rule = x, rates, rule
        # One number, or one for each position in row-major order.
        duration = torch.as_tensor(duration, dtype=torch.float64, device=x.device)
        self.duration = expand_time(duration, x).expand(x.shape).reshape(-1)

    def _leave(self, intensity: Tensor) -> Tensor:
        return -torch.expm1(-intensity) if self.rule == "poisson" else intensity.clamp(max=1.0)

    def sample(self, generator: Generator = None) -> Tensor:
        shape = self.x.shape
        u = uniform(shape, generator, self.x.device)
        # The margin covers the rounding of a total computed in the precision of the network.
        limit = self._leave(self.rates.bound * self.duration.reshape(shape) * (1 + 1e-5))
        candidate = u < limit
        choice = uniform_where(candidate, generator)
        index = candidate.reshape(-1).nonzero()[:, 0]
        u, limit = u.reshape(-1)[index], limit.reshape(-1)[index]
        out = self.x.reshape(-1).clone()
        lost = torch.zeros((), dtype=torch.float64, device=out.device)
        for part in row_chunks(index.shape[0], 1, self.rates.rows_at_once()):
            rows = self.rates.open(index[part])
            duration = self.duration[index[part]]
            intensity = rows.total * duration
            jump = (u[part] < self._leave(intensity)).nonzero()[:, 0]
            out[index[part][jump]] = rows.draw(jump, choice[part][jump])
            if self.rule == "linear":
                lost += (intensity - 1).clamp(min=0).sum()
            if rows.negative is not None:
                # A row is read with probability ``limit``; dividing by it keeps the sum unbiased.
                lost += (rows.negative * duration / limit[part]).sum()
        self.clamped = lost / max(1, out.numel())
        return out.reshape(shape)

    def log_prob(self, y: Tensor, floor: float) -> Tensor:
        """log Pr(xⁱ → yⁱ) at each position: (B, L) float64, with gradients to the duration.

        Args:
            y: (B, L) int64.
            floor: probabilities below it count as it, and have no gradient.
        """
        here, there = self.x.reshape(-1), y.reshape(-1)
        total = torch.zeros(here.shape, dtype=torch.float64, device=here.device)
        toward = torch.zeros_like(total)
        index = self.rates.bound.reshape(-1).nonzero()[:, 0]
        for part in row_chunks(index.shape[0], 1, self.rates.rows_at_once()):
            rows = self.rates.values(index[part])
            total[index[part]] = rows.sum(-1).double()
            toward[index[part]] = rows.gather(-1, there[index[part], None])[:, 0].double()
        leave = self._leave(total * self.duration)
        share = toward / torch.where(total > 0, total, 1.0)
        chance = torch.where(here == there, 1 - leave, leave * share)
        return chance.clamp(min=floor).log().reshape(y.shape)

    def rows(self) -> Tensor:
        """Probability of every token at each position: (B, L, V) float64."""
        index = torch.arange(self.x.numel(), device=self.x.device)
        rates = self.rates.values(index).double()
        total = rates.sum(-1, keepdim=True)
        leave = self._leave(total * self.duration[:, None])
        rows = rates / torch.where(total > 0, total, 1.0) * leave
        rows.scatter_(-1, self.x.reshape(-1, 1), 1 - leave)
        return rows.reshape(*self.x.shape, -1)

    def table(self) -> Tensor:
        return outer(self.rows())


class LawMove(Move):
    """Draw x₀ from the law: the last step.

    Under an absorbing process a visible position is its own clean token, and a product law is
    read at the masked positions only.

    Args:
        law: p(x₀|x_t).
        x: (B, L) int64.
        process: the forward process.
    """

    def __init__(self, law: Law, x: Tensor, process: Process) -> None:
        self.law, self.x, self.process = law, x, process
        self.open = process.masked(x)

    def sample(self, generator: Generator = None) -> Tensor:
        if not self.law.independent:
            return self.law.sample(generator)
        if self.open is not None:
            return fill(self.x, self.law, self.open, generator)
        return as_product(self.law).sample(generator)

    def rows(self) -> Tensor:
        """Probability of every token at each position: (B, L, V) float64.

        For a joint law these are its marginals.
        """
        rows = posterior(self.law, self.process)
        if self.open is not None:
            certain = one_hot(self.x, self.process.vocab_size).double()
            rows = torch.where(self.open[..., None], rows, certain)
        return rows

    def table(self) -> Tensor:
        if not self.law.independent:
            return law_table(self.law, self.process.vocab_size)
        return outer(self.rows())


class JointReverseMove(Move):
    """The exact reverse step of a joint law: x₀ from the law, then x_s from the bridge.

    Args:
        law: p(x₀|x_t).
        process: the forward process.
        x: (B, L) int64 state x_t.
        t, s: () or (B,) float64.
    """

    def __init__(self, law: Law, process: Process, x: Tensor, t: Tensor, s: Tensor) -> None:
        self.law, self.process, self.x, self.t, self.s = law, process, x, t, s

    def sample(self, generator: Generator = None) -> Tensor:
        x0 = self.law.sample(generator)
        return self.process.bridge(self.x, x0, self.s, self.t, generator)

    def table(self) -> Tensor:
        bridges = bridge_table(self.process, self.x, self.s, self.t)
        return through_positions(law_table(self.law, self.process.vocab_size), bridges)


class FlowMove(JointReverseMove):
    """x₀ from the law, then each position moves toward it as little as the noise level asks for.

    Args as of :class:`JointReverseMove`.
    """

    def sample(self, generator: Generator = None) -> Tensor:
        x0 = LawMove(self.law, self.x, self.process).sample(generator)
        return self.process.flow_step(self.x, x0, self.s, self.t, generator)

    def table(self) -> Tensor:
        given = per_clean_token(self.process.flow_marginals, self.process, self.x, self.s, self.t)
        return through_positions(LawMove(self.law, self.x, self.process).table(), given)


class RenoiseMove(Move):
    """x₀ from the law, then each position from keep·bridge + (1 − keep)·forward noise.

    Args:
        law: p(x₀|x_t).
        process: the forward process.
        x: (B, L) int64 state x_t.
        t, s: () or (B,) float64.
        keep: () or (B,) float64, at most 1; below 0 only as far as the mixture is a law.
    """

    def __init__(
        self, law: Law, process: Process, x: Tensor, t: Tensor, s: Tensor, keep: Tensor
    ) -> None:
        self.law, self.process, self.x, self.t, self.s = law, process, x, t, s
        self.keep = expand_time(keep, x).expand(x.shape)

    def sample(self, generator: Generator = None) -> Tensor:
        process, x = self.process, self.x
        hidden = process.masked(x)
        u = uniform(x.shape, generator, x.device)
        if hidden is not None:
            assert process.mask is not None
            # Only what is unmasked is drawn.
            mask = u < self._masked_again(hidden)
            return fill(x.masked_fill(mask, process.mask), self.law, hidden & ~mask, generator)
        x0 = LawMove(self.law, x, process).sample(generator)
        bridged = process.bridge(x, x0, self.s, self.t, generator)
        return torch.where(u < self.keep, bridged, process.corrupt(x0, 0.0, self.s, generator))

    def _masked_again(self, hidden: Tensor) -> Tensor:
        """Probability of a mask at s: (B, L) float64."""
        schedule = self.process.schedule
        s, t = (expand_time(schedule.one_minus_alpha(v), self.x) for v in (self.s, self.t))
        fresh = (1 - self.keep) * s
        visible = torch.where(self.process.is_kept(self.x), 0.0, fresh)
        return torch.where(hidden, fresh + self.keep * (s / torch.where(t > 0, t, 1.0)), visible)

    def table(self) -> Tensor:
        process, x = self.process, self.x
        bridges = bridge_table(process, x, self.s, self.t)
        tokens = torch.arange(process.vocab_size, device=x.device).expand(x.shape[0], -1)
        fresh = process.kernel(0.0, self.s).rows(tokens)[:, None]
        keep = self.keep[..., None, None]
        mixed = (keep * bridges + (1 - keep) * fresh).clamp(min=0)
        return through_positions(LawMove(self.law, x, process).table(), mixed)


class UnmaskMove(Move):
    """Draw chosen masked positions; the others stay.

    Args:
        law: p(x₀|x_t).
        x: (B, L) int64.
        process: the forward process, an absorbing one.
        show: (B, L) boolean.
    """

    def __init__(self, law: Law, x: Tensor, process: Process, show: Tensor) -> None:
        self.law, self.x, self.process, self.show = law, x, process, show

    def sample(self, generator: Generator = None) -> Tensor:
        return fill(self.x, self.law, self.show, generator)

    def table(self) -> Tensor:
        vocab = self.process.vocab_size
        here = one_hot(self.x, vocab).double()[..., None, :].expand(-1, -1, vocab, -1)
        drawn = torch.eye(vocab, dtype=torch.float64, device=self.x.device)
        given = torch.where(self.show[..., None, None], drawn, here)
        return through_positions(LawMove(self.law, self.x, self.process).table(), given)


def bridge_table(process: Process, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """q(x_s | x_t, x₀ = a) at each position, for every a: (B, L, V, V) float64."""
    return per_clean_token(process.bridge_marginals, process, x, s, t)


def per_clean_token(
    marginals: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    process: Process,
    x: Tensor,
    s: Tensor,
    t: Tensor,
) -> Tensor:
    """A law of x_s given x_t and x₀ = a at each position, for every a: (B, L, V, V) float64."""
    rows = [marginals(x, torch.full_like(x, a), s, t) for a in range(process.vocab_size)]
    # 0/0 where x₀ cannot lead to x_t; the law gives such an x₀ no mass.
    return torch.nan_to_num(torch.stack(rows, -2).double())


def through_positions(table: Tensor, given: Tensor) -> Tensor:
    """The law of a state whose positions move independently given x₀.

    Args:
        table: (B, V^L), the law of x₀.
        given: (B, L, V, V), the law of the new token for each clean one.

    Returns:
        (B, V^L).
    """
    batch, length, vocab, _ = given.shape
    table = table.reshape(batch, *(vocab,) * length)
    for i in range(length):
        # The axis contracted is always the first; the one produced goes last.
        table = torch.einsum("ba...,bay->b...y", table, given[:, i])
    return table.reshape(batch, -1)


def fill(x: Tensor, law: Law, where: Tensor, generator: Generator) -> Tensor:
    """``x`` (B, L) with its masked positions ``where`` (B, L) drawn, independently or jointly."""
    if not law.independent:
        return torch.where(where, law.sample_at(where, generator), x)
    return x.masked_scatter(where, as_product(law).sample_where(where, generator))


def law_table(law: Law, vocab_size: int) -> Tensor:
    """Probability of every clean sequence, over states that may hold a mask too: (B, V^L)."""
    table = law.enumerate().double().exp()
    if law.vocab_size == vocab_size:
        return table
    wide = table.new_zeros(law.batch_size, *(vocab_size,) * law.length)
    clean = (slice(None), *(slice(0, law.vocab_size),) * law.length)
    wide[clean] = table.reshape(law.batch_size, *(law.vocab_size,) * law.length)
    return wide.reshape(law.batch_size, -1)
