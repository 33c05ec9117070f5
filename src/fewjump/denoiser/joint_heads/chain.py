"""Heads whose law is a chain of hidden states over positions, or a mixture of such chains."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fewjump.config import check_counts
from fewjump.denoiser import constrain
from fewjump.denoiser.heads import JointHead
from fewjump.denoiser.joint_heads.states import (
    ComponentWeights,
    StateFeatures,
    TokenFactor,
    checked_template,
    spread,
)
from fewjump.denoiser.transformer import zero_linear
from fewjump.law.chain import ChainLaw, ChainMethod
from fewjump.law.emission import (
    DenseEmission,
    Emission,
    LowRankEmission,
    SharedFactorEmission,
)
from fewjump.law.mixture import MixtureOf
from fewjump.law.transition import Transition
from fewjump.process import Process

EmissionKind = Literal["dense", "shared", "low-rank"]


class ChainParameters(nn.Module):
    """Initial law, transitions and emissions of a chain from features and product logits.

    Emissions start equal in all states, so the law is the product law. Transitions start with a
    preference for staying and a little noise. Training has local optima in which two tokens share
    their states: give the chain several times as many states as it seems to need.

    Args:
        hidden, vocab_size, states, rank, width, length: as for :class:`ChainHead`.
        emission: as for :class:`ChainHead`.
        method: as for :class:`ChainHead`.
    """

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        states: int,
        emission: EmissionKind | None,
        rank: int,
        width: int,
        length: int | None,
        method: ChainMethod,
    ) -> None:
        super().__init__()
        check_counts(states=states, rank=rank, width=width)
        if emission is None:
            emission = "dense" if vocab_size < constrain.DEFER_FROM else "low-rank"
        if emission not in get_args(EmissionKind):
            known = ", ".join(get_args(EmissionKind))
            raise ValueError(f"unknown emission {emission!r}; known: {known}")
        self.count: int = states
        self.emission: EmissionKind = emission
        self.method: ChainMethod = method
        self.initial = nn.Linear(hidden, states)
        self.earlier = nn.Linear(hidden, width)
        self.later = nn.Linear(hidden, width, bias=False)
        self.transition = nn.Linear(width, states * states)
        self._start_sticky()
        # A state that starts rare dies before it has a use: begin with all of them alike.
        nn.init.zeros_(self.initial.bias)
        nn.init.normal_(self.initial.weight, std=0.1 * hidden**-0.5)
        self.tokens = TokenFactor(vocab_size, rank)
        if emission == "shared":
            self.codes = nn.Parameter(spread(states, rank))
        else:
            self.states = StateFeatures(hidden, states, rank, width, length)

    def _start_sticky(self) -> None:
        stay = math.log(max(1, self.count - 1)) + 1
        bias = 0.5 * torch.randn(self.count, self.count) + stay * torch.eye(self.count)
        self.transition.bias.data.copy_(bias.flatten())

    def forward(self, features: Tensor, base: Tensor) -> ChainLaw:
        """The law for features (B, L, D) and constrained product logits (B, L, V)."""
        initial = self.initial(features[:, 0])
        pair = self.earlier(features[:, :-1]) + self.later(features[:, 1:])
        transition = self.transition(nn.functional.gelu(pair, approximate="tanh"))
        transition = transition.unflatten(-1, (self.count, self.count))
        return ChainLaw(initial, transition, self._emission(features, base), self.method)

    def _emission(self, features: Tensor, base: Tensor) -> Emission:
        if self.emission == "shared":
            return SharedFactorEmission(base, self.tokens(self.codes))
        if self.emission == "low-rank":
            return LowRankEmission(base, self.states(features), self.tokens.weight)
        return DenseEmission(self.states.logits(features, self.tokens) + base[:, :, None])


class ChainHead(JointHead):
    """Hidden Markov law with r states, all of whose factors come from the trunk.

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        states: r; time grows with L·r².
        emission: ``dense`` ((B, L, r, V) logits; small V), ``low-rank`` (the same law, whose
            normalisers are computed in chunks: nothing of size r·V per position) or ``shared``
            (one r×V factor for all positions: cheapest and weakest). By default ``dense`` below
            8,192 tokens, ``low-rank`` from there on.
        rank: rank of the correction a state makes to the product logits.
        width: of the hidden layers between features and factors.
        length: see :class:`~fewjump.denoiser.joint_heads.states.StateFeatures`; not for ``shared``.
        method: see :class:`~fewjump.law.chain.ChainLaw`.
    """

    kind = "chain"
    vanishing = ("chain.tokens.weight",)

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        states: int = 32,
        emission: EmissionKind | None = None,
        rank: int = 32,
        width: int = 64,
        length: int | None = None,
        method: ChainMethod = "sequential",
    ) -> None:
        super().__init__(hidden, vocab_size)
        _check_template(emission, length)
        self.rank, self.width, self.length = rank, width, length
        self.chain = ChainParameters(
            hidden, vocab_size, states, emission, rank, width, length, method
        )
        self.states, self.method, self.emission = states, method, self.chain.emission

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> ChainLaw:
        return self.chain(features, self.base(features, x_t, process).logits)


class MixtureOfChainsHead(JointHead):
    """K hidden Markov laws and their weights: one global choice, then a sequential law.

    Costs K times the chain head. Component k sees the features plus an embedding of k.

    Args:
        hidden, vocab_size, states, emission: as for :class:`ChainHead`.
        rank, width, length, method: as for :class:`ChainHead`.
        components: K.
    """

    kind = "mixture-of-chains"
    vanishing = ("chain.tokens.weight",)
    mixture = True

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        components: int = 8,
        states: int = 16,
        emission: EmissionKind | None = None,
        rank: int = 32,
        width: int = 64,
        length: int | None = None,
        method: ChainMethod = "sequential",
    ) -> None:
        super().__init__(hidden, vocab_size)
        check_counts(components=components)
        _check_template(emission, length)
        self.components, self.rank, self.width, self.length = components, rank, width, length
        self.embedding = nn.Parameter(torch.randn(components, hidden))
        self.chain = ChainParameters(
            hidden, vocab_size, states, emission, rank, width, length, method
        )
        self.states, self.method, self.emission = states, method, self.chain.emission
        self.weights = ComponentWeights(hidden, components)

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> MixtureOf:
        base = self.base(features, x_t, process).logits
        each = (features[:, None] + self.embedding[:, None].to(features.dtype)).flatten(0, 1)
        law = self.chain(each, base.repeat_interleave(self.components, 0))
        return MixtureOf(law, self.weights(features))


def _check_template(emission: str | None, length: int | None) -> None:
    if emission == "shared" and length is not None:
        raise ValueError(
            "a shared factor is the same at every position and takes no length; "
            "use emission='dense' or 'low-rank' for per-position templates"
        )


# Logits of q(z|x): how much a token prefers the states that are its own at the start, and how
# unlike each other those are. States that are alike would have the same gradient for ever.
_HOME, _SPREAD = 3.0, 0.5


class SharedChainHead(JointHead):
    """p(x₀, z|x_t) ∝ Πᵢ softmax(uᵢ)(x₀ⁱ)·q(zⁱ|x₀ⁱ)·exp(cᵢ(zⁱ)) Πᵢ exp(A(zⁱ, zⁱ⁺¹)).

    u are the product logits of the trunk, c linear in its features; q, which states stand for a
    token, and A are tables shared by all positions and inputs. With A = c = 0 the law *is* the
    product law, whatever q. A visible token tells all others through the chain, exactly, without
    the network's help.

    Use many states: on text with 27 symbols, 256 of them cost less than the trunk. From a thousand
    on give them ``blocks``: exp(A) is then a block matrix
    (:class:`~fewjump.law.transition.Transition`).

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        states: r; time grows with L·r², with ``blocks`` of B states with L·r·(B + r/B).
        blocks: B, a divisor of r near its root; None for a dense A.
        length: if given, adds a free cᵢ for each of ``length`` positions, for data whose positions
            have a meaning of their own. The first and the last position always have one.
        table_rate: multiple of the learning rate for the tables: an entry of A is a log-weight of
            its own and moves by several units until its states stand for a context. Short
            trainings and long sequences want more (100 on windows of 64 characters), where
            gradients are less noisy.
    """

    kind = "shared-chain"
    vanishing = "potential.weight", "potential.bias", "transition", "second", "ends", "template"

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        states: int = 128,
        length: int | None = None,
        table_rate: float = 30.0,
        blocks: int | None = None,
    ) -> None:
        super().__init__(hidden, vocab_size)
        check_counts(states=states, blocks=1 if blocks is None else blocks)
        if blocks is not None and states % blocks:
            raise ValueError(f"blocks must divide states={states}, got {blocks}")
        if not 0 < table_rate < math.inf:
            raise ValueError(f"table_rate must be above 0, got {table_rate}")
        self.states, self.length, self.table_rate = states, length, table_rate
        self.blocks = blocks
        self.potential = zero_linear(hidden, states)
        self.membership = nn.Parameter(_spread_homes(vocab_size, states))
        size = states // (blocks or 1)
        first = (states, states) if blocks is None else (blocks, size, size)
        self.transition = nn.Parameter(torch.zeros(first))
        self.second: nn.Parameter | None = None
        if blocks is not None:
            self.second = nn.Parameter(torch.zeros(size, blocks, blocks))
        self.ends = nn.Parameter(torch.zeros(2, states))
        self.template = None if length is None else nn.Parameter(torch.zeros(length, states))
        tables = (self.membership, self.transition, self.second, self.ends, self.template)
        for table in tables:
            if table is not None:
                table.lr_scale = table_rate  # type: ignore[attr-defined]

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> ChainLaw:
        logits = self.base(features, x_t, process).logits
        emission = SharedFactorEmission(logits, self.membership.log_softmax(-1).T)
        others = features.shape[1] - 1
        own = nn.functional.pad(self.ends[:1], (0, 0, 0, others))
        own = own + nn.functional.pad(self.ends[1:], (0, 0, others, 0))
        if self.template is not None:
            own = own + checked_template(self.template, features.shape[1])
        potential = self.potential(features) + emission.log_normaliser + own
        if self.second is None:
            return ChainLaw(potential, self.transition, emission)
        return ChainLaw(potential, Transition((self.transition, self.second)), emission)


def _spread_homes(vocab_size: int, states: int) -> Tensor:
    """Logits of q(z|x), (V, r): each token begins with states of its own, as far as they go."""
    token = torch.arange(vocab_size)[:, None]
    at_home = (token - torch.arange(states)) % min(vocab_size, states) == 0
    return _HOME * at_home.float() + _SPREAD * torch.randn(vocab_size, states)
