"""A head whose law is a mixture with tables shared by all inputs, and thousands of components."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewjump.denoiser.heads import Head, ProductHead, register_head
from fewjump.denoiser.joint_heads.states import (
    TABLE_RATE,
    ComponentWeights,
    TokenFactor,
    require_positive,
    visible_evidence,
)
from fewjump.law.emission import SharedFactorEmission
from fewjump.law.mixture import MixtureLaw
from fewjump.process import Absorbing, Process


@register_head
class SharedMixtureHead(Head):
    """p(x₀|x_t) = Σ_k π_k(x_t) Πᵢ softmax(uᵢ + Tᵢᵏ)(x₀ⁱ).

    u are the product logits of the trunk. The tables T are the same for all inputs, and the weights
    π are those of Bayes' rule: a component's own weight times what its table says of the visible
    tokens. The conditionals of a mixture have exactly this form, so a student that is right at
    t = 1 stays right at smaller t and does not have to learn it again there. For absorbing
    processes, whose visible tokens are certain.

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
    fixed_length = True

    def __init__(
        self, hidden: int, vocab_size: int, length: int, components: int = 256, rank: int = 32
    ) -> None:
        super().__init__(hidden, vocab_size)
        require_positive(length=length, components=components, rank=rank)
        self.length, self.components, self.rank = length, components, rank
        self.base = ProductHead(hidden, vocab_size)
        self.template = nn.Parameter(torch.randn(length, components, rank))
        self.tokens = TokenFactor(vocab_size, rank)
        self.weights = ComponentWeights(hidden, components)
        # What the product logits are to all-masked input, for the tables to stand on.
        self.prior = nn.Parameter(torch.zeros(length, vocab_size))
        self.log_weights = nn.Parameter(torch.zeros(components))
        for table in (self.template, self.tokens.weight, self.prior, self.log_weights):
            table.lr_scale = TABLE_RATE  # type: ignore[attr-defined]

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "length": self.length,
            "components": self.components,
            "rank": self.rank,
        }

    def check_process(self, process: Process) -> None:
        if not isinstance(process, Absorbing):
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
        assert isinstance(process, Absorbing)
        base = self.base(features, x_t, process).logits
        tables = self.tokens(self.template)
        weights = self.weights(features) + self.log_weights
        weights = weights + visible_evidence(self.prior[:, None] + tables, x_t, process.mask)
        return MixtureLaw(SharedFactorEmission(base, tables), weights)

    def warm_start(self, product: ProductHead) -> None:
        self.base.load_state_dict(product.state_dict())
        self.tokens.weight.data.zero_()
