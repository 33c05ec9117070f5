"""A head whose law is a mixture of K product laws."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewjump.denoiser.heads import Head, ProductHead, register_head
from fewjump.denoiser.joint_heads.states import (
    ComponentWeights,
    StateFeatures,
    TokenFactor,
    require_positive,
)
from fewjump.law.mixture import MixtureLaw
from fewjump.process import Process


@register_head
class MixtureHead(Head):
    """logits of component k at position i: product logits + a_i(k)·W (METHOD section 4).

    One component is one global choice, made for all positions at once: what images want.

    Args:
        hidden: width D of the features.
        vocab_size: number of states V of the process.
        components: K.
        rank: size of a_i(k); V or more makes the corrections unrestricted.
        width: of the hidden layer between features and a_i(k).
        length: see :class:`~fewjump.denoiser.joint_heads.states.StateFeatures`.
    """

    kind = "mixture"

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        components: int = 16,
        rank: int = 32,
        width: int = 64,
        length: int | None = None,
    ) -> None:
        super().__init__(hidden, vocab_size)
        require_positive(components=components, rank=rank, width=width)
        self.components, self.rank, self.width = components, rank, width
        self.length = length
        self.base = ProductHead(hidden, vocab_size)
        self.states = StateFeatures(hidden, components, rank, width, length)
        self.tokens = TokenFactor(vocab_size, rank)
        self.weights = ComponentWeights(hidden, components)

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "components": self.components,
            "rank": self.rank,
            "width": self.width,
            "length": self.length,
        }

    def forward(self, features: Tensor, x_t: Tensor, process: Process) -> MixtureLaw:
        base = self.base(features, x_t, process).logits
        logits = self.states.logits(features, self.tokens) + base[:, :, None]
        return MixtureLaw(logits.transpose(1, 2), self.weights(features))

    def warm_start(self, product: ProductHead) -> None:
        self.base.load_state_dict(product.state_dict())
        self.tokens.weight.data.zero_()
