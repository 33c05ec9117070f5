"""A head whose law is a hidden chain with one transition matrix and hundreds of states."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fewjump.denoiser.heads import Head, ProductHead, register_head
from fewjump.denoiser.joint_heads.states import checked_template, require_positive
from fewjump.denoiser.transformer import zero_linear
from fewjump.law.emission_factored import SharedFactorEmission
from fewjump.law.shared_chain import SharedChainLaw
from fewjump.process import Process

# Logits of q(z|x): how much a token prefers the states that are its own at the start, and how
# unlike each other those are. States that are alike would have the same gradient for ever.
_HOME, _SPREAD = 3.0, 0.5


@register_head
class SharedChainHead(Head):
    """p(x₀, z|x_t) ∝ Πᵢ softmax(uᵢ)(x₀ⁱ)·q(zⁱ|x₀ⁱ)·exp(cᵢ(zⁱ)) Πᵢ exp(A(zⁱ, zⁱ⁺¹)).

    u are the product logits of the trunk, c linear in its features; q, which states stand for a
    token, and A are tables shared by all positions and inputs. With A = c = 0 the states are
    independent labels of independent tokens, so the law *is* the product law, whatever q: states
    mean something from the first step, and what is learned first is A, the chain's bigrams. A
    visible token tells all others through the chain, exactly, without the network's help.

    Use many states: on text with 27 symbols, 256 of them cost less than the trunk.

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        states: r; time grows with L·r².
        length: if given, adds a free cᵢ for each of ``length`` positions, for data whose positions
            have a meaning of their own. The first and the last position always have one.
        table_rate: multiple of the learning rate for the tables: an entry of A is a log-weight of
            its own and moves by several units until its states stand for a context. Short
            trainings and long sequences want more (100 on windows of 64 characters), where
            gradients are less noisy.
    """

    kind = "shared-chain"

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        states: int = 128,
        length: int | None = None,
        table_rate: float = 30.0,
    ) -> None:
        super().__init__(hidden, vocab_size)
        require_positive(states=states)
        if not 0 < table_rate < math.inf:
            raise ValueError(f"table_rate must be above 0, got {table_rate}")
        self.states, self.length, self.table_rate = states, length, table_rate
        self.base = ProductHead(hidden, vocab_size)
        self.potential = zero_linear(hidden, states)
        self.membership = nn.Parameter(_spread_homes(vocab_size, states))
        self.transition = nn.Parameter(torch.zeros(states, states))
        self.ends = nn.Parameter(torch.zeros(2, states))
        self.template = None if length is None else nn.Parameter(torch.zeros(length, states))
        for table in (self.membership, self.transition, self.ends, self.template):
            if table is not None:
                table.lr_scale = table_rate  # type: ignore[attr-defined]

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "states": self.states,
            "length": self.length,
            "table_rate": self.table_rate,
        }

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> SharedChainLaw:
        logits = self.base(features, x_t, process).logits
        emission = SharedFactorEmission(logits, self.membership.log_softmax(-1).T)
        potential = self.potential(features) + emission.log_normaliser
        after = (0, 0, features.shape[1] - 1, 0)
        before = (0, 0, 0, features.shape[1] - 1)
        potential = potential + nn.functional.pad(self.ends[:1], before)
        potential = potential + nn.functional.pad(self.ends[1:], after)
        if self.template is not None:
            potential = potential + checked_template(self.template, features.shape[1])
        return SharedChainLaw(potential, self.transition, emission)

    def warm_start(self, product: ProductHead) -> None:
        self.base.load_state_dict(product.state_dict())
        zeros = [self.potential.weight, self.potential.bias, self.transition, self.ends]
        for parameter in [*zeros, *([] if self.template is None else [self.template])]:
            parameter.data.zero_()


def _spread_homes(vocab_size: int, states: int) -> Tensor:
    """Logits of q(z|x), (V, r): each token begins with states of its own, as far as they go."""
    token = torch.arange(vocab_size)[:, None]
    at_home = (token - torch.arange(states)) % min(vocab_size, states) == 0
    return _HOME * at_home.float() + _SPREAD * torch.randn(vocab_size, states)
