"""Forward–backward for a batch of (hidden) Markov chains with per-position factors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from fewjump.law.base import row_chunks
from fewjump.law.contraction import contract, normalised, scaled


class ForwardBackward:
    """The weights initial(z¹)·Πᵢ transitionᵢ(zⁱ, zⁱ⁺¹)·Πᵢ emissionᵢ(zⁱ, xⁱ)·factorᵢ(xⁱ), summed.

    Messages are rescaled at every position (Rabiner 1989, section V.A), so nothing under- or
    overflows at any length; loops run over positions only.

    Args:
        initial: (T, S) non-negative.
        transition: (T, N, S, S) non-negative, N = 1 (the same step everywhere) or L−1.
        emission: (T, M, S, v) non-negative, M = 1 or L; None if the states are the tokens.
        factors: (B, L, v) non-negative.
        which: (B,) int64, which of the T chains each row uses.

    Attributes:
        factors: the factors, rescaled to a largest entry of 1 at each position.
        log_scale: (B,) log of what the rescaling took out.
        evidence: (B, L, S), Σ_x emissionᵢ(z, x)·factorᵢ(x).
        predicted: (B, L, S) law of the state given the factors before it.
        log_total: (B,) log of the total weight with the rescaled factors; −inf where it is 0.
    """

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        emission: Tensor | None,
        factors: Tensor,
        which: Tensor,
    ) -> None:
        self.initial = initial.double()
        self.transition = transition.double()
        self.emission = None if emission is None else emission.double()
        self.factors, self.log_scale = scaled(factors.double())
        self.which = which
        self.batch_size, self.length, _ = factors.shape
        self.evidence = self._evidence()
        self.predicted, self.log_total = self._forward()

    def with_memoryless(self, rows: Tensor, weights: Tensor) -> ForwardBackward:
        """Add a chain without memory, and let ``rows`` (B,) use it with factors ``weights``."""
        weights, _ = scaled(weights.double())
        emission = self.emission
        return ForwardBackward(
            _with_ones(self.initial),
            _with_ones(self.transition),
            None if emission is None else _with_ones(emission),
            torch.where(rows[:, None, None], weights, self.factors),
            torch.where(rows, self.initial.shape[0], self.which),
        )

    def step(self, i: int) -> Tensor:
        """Transitions from position i to i+1: (T, S, S)."""
        return self.transition[:, min(i, self.transition.shape[1] - 1)]

    def emission_at(self, i: int) -> Tensor:
        """Emission of position i: (T, S, v). Only with hidden states."""
        assert self.emission is not None
        return self.emission[:, min(i, self.emission.shape[1] - 1)]

    def _evidence(self) -> Tensor:
        emission = self.emission
        if emission is None:
            return self.factors
        if emission.shape[:2] == (1, 1):
            return self.factors @ emission[0, 0].mT
        out = self.factors.new_empty(self.batch_size, self.length, emission.shape[2])
        for rows in row_chunks(self.batch_size, emission[0].numel()):
            out[rows] = (emission[self.which[rows]] @ self.factors[rows, :, :, None])[..., 0]
        return out

    def _forward(self) -> tuple[Tensor, Tensor]:
        predicted = [self.initial[self.which]]
        log_total = self.factors.new_zeros(self.batch_size)
        for i in range(self.length):
            message = predicted[i] * self.evidence[:, i]
            total = message.sum(-1)
            log_total = log_total + total.log()
            message = message / torch.where(total > 0, total, 1.0)[:, None]
            if i + 1 < self.length:
                predicted.append(contract(self.step(i).mT, self.which, message))
        return torch.stack(predicted, 1), log_total

    @cached_property
    def backward(self) -> Tensor:
        """Weight of all later positions given the state at this one, rescaled: (B, L, S)."""
        message = torch.ones_like(self.evidence[:, 0])
        messages = [message]
        for i in range(self.length - 2, -1, -1):
            message = contract(self.step(i), self.which, self.evidence[:, i + 1] * message)
            message = message / message.amax(-1, keepdim=True)
            messages.append(message)
        return torch.stack(messages[::-1], 1)

    @cached_property
    def cavity(self) -> Tensor:
        """Law of each token with its own factor left out: (B, L, v), rows sum to 1."""
        states = normalised(self.predicted * self.backward)
        emission = self.emission
        if emission is None:
            return states
        if emission.shape[:2] == (1, 1):
            return normalised(states @ emission[0, 0])
        out = torch.empty_like(self.factors)
        for rows in row_chunks(self.batch_size, emission[0].numel()):
            out[rows] = (states[rows, :, None, :] @ emission[self.which[rows]])[:, :, 0]
        return normalised(out)

    def state_marginals(self) -> Tensor:
        """p(zⁱ|x_t): (B, L, S)."""
        return normalised(self.predicted * self.evidence * self.backward)

    def conditionals(self) -> Iterator[Tensor]:
        """p(zⁱ⁺¹ | zⁱ, x_t) for each i < L−1: (B, S, S); rows of states without future are 0."""
        for i in range(self.length - 1):
            ahead = self.evidence[:, i + 1] * self.backward[:, i + 1]
            yield normalised(self.step(i)[self.which] * ahead[:, None, :])

    def log_weight(self, x: Tensor) -> Tensor:
        """log of the weight of the tokens x (B, L), factors left out, summed over states: (B,)."""
        if self.emission is None:
            step = torch.arange(self.length - 1, device=x.device)
            step = step.clamp(max=self.transition.shape[1] - 1)
            moves = self.transition[self.which[:, None], step, x[:, :-1], x[:, 1:]]
            return self.initial[self.which, x[:, 0]].log() + moves.log().sum(-1)
        message = self.initial[self.which]
        total = message.new_zeros(self.batch_size)
        for i in range(self.length):
            message = message * self.emission_at(i).mT[self.which, x[:, i]]
            scale = message.sum(-1)
            total = total + scale.log()
            message = message / torch.where(scale > 0, scale, 1.0)[:, None]
            if i + 1 < self.length:
                message = contract(self.step(i).mT, self.which, message)
        return total


def _with_ones(tables: Tensor) -> Tensor:
    return torch.cat([tables, torch.ones_like(tables[:1])])


def check_shapes(
    initial: Tensor,
    transition: Tensor,
    emission: Tensor | None,
    factors: Tensor,
    which: Tensor | None,
) -> None:
    """Raise ValueError for tensors of :class:`ForwardBackward` that do not fit together.

    Without ``which`` there must be one chain, or one for each row.
    """
    batch_size, length, tokens = factors.shape
    chains, states = initial.shape[0], initial.shape[-1]
    steps = max(length - 1, 1)
    square = transition.shape[0] == chains and transition.shape[2:] == (states, states)
    if transition.dim() != 4 or not square or transition.shape[1] not in (1, steps):
        raise ValueError(
            f"transition must be ({chains}, 1 or {steps}, {states}, {states}), "
            f"got {tuple(transition.shape)}"
        )
    if emission is None and states != tokens:
        raise ValueError(f"{states} states cannot be {tokens} tokens: give an emission")
    if emission is not None and (
        emission.dim() != 4
        or emission.shape[0] != chains
        or emission.shape[1] not in (1, length)
        or emission.shape[2:] != (states, tokens)
    ):
        raise ValueError(
            f"emission must be ({chains}, 1 or {length}, {states}, {tokens}), "
            f"got {tuple(emission.shape)}"
        )
    if which is None and chains not in (1, batch_size):
        raise ValueError(f"{chains} chains for {batch_size} rows: say which chain each row uses")
