"""A law with an exact left-to-right factorisation, and what it can and cannot be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.inversion import invert_logits
from fewjump.law.base import Decoding, Law
from fewjump.law.batched import SHARED, Batched
from fewjump.law.cross_entropy import token_log_prob
from fewjump.law.log_weights import nucleus, refuse_twice
from fewjump.law.logits import Logits
from fewjump.law.product import ProductLaw
from fewjump.random import Generator, SampleStreams, categorical, uniform

_EXACT_MARGINAL_STATES = 4096


class Conditionals(Batched, ABC):
    """The conditionals of an autoregressive law, as logits.

    They are taken along an order of the positions: each reads the tokens of the positions before
    it in the order.

    Attributes:
        order: (B, L) int64, the positions of each row in their order; None for left to right.
    """

    length: int
    vocab_size: int
    order: Tensor | None = None

    @abstractmethod
    def source(self, x0: Tensor) -> Logits:
        """All positions at once: (B, L) → (B, L, V), each where it stands in the sequence."""

    @abstractmethod
    def begin(self) -> Walk:
        """A fresh walk along the order, which caches what earlier positions computed."""

    def given(self, x0: Tensor, known: Tensor) -> Conditionals | None:
        """The conditionals once the tokens ``x0`` (B, L) are known where ``known`` holds.

        None (the default) where conditionals answer for their one order only.
        """
        del x0, known
        return None

    def marginals(self) -> Tensor | None:
        """The law's :meth:`~fewjump.law.Law.marginals`; None where they have no closed form."""
        return None

    def product_logits(self) -> Logits:
        """What is said of each position before any token is read: (B, L, V).

        Raises:
            ValueError: for conditionals that begin with nothing of the kind.
        """
        raise ValueError(
            "these conditionals have no product of their own to draft from; pass draft="
        )


class Walk(ABC):
    """One pass along the order of the positions."""

    @abstractmethod
    def next_logits(self, step: int, x0: Tensor) -> Tensor:
        """Logits (B, V) of the position that is ``step``-th in each row's order.

        Reads the tokens of the positions before it, from ``x0`` (B, L). Called once for each step.
        """

    def skip(self, steps: int, x0: Tensor) -> None:
        """Go past the first ``steps`` positions, whose tokens are known: called first or never."""
        for step in range(steps):
            self.next_logits(step, x0)


class RowsAhead:
    """Logits of the position that is k-th in each row's order, for a walk: read for many k at once.

    Args:
        source: of the logits, (B, L, V).
        order: (B, L) int64; None for left to right.
    """

    def __init__(self, source: Logits, order: Tensor | None = None) -> None:
        batch, length = source.batch_size, source.length
        if order is None:
            order = torch.arange(length, device=source.device).expand(batch, -1)
        first = torch.arange(0, batch * length, length, device=source.device)
        self._index = (order + first[:, None]).T
        self._source, self._start = source, 0
        self._most = max(1, source.rows_at_once() // max(1, batch))
        self._rows: Tensor | None = None

    def __getitem__(self, step: int) -> Tensor:
        """Logits (B, V), not to be written to; without gradients."""
        if self._rows is None or not 0 <= step - self._start < len(self._rows):
            part = self._index[step : step + self._most]
            self._start = step
            self._rows = self._source.read(part.flatten()).unflatten(0, part.shape)
        return self._rows[step - self._start]


class WeightedSamples(NamedTuple):
    """Result of :meth:`AutoregressiveLaw.sample_given`.

    Attributes:
        samples: (B, L) int64, one resampled sequence for each row.
        effective_sample_size: (B,), in [1, particles]: near 1 the draw is not to be trusted.
    """

    samples: Tensor
    effective_sample_size: Tensor


class FixedPointSamples(NamedTuple):
    """Result of :meth:`AutoregressiveLaw.sample_fixed_point`.

    Attributes:
        samples: (B, L) int64.
        passes: (B,) int64, how often all positions of a row were computed, at most L + 1.
    """

    samples: Tensor
    passes: Tensor


@dataclass(eq=False)
class AutoregressiveLaw(Law):
    """p(x₀|x_t) = Πᵢ p(x₀ⁱ | x₀^{<i}, x_t), where < is the order of the conditionals.

    Log-probabilities are exact, in one parallel pass; sampling is sequential in the positions that
    are not known. :meth:`marginals` has a closed form only if the conditionals know one and nothing
    is tempered. Otherwise it is exact by enumeration up to 4096 sequences, and beyond an unbiased
    average of conditionals over ``marginal_samples`` own draws (from a fixed seed).
    :meth:`tempered` sharpens each conditional as it is drawn. Positions that x_t shows are certain
    in the conditionals themselves and may stand anywhere; see :meth:`given` for others.

    Args:
        conditionals: the factors.
        marginal_samples: draws that :meth:`marginals` averages over.
        temperature, top_p: applied to every conditional.
        x0, known: (B, L) known tokens, pinned: the first ones of the order, or certain.
        certain: (B, L) int64, the token where the conditionals leave no other, −1 elsewhere.
        decoding: how :meth:`sample` draws; None walks along the order.
        draft: the law that ``decoding`` drafts from, if it drafts: of the same rows.
    """

    conditionals: Conditionals
    marginal_samples: int = field(default=64, metadata=SHARED)
    temperature: float = field(default=1.0, metadata=SHARED)
    top_p: float = field(default=1.0, metadata=SHARED)
    x0: Tensor | None = None
    known: Tensor | None = None
    certain: Tensor | None = None
    decoding: Decoding | None = field(default=None, metadata=SHARED)
    draft: Law | None = None
    conditions_exactly = False

    def __post_init__(self) -> None:
        conditionals = self.conditionals
        self.batch_size, self.length = conditionals.batch_size, conditionals.length
        self.vocab_size = conditionals.vocab_size

    def _shape(self, logits: Tensor) -> Tensor:
        if self.temperature == 1 and self.top_p == 1:
            return logits
        return nucleus(logits, self.temperature, self.top_p)

    def along(self, x0: Tensor) -> ProductLaw:
        """The conditionals along ``x0`` (B, L), side by side."""
        source = self.conditionals.source(x0)
        if (self.temperature, self.top_p) != (1, 1):
            source = source.tempered(self.temperature, self.top_p)
        if self.x0 is not None and self.known is not None:
            source = source.given(self.x0, self.known)
        return ProductLaw(source)

    def logits(self, x0: Tensor) -> Tensor:
        """Logits of every conditional along ``x0`` (B, L): (B, L, V)."""
        return self.along(x0).logits

    def token_log_prob(self, x0: Tensor) -> Tensor:
        """Log-probability of each token of ``x0`` (B, L) given those before it: (B, L)."""
        x0 = self.checked(x0)
        along = self.along(x0)
        if along.source.deferred:
            return along.token_log_prob(x0)
        return token_log_prob(along.logits, x0)

    def log_prob(self, x0: Tensor) -> Tensor:
        return self.token_log_prob(x0).sum(-1)

    def sample(self, generator: Generator = None) -> Tensor:
        if self.decoding is not None:
            return self.decoding.draw(self, generator)
        return self._walked(self.length, generator)

    def sample_at(self, where: Tensor, generator: Generator = None) -> Tensor:
        """The tokens of :meth:`sample` there, from as much of its walk as they need."""
        if self.decoding is not None:
            return self.sample(generator)
        order = self.conditionals.order
        steps = (where if order is None else where.gather(1, order)).any(0).nonzero()
        return self._walked(int(steps[-1]) + 1 if len(steps) else 0, generator)

    @torch.no_grad()
    def _walked(self, steps: int, generator: Generator) -> Tensor:
        """The first ``steps`` positions of each row's order, drawn one after another."""
        walk, order = self.conditionals.begin(), self.conditionals.order
        pinned, known = self.pinned()
        x0 = pinned.clone()
        u = uniform((self.batch_size, self.length), generator, self.device)
        if order is not None:
            u, known, pinned = (each.gather(1, order) for each in (u, known, pinned))
        leading = known.long().cumprod(1).sum(1)
        start = min(steps, int(leading.min())) if len(leading) else steps
        if start < steps:
            walk.skip(start, x0)
        shares, pins = u.unbind(1), known.any(0).tolist()
        places = x0.unbind(1) if order is None else order.split(1, 1)
        for step in range(start, steps):
            drawn = invert_logits(self._shape(walk.next_logits(step, x0)), shares[step])
            if pins[step]:
                drawn = torch.where(known[:, step], pinned[:, step], drawn)
            if order is None:
                places[step].copy_(drawn)
            else:
                x0.scatter_(1, places[step], drawn[:, None])
        return x0

    @torch.no_grad()
    def sample_fixed_point(self, generator: Generator = None) -> FixedPointSamples:
        """The draw of :meth:`sample`, found with all positions side by side.

        For given uniform numbers the draw is the fixed point of drawing every position anew from
        the last guess (Jacobi's iteration: Song et al., arXiv 2002.03629). The first k tokens are
        right after k passes; where tokens depend little on each other it ends earlier.

        It is the same sample, but where a uniform number falls within rounding of the boundary
        between two tokens.
        """
        pinned, known = self.pinned()
        u = uniform((self.batch_size, self.length), generator, self.device)
        x0 = pinned.clone()
        passes = torch.zeros(self.batch_size, dtype=torch.int64, device=self.device)
        rows = torch.arange(self.batch_size, device=self.device)
        law = self
        for _ in range(self.length + 1):
            drawn = law.along(x0[rows]).invert(u[rows])
            drawn = torch.where(known[rows], pinned[rows], drawn)
            moving = (drawn != x0[rows]).any(1)
            passes[rows] += 1
            x0[rows] = drawn
            if not bool(moving.any()):
                break
            if not bool(moving.all()):
                rows, law = rows[moving], law.select(moving)
        return FixedPointSamples(x0, passes)

    def cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        """One draw of the prefix; each position's own token is summed out for a product target.

        Unbiased, and never of higher variance than −log p of the same draw (Rao–Blackwell).
        """
        if not target.independent:
            return super().cross_entropy(target, generator)
        return self.along(target.sample(generator)).cross_entropy(target)

    def summed_cross_entropy(self, target: Law, generator: Generator = None) -> Tensor:
        return self.cross_entropy(target, generator)

    def marginals(self) -> Tensor:
        exact = self.conditionals.marginals() if (self.temperature, self.top_p) == (1, 1) else None
        if exact is not None:
            return exact
        if self.vocab_size**self.length <= _EXACT_MARGINAL_STATES:
            return self._enumerated_marginals()
        total = 0.0
        same = torch.zeros(self.batch_size, dtype=torch.int64, device=self.device)
        for draw in range(self.marginal_samples):
            # The same for every row: an estimate must not depend on the batch that a row is in.
            sample = self.sample(SampleStreams(draw, same))
            total = total + self.along(sample).marginals()
        return torch.as_tensor(total) / self.marginal_samples

    def _enumerated_marginals(self) -> Tensor:
        rows, size, length = self.batch_size, self.vocab_size, self.length
        joint = self.enumerate().exp().reshape(rows, *(size,) * length)
        shape = (rows, size, size ** (length - 1))
        aside = (joint.movedim(i + 1, 1).reshape(shape) for i in range(length))
        return torch.stack([one.sum(-1) for one in aside], 1)

    def conditional_logits(self, x0: Tensor) -> Tensor:
        self.check_left_to_right()
        return self.logits(x0)

    def check_left_to_right(self) -> None:
        """Raise ValueError where positions that are not known come in another order."""
        order = self.conditionals.order
        if order is None:
            return
        later = order.masked_fill(self.pinned()[1].gather(1, order), -1)
        if bool(((later >= 0) & (later < later.cummax(1).values)).any()):
            raise ValueError(
                "this law does not draw its unknown positions from left to right, as a joint draft "
                "does; leave the draft out, give a product model, whose positions are independent, "
                "or use decoding='fixed-point'"
            )

    def decoded(self, decoding: Decoding, draft: Law | None = None) -> AutoregressiveLaw:
        return replace(self, decoding=decoding, draft=draft)

    def drafting(self) -> Law:
        """What positions are drafted from where ``decoding`` drafts; see :attr:`draft`."""
        if self.draft is not None:
            return self.draft
        return ProductLaw(self.conditionals.product_logits()).tempered(self.temperature, self.top_p)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> AutoregressiveLaw:
        nucleus(torch.zeros(1), temperature, top_p)  # refuses bad values before any sampling
        if temperature == 1 and top_p == 1:
            return self
        refuse_twice(self.temperature, self.top_p)
        return replace(self, temperature=temperature, top_p=top_p)

    def pinned(self) -> tuple[Tensor, Tensor]:
        """The tokens that are known or certain, and where they are: (B, L) each."""
        if self.certain is None:
            x0 = torch.zeros(self.batch_size, self.length, dtype=torch.int64, device=self.device)
            known = x0.bool()
        else:
            x0, known = self.certain.clamp(min=0), self.certain >= 0
        if self.x0 is not None and self.known is not None:
            x0, known = torch.where(self.known, self.x0, x0), self.known | known
        return x0, known

    def given(self, x0: Tensor, known: Tensor) -> AutoregressiveLaw:
        """Condition on known positions, as far as the conditionals can.

        Conditionals of any order (see :meth:`Conditionals.given`) put the known positions first.
        The result is the law that they say then; two orders of one network agree as far as it has
        learned to.

        Others are exact where the known positions are a left prefix of the positions still
        uncertain. The conditional on a known position to the right of an unknown one has no closed
        form: pinning the token while sampling from left to right would *not* be it.

        Raises:
            ValueError: for known positions that are neither a prefix nor certain already, with
                conditionals of one order.
        """
        x0 = self.checked(x0, known)
        pinned, before = self.pinned()
        known = known | before
        x0 = torch.where(before, pinned, x0)
        conditionals = self.conditionals.given(x0, known)
        if conditionals is not None:
            return replace(self, conditionals=conditionals, x0=x0, known=known)
        prefix = known.long().cumprod(-1).bool()
        loose = known & ~prefix & ~before
        if bool(loose.any()) and not bool(self._certain(x0)[loose].all()):
            raise ValueError(
                "an autoregressive law of one order conditions exactly on a left prefix only. Use "
                "an any-order head, show the known tokens in x_t (a prompt of a masked process), "
                "or draw from sample_given(x0, known, particles=...), which weights by importance"
            )
        return replace(self, x0=x0, known=known)

    def _certain(self, x0: Tensor) -> Tensor:
        """Whether each position can hold no token but ``x0``'s, whatever stands before it."""
        # Certainty comes from x_t and therefore shows on any prefix.
        along = self.along(x0)
        if along.source.deferred:
            return along.certain_of(x0)
        logits = along.logits
        at = logits.gather(-1, x0[..., None])[..., 0]
        return (at > -torch.inf) & ((logits > -torch.inf).sum(-1) == 1)

    @torch.no_grad()
    def sample_given(
        self, x0: Tensor, known: Tensor, particles: int = 64, generator: Generator = None
    ) -> WeightedSamples:
        """Draw given arbitrary known positions by importance resampling; approximate.

        Each particle is drawn from left to right with the known tokens filled in and weighted by
        their conditional probabilities; one is then drawn in proportion. Exact as ``particles``
        → ∞; the effective sample size says how far from it one is.
        """
        x0 = self.checked(x0, known)
        repeat = torch.arange(self.batch_size, device=self.device).repeat(particles)
        # Known tokens are pinned for the draw only; weights come from the unpinned conditionals.
        mine, before = self.pinned()
        pinned = replace(self, x0=torch.where(known, x0, mine), known=known | before)
        draws = torch.stack([pinned.sample(generator) for _ in range(particles)], 1)
        rows = self.select(repeat)
        flat = draws.transpose(0, 1).reshape(-1, self.length)
        token = rows.token_log_prob(flat)
        weight = token.masked_fill(~known[repeat], 0.0).sum(-1)
        weight = weight.reshape(particles, self.batch_size).T
        weight = torch.where((weight == -torch.inf).all(1, keepdim=True), 0.0, weight).softmax(-1)
        chosen = categorical(weight, generator)
        index = chosen[:, None, None].expand(-1, 1, self.length)
        size = 1 / weight.square().sum(-1)
        return WeightedSamples(draws.gather(1, index)[:, 0], size)
