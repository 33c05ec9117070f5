"""A finite mixture of product laws over a large vocabulary: no K·V numbers at each position."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.law.base import Law, nucleus
from fewjump.law.emission import Emission
from fewjump.law.mixture import reweighted
from fewjump.law.tokens import at_least_float32, safe_logsumexp
from fewjump.random import Generator, categorical_from_logits


class FactoredMixtureLaw(Law):
    """p(x₀|x_t) = Σ_k π_k Πᵢ eᵢ(x₀ⁱ|k): one state of a chain's emissions, the same everywhere.

    The law of a :class:`~fewjump.law.mixture.MixtureLaw` whose components are given by emissions,
    such as :class:`~fewjump.law.emission_factored.LowRankEmission`, whose normalisers are computed
    in chunks. :meth:`sample` draws the component, then that component's positions;
    :meth:`tempered` sharpens both, component weights included.

    Args:
        emission: of B rows, L positions and K states.
        weight_logits: (B, K), unnormalised log-weights of the components.
    """

    def __init__(self, emission: Emission, weight_logits: Tensor) -> None:
        if weight_logits.shape != (emission.batch_size, emission.states):
            raise ValueError(
                f"weight_logits must be (B, K) = {(emission.batch_size, emission.states)}, "
                f"got shape {tuple(weight_logits.shape)}"
            )
        self.emission = emission
        self.weight_logits = at_least_float32(weight_logits)
        self.batch_size, self.length = emission.batch_size, emission.length
        self.components, self.vocab_size = emission.states, emission.vocab_size

    @property
    def device(self) -> torch.device:
        return self.weight_logits.device

    def component_log_prob(self, x0: Tensor) -> Tensor:
        """log Πᵢ p(x₀ⁱ|k) for each component: (B, L) → (B, K)."""
        return self.emission.log_likelihood(x0).sum(1)

    def log_prob(self, x0: Tensor) -> Tensor:
        return safe_logsumexp(self.weight_logits.log_softmax(-1) + self.component_log_prob(x0))

    def sample(self, generator: Generator = None) -> Tensor:
        index = categorical_from_logits(self.weight_logits, generator)
        return self.emission.sample(index[:, None].expand(-1, self.length), generator)

    def marginals(self) -> Tensor:
        weights = self.weight_logits.softmax(-1)[:, None]
        return self.emission.marginals(weights.expand(-1, self.length, -1))

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> FactoredMixtureLaw:
        weights = nucleus(self.weight_logits, temperature, top_p)
        if temperature == 1 and top_p == 1:
            return self
        return FactoredMixtureLaw(self.emission.tempered(temperature, top_p), weights)

    def select(self, rows: Tensor) -> FactoredMixtureLaw:
        return FactoredMixtureLaw(self.emission.select(rows), self.weight_logits[rows])

    def _expanded(self, batch_size: int) -> FactoredMixtureLaw:
        weights = self.weight_logits.expand(batch_size, -1)
        return FactoredMixtureLaw(self.emission.expand(batch_size), weights)

    def given(self, x0: Tensor, known: Tensor) -> FactoredMixtureLaw:
        """Exact: components are re-weighted by what they say of the known tokens.

        Tokens that no component allows leave the weights as they are.
        """
        evidence = self.emission.log_likelihood(x0.masked_fill(~known, 0))
        evidence = evidence.masked_fill(~known[..., None], 0.0).sum(1)
        weights = reweighted(self.weight_logits, evidence)
        return FactoredMixtureLaw(self.emission.pinned(x0, known), weights)
