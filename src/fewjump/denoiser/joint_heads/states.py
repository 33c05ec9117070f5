"""Parameters that the joint heads share, and why they can leave the product law they start at.

Every joint head adds to the product head's logits a correction a(z)·W, with W zero and a(z) random
and different for every state (or component) z. With W = 0 the law *is* the product law. The first
gradient reaches W alone, and then the states move apart; two states with equal parameters would
have equal gradients for ever.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewjump.law.base import Law
from fewjump.law.emission import position_rows
from fewjump.law.log_weights import at_least_float32
from fewjump.random import Generator

#: Multiple of the learning rate for tables that no layer stands in front of.
TABLE_RATE = 10.0


class StateFeatures(nn.Module):
    """a_i(z) = C_z·g(features_i) + c_z: for each position and state a vector of ``rank`` numbers.

    Args:
        hidden: width D of the trunk's features.
        states: number of states (or components) r.
        rank: size of each vector.
        width: of the hidden layer g, which carries most of the head's cost.
        length: if given, adds a free vector for each of ``length`` positions and each state:
            templates. For data whose positions have a meaning of their own, such as images.
    """

    def __init__(
        self, hidden: int, states: int, rank: int, width: int, length: int | None = None
    ) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.body = nn.Sequential(nn.Linear(hidden, width), nn.GELU(approximate="tanh"))
        self.project = nn.Linear(width, states * rank)
        nn.init.normal_(self.project.weight, std=width**-0.5)
        self.project.bias.data.copy_(spread(states, rank).flatten())
        self.template: nn.Parameter | None = None
        if length is not None:
            self.template = nn.Parameter(torch.randn(length, states * rank))

    def forward(self, features: Tensor) -> Tensor:
        """(B, L, D) → (B, L, r, rank)."""
        return self._vectors(self.body(features))

    def _vectors(self, inner: Tensor) -> Tensor:
        out = self.project(inner)
        if self.template is not None:
            out = out + self._checked_template(inner)
        return out.unflatten(-1, (self.states, self.rank))

    def logits(self, features: Tensor, tokens: TokenFactor) -> Tensor:
        """``tokens(self(features))``, (B, L, r, V), by whichever order multiplies less."""
        return self.logits_of(self.body(features), tokens)

    def logits_of(self, inner: Tensor, tokens: TokenFactor) -> Tensor:
        """:meth:`logits` of what ``body`` makes of the features, (B, L, width)."""
        vocab_size, width = tokens.weight.shape[0], self.project.in_features
        if vocab_size * width > self.rank * (width + vocab_size):
            return tokens(self._vectors(inner))
        # (W·C)·g instead of W·(C·g): the product of the two small matrices comes first.
        shape = (self.states, self.rank)
        weight = tokens(self.project.weight.unflatten(0, shape).transpose(1, 2))
        bias = tokens(self.project.bias.unflatten(0, shape))
        if self.template is not None:
            bias = bias + tokens(self._checked_template(inner).unflatten(-1, shape))
        out = inner @ weight.transpose(0, 1).flatten(1)
        return (out + bias.flatten(-2)).unflatten(-1, (self.states, vocab_size))

    def of_state(self, inner: Tensor, index: Tensor) -> Tensor:
        """The vectors of state ``index`` (B,) of each row, from ``body``'s output: (B, L, rank)."""
        shape = (self.states, self.rank)
        weight = self.project.weight.unflatten(0, shape)[index]
        out = torch.baddbmm(
            self.project.bias.unflatten(0, shape)[index][:, None], inner, weight.transpose(1, 2)
        )
        if self.template is not None:
            template = self._checked_template(inner).unflatten(-1, shape)
            out = out + template[:, index].transpose(0, 1)
        return out

    def template_features(self, positions: Tensor | slice = slice(None)) -> Tensor:
        """What the vectors are to features that g maps to 0, at n positions: (n, r·rank)."""
        assert self.template is not None
        return self.template[positions] + self.project.bias

    def _checked_template(self, features: Tensor) -> Tensor:
        assert self.template is not None
        return checked_template(self.template, features.shape[1])


def checked_template(template: Tensor, length: int) -> Tensor:
    """The free vectors of a head's positions; raises ValueError for sequences of another length."""
    if template.shape[0] != length:
        raise ValueError(
            f"this head was built for length={template.shape[0]}, got sequences of {length}; "
            "length=None takes any length"
        )
    return template


def spread(states: int, rank: int) -> Tensor:
    """Random vectors (states, rank) of norm √rank, orthogonal as far as the rank allows."""
    codes = torch.empty(states, rank)
    nn.init.orthogonal_(codes)
    return codes * (rank**0.5 / codes.norm(dim=-1, keepdim=True))


class TokenFactor(nn.Module):
    """The matrix W (V, rank) of a correction a·W: zero until trained."""

    def __init__(self, vocab_size: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocab_size, rank))

    def forward(self, features: Tensor) -> Tensor:
        """(..., rank) → (..., V)."""
        return nn.functional.linear(features, self.weight)


class ComponentWeights(nn.Module):
    """Log-weights of K components from the mean over positions; equal until trained."""

    def __init__(self, hidden: int, components: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(approximate="tanh"))
        self.out = nn.Linear(hidden, components)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, L, D) → (B, K)."""
        return self.out(self.body(features).mean(1))


def visible_evidence(
    base: Tensor, tables: Callable[[Tensor | slice], Tensor], x_t: Tensor, mask: int
) -> Tensor:
    """log-likelihood of the visible tokens of x_t under each component: (B, K).

    Args:
        base: (L, V), added to the logits of all components.
        tables: (n, K, V) logits of the components at n positions, a slice or (n,); overwritten.
        x_t: (B, L) tokens.
        mask: the token that says nothing and is never drawn.
    """
    hidden = x_t == mask
    base = base.index_fill(-1, torch.tensor(mask, device=x_t.device), -torch.inf)
    if torch.is_grad_enabled():
        logits = base[:, None] + tables(slice(None))
        each = position_rows(logits, x_t) - logits.logsumexp(-1)
    else:
        # To draw, what is hidden in all rows need not be looked at.
        seen = (~hidden.all(0)).nonzero()[:, 0]
        logits = at_least_float32(tables(seen)).add_(base[seen][:, None])
        found = position_rows(logits, x_t[:, seen]) - logits.logsumexp(-1)
        each = found.new_zeros(*x_t.shape, found.shape[-1])
        each[:, seen] = found
    return each.masked_fill(hidden[..., None], 0.0).sum(1)


@torch.no_grad()
def moved(law: Law, reference: Law, draws: int = 1, generator: Generator = None) -> Tensor:
    """KL(law ‖ reference) in nats per sequence, estimated from draws of ``law``: (B,).

    With the teacher's product law as reference it is 0 at a warm start. For a student that kept the
    teacher's marginals it is the total correlation the student has found.

    Args:
        law: the student's law.
        reference: the law it is compared with, for the same x_t.
        draws: sequences drawn for each row; the estimate is unbiased for any number.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    total = torch.zeros((), device=law.device)
    for _ in range(draws):
        x0 = law.sample(generator)
        total = total + law.log_prob(x0) - reference.log_prob(x0)
    return total / draws
