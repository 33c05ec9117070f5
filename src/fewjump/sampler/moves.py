"""The moves that samplers are built of: each can be drawn, and each can be written out in full.

Draws decide first whether a position jumps and only then where to, in float64: one categorical
draw over a flat vocabulary in float32 would lose small jump probabilities (arXiv 2409.02908).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fewjump.law import Law
from fewjump.law.base import row_chunks
from fewjump.law.product import as_product
from fewjump.process import Process
from fewjump.process.kernel import expand_time
from fewjump.random import (
    Generator,
    categorical,
    uniform,
    uniform_where,
)
from fewjump.sampler.base import Move
from fewjump.sampler.rates import Rates
from fewjump.sampler.reverse import posterior

Rule = Literal["poisson", "linear"]


class PositionwiseMove(Move):
    """Every position moves independently.

    Args:
        weights: (B, L, V) non-negative; each row is normalised.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def sample(self, generator: Generator = None) -> Tensor:
        return categorical(self.weights, generator)

    def rows(self) -> Tensor:
        """Probability of every token at each position: (B, L, V) float64."""
        weights = self.weights.double()
        return weights / weights.sum(-1, keepdim=True)

    def table(self) -> Tensor:
        return product_table(self.rows())


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
        return product_table(self.rows())


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
            certain = one_hot(self.x, self.process.vocab_size)
            rows = torch.where(self.open[..., None], rows, certain)
        return rows

    def table(self) -> Tensor:
        if not self.law.independent:
            return law_table(self.law, self.process.vocab_size)
        return product_table(self.rows())


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
        vocab, length = self.process.vocab_size, self.x.shape[1]
        bridges = torch.stack(
            [
                self.process.bridge_marginals(self.x, torch.full_like(self.x, a), self.s, self.t)
                for a in range(vocab)
            ],
            -2,
        )
        # 0/0 where x₀ cannot lead to x_t; the law gives such an x₀ no mass.
        bridges = torch.nan_to_num(bridges.double())
        table = law_table(self.law, vocab).reshape(-1, *(vocab,) * length)
        for i in range(length):
            # The axis contracted is always the first; the one produced goes last.
            table = torch.einsum("ba...,bay->b...y", table, bridges[:, i])
        return table.reshape(self.x.shape[0], -1)


def fill(x: Tensor, law: Law, where: Tensor, generator: Generator) -> Tensor:
    """``x`` (B, L) with its masked positions ``where`` (B, L) drawn, each on its own."""
    return x.masked_scatter(where, as_product(law).sample_where(where, generator))


def product_table(rows: Tensor) -> Tensor:
    """Independent positions (B, L, V) → the probability of every state (B, V^L)."""
    table = rows[:, 0]
    for i in range(1, rows.shape[1]):
        table = (table[:, :, None] * rows[:, i, None, :]).reshape(rows.shape[0], -1)
    return table


def law_table(law: Law, vocab_size: int) -> Tensor:
    """Probability of every clean sequence, over states that may hold a mask too: (B, V^L)."""
    table = law.enumerate().double().exp()
    if law.vocab_size == vocab_size:
        return table
    wide = table.new_zeros(law.batch_size, *(vocab_size,) * law.length)
    clean = (slice(None), *(slice(0, law.vocab_size),) * law.length)
    wide[clean] = table.reshape(law.batch_size, *(law.vocab_size,) * law.length)
    return wide.reshape(law.batch_size, -1)


def one_hot(x: Tensor, vocab_size: int) -> Tensor:
    """(...) int64 → (..., V) float64."""
    out = torch.zeros(*x.shape, vocab_size, dtype=torch.float64, device=x.device)
    return out.scatter_(-1, x[..., None], 1.0)
