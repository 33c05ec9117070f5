"""Heads whose law is a mixture of product laws."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fewjump.config import check_counts
from fewjump.denoiser import constrain
from fewjump.denoiser.heads import JointHead
from fewjump.denoiser.joint_heads.states import (
    TABLE_RATE,
    ComponentWeights,
    StateFeatures,
    TokenFactor,
    visible_evidence,
)
from fewjump.law.batched import SHARED
from fewjump.law.emission import DenseEmission, Emission, LowRankEmission, SharedFactorEmission
from fewjump.law.log_weights import nucleus, refuse_twice
from fewjump.law.mixture import MixtureLaw
from fewjump.process import Process


class MixtureHead(JointHead):
    """logits of component k at position i: product logits + a_i(k)·W (METHOD section 4).

    One component is one global choice, made for all positions at once: what images want. With
    ``evidence`` the choice is Bayes' own: a component that makes the visible tokens likely is more
    likely, by its templates. A student that is right at t = 1 then stays right at smaller t. From
    8,192 tokens on the components' logits are never written down
    (:class:`~fewjump.law.emission.LowRankEmission`).

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        components: K.
        rank: size of a_i(k); V or more makes the corrections unrestricted.
        width: of the hidden layer between features and a_i(k).
        length: see :class:`~fewjump.denoiser.joint_heads.states.StateFeatures`.
        evidence: weigh the components by their templates' likelihood of the visible tokens. Needs
            ``length`` and an absorbing process; templates then learn at ten times the rate.
    """

    kind = "mixture"
    mixture = True

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        components: int = 16,
        rank: int = 32,
        width: int = 64,
        length: int | None = None,
        evidence: bool = False,
    ) -> None:
        super().__init__(hidden, vocab_size)
        check_counts(components=components, rank=rank, width=width)
        if evidence and length is None:
            raise ValueError("evidence=True compares templates with tokens: give length=…")
        self.components, self.rank, self.width = components, rank, width
        self.length = length
        self.states = StateFeatures(hidden, components, rank, width, length)
        self.tokens = TokenFactor(vocab_size, rank)
        self.weights = ComponentWeights(hidden, components)
        self.evidence = evidence
        if evidence:
            assert length is not None
            assert self.states.template is not None
            # What the product logits are to all-masked input, for the templates to stand on.
            self.prior = nn.Parameter(torch.zeros(length, vocab_size))
            self.log_weights = nn.Parameter(torch.zeros(components))
            for table in (self.prior, self.log_weights, self.states.template, self.tokens.weight):
                table.lr_scale = TABLE_RATE  # type: ignore[attr-defined]

    def check_process(self, process: Process) -> None:
        if self.evidence and not process.absorbing:
            raise ValueError(
                "evidence=True reads visible tokens and needs an absorbing process, not "
                f"{type(process).__name__}; use evidence=False"
            )

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> MixtureLaw:
        base = self.base(features, x_t, process).logits
        weights = self.weights(features)
        if self.evidence:
            weights = weights + self.log_weights + self._evidence(x_t, process)
        if self.vocab_size >= constrain.DEFER_FROM:
            emission = LowRankEmission(base, self.states(features), self.tokens.weight)
        elif torch.is_grad_enabled():
            emission = DenseEmission(self.states.logits(features, self.tokens) + base[:, :, None])
        else:
            inner = self.states.body(features).to(self.tokens.weight.dtype)
            emission = DeferredEmission(base, self, inner)
        return MixtureLaw(emission, weights)

    def emission(self, base: Tensor, inner: Tensor | None) -> Emission:
        """All components at once, from product logits and the hidden layer's output."""
        assert inner is not None
        return DenseEmission(self.states.logits_of(inner, self.tokens) + base[:, :, None])

    def vectors_of(self, inner: Tensor | None, index: Tensor) -> Tensor:
        """a of component ``index`` (B,) of each row: (B, L, rank)."""
        assert inner is not None
        return self.states.of_state(inner, index)

    def _evidence(self, x_t: Tensor, process: Process) -> Tensor:
        """log-likelihood of the visible tokens under each component's templates: (B, K)."""
        assert process.mask is not None
        shape = (self.components, self.rank)

        def tables(positions: Tensor | slice) -> Tensor:
            return self.tokens(self.states.template_features(positions).unflatten(-1, shape))

        return visible_evidence(self.prior, tables, x_t, process.mask)


@dataclass(eq=False)
class DeferredEmission(Emission):
    """The components of a mixture, without gradients: a draw computes only its own.

    Args:
        base: (B, L, V) constrained product logits.
        head: whose parameters are used, outside any autocast that the trunk ran in.
        inner: (B, L, width), what the head's hidden layer makes of the features, if it has one.
        temperature, top_p: applied to every component's positions.
    """

    base: Tensor
    head: MixtureHead | SharedMixtureHead = field(metadata=SHARED)
    inner: Tensor | None = None
    temperature: float = field(default=1.0, metadata=SHARED)
    top_p: float = field(default=1.0, metadata=SHARED)

    def __post_init__(self) -> None:
        self.batch_size, self.length, self.vocab_size = self.base.shape
        self.states = self.head.components

    @cached_property
    def dense(self) -> Emission:
        """All of them at once."""
        with torch.no_grad():
            dense = self.head.emission(self.base, self.inner)
            return dense.tempered(self.temperature, self.top_p)

    def log_likelihood(self, x0: Tensor) -> Tensor:
        return self.dense.log_likelihood(x0)

    def marginals(self, weights: Tensor) -> Tensor:
        return self.dense.marginals(weights)

    @torch.no_grad()
    def logits_of(self, state: Tensor) -> Tensor:
        """As for every emission; ``state`` is one component for each row."""
        vectors = self.head.vectors_of(self.inner, state[:, 0])
        return nucleus(self.head.tokens(vectors) + self.base, self.temperature, self.top_p)

    def tempered(self, temperature: float, top_p: float) -> DeferredEmission:
        refuse_twice(self.temperature, self.top_p)
        return replace(self, temperature=temperature, top_p=top_p)


class SharedMixtureHead(JointHead):
    """p(x₀|x_t) = Σ_k π_k(x_t) Πᵢ softmax(uᵢ + Tᵢᵏ)(x₀ⁱ).

    u are the product logits of the trunk. The tables T are the same for all inputs, and the weights
    π are those of Bayes' rule: a component's own weight times what its table says of the visible
    tokens. A student that is right at t = 1 thus stays right at smaller t. For absorbing processes,
    whose visible tokens are certain.

    Against :class:`~fewjump.denoiser.joint_heads.mixture.MixtureHead` with ``evidence``: features
    do not correct the components one by one, and a component costs B·L numbers where it costs
    B·L·V there. For positions with a meaning of their own, such as pixels, and small vocabularies:
    the tables are (L, K, V).

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        length: L; the tables are for sequences of this length only. By default the denoiser's.
        components: K.
        rank: of the tables, T = a·W with W (V, rank); V or more makes them unrestricted.
    """

    kind = "shared-mixture"
    mixture = True
    fixed_length = True

    def __init__(
        self, hidden: int, vocab_size: int, length: int, components: int = 256, rank: int = 32
    ) -> None:
        super().__init__(hidden, vocab_size)
        check_counts(length=length, components=components, rank=rank)
        self.length, self.components, self.rank = length, components, rank
        self.template = nn.Parameter(torch.randn(length, components, rank))
        self.tokens = TokenFactor(vocab_size, rank)
        self.weights = ComponentWeights(hidden, components)
        # What the product logits are to all-masked input, for the tables to stand on.
        self.prior = nn.Parameter(torch.zeros(length, vocab_size))
        self.log_weights = nn.Parameter(torch.zeros(components))
        for table in (self.template, self.tokens.weight, self.prior, self.log_weights):
            table.lr_scale = TABLE_RATE  # type: ignore[attr-defined]

    def check_process(self, process: Process) -> None:
        if not process.absorbing:
            raise ValueError(
                "a shared mixture reads visible tokens and needs an absorbing process, not "
                f"{type(process).__name__}; use student 'mixture'"
            )

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> MixtureLaw:
        if features.shape[1] != self.length:
            raise ValueError(
                f"this head was built for length={self.length}, got sequences of "
                f"{features.shape[1]}; another head, such as shared-chain, takes any length"
            )
        assert process.mask is not None
        base = self.base(features, x_t, process).logits
        weights = self.weights(features) + self.log_weights
        emission, tables = DeferredEmission(base, self), self._tables
        if torch.is_grad_enabled():
            every = self._tables(slice(None))
            emission, tables = SharedFactorEmission(base, every), every.__getitem__
        weights = weights + visible_evidence(self.prior, tables, x_t, process.mask)
        return MixtureLaw(emission, weights)

    def _tables(self, positions: Tensor | slice) -> Tensor:
        """T at n positions: (n, K, V)."""
        return self.tokens(self.template[positions])

    def emission(self, base: Tensor, inner: Tensor | None) -> Emission:
        """All components at once, from product logits."""
        del inner
        return SharedFactorEmission(base, self._tables(slice(None)))

    def vectors_of(self, inner: Tensor | None, index: Tensor) -> Tensor:
        """a of component ``index`` (B,) of each row: (B, L, rank)."""
        del inner
        return self.template[:, index].transpose(0, 1)
