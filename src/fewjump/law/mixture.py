"""A finite mixture of product laws: the cheapest law that is not a product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.law.base import Law, at_least_float32, nucleus, safe_logsumexp
from fewjump.law.emission import DenseEmission, Emission
from fewjump.law.product import ProductLaw
from fewjump.random import Generator, categorical_from_logits


def reweighted(weight_logits: Tensor, evidence: Tensor) -> Tensor:
    """Bayes' rule for log-weights (B, K); rows without a possible component stay as they are."""
    weights = weight_logits + evidence
    impossible = (weights == -torch.inf).all(-1, keepdim=True)
    return torch.where(impossible, weight_logits, weights)


@dataclass(eq=False)
class MixtureLaw(Law):
    """p(x₀|x_t) = Σ_k π_k Πᵢ eᵢ(x₀ⁱ|k) (METHOD section 4; Di4C, arXiv 2410.08709).

    What a component says of a position is an :class:`~fewjump.law.emission.Emission`, with one
    state for the whole sequence: logits of their own for small vocabularies; low-rank differences
    where K·V numbers at each position would not fit; tables (L, K, V) shared by all rows, with
    which thousands of components are cheap. A mixture of products given independently noised
    tokens has exactly the last form: its tables stay, its logits gain the tokens' evidence and its
    weights the components'.

    There is no closed form for the cross-entropy against a product target (a log of a sum under
    an expectation), so :meth:`cross_entropy` is the unbiased one-draw estimate of the base class.
    :meth:`sample` draws the component, then that component's positions; :meth:`tempered` sharpens
    both, component weights included.

    Args:
        emission: of B rows, L positions and K states; or logits (B, K, L, V) for a dense one,
            unnormalised, −inf for impossible tokens, kept and not copied.
        weight_logits: (B, K), unnormalised log-weights of the components.
    """

    emission: Emission
    weight_logits: Tensor

    def __init__(self, emission: Emission | Tensor, weight_logits: Tensor) -> None:
        if isinstance(emission, Tensor):
            if emission.dim() != 4:
                raise ValueError(f"logits must be (B, K, L, V), got shape {tuple(emission.shape)}")
            emission = DenseEmission(emission.transpose(1, 2))
        shape = (emission.batch_size, emission.states)
        if weight_logits.shape != shape:
            raise ValueError(
                f"weight_logits must be (B, K) = {shape}, got shape {tuple(weight_logits.shape)}"
            )
        self.emission, self.weight_logits = emission, at_least_float32(weight_logits)
        self.batch_size, self.components = shape
        self.length, self.vocab_size = emission.length, emission.vocab_size

    def component_log_prob(self, x0: Tensor) -> Tensor:
        """log Πᵢ p(x₀ⁱ|k) for each component: (B, L) → (B, K)."""
        return self.emission.log_likelihood(x0).sum(1)

    def log_prob(self, x0: Tensor) -> Tensor:
        return safe_logsumexp(self.weight_logits.log_softmax(-1) + self.component_log_prob(x0))

    def responsibilities(self, x0: Tensor) -> Tensor:
        """Posterior probability of each component given a sequence: (B, K)."""
        return (self.weight_logits + self.component_log_prob(x0)).softmax(-1)

    def component(self, index: Tensor) -> ProductLaw:
        """The product law of component ``index`` (B,) of each row."""
        return ProductLaw(self.emission.logits_of(index[:, None].expand(-1, self.length)))

    def sample(self, generator: Generator = None) -> Tensor:
        index = categorical_from_logits(self.weight_logits, generator)
        return self.emission.sample(index[:, None].expand(-1, self.length), generator)

    def marginals(self) -> Tensor:
        weights = self.weight_logits.softmax(-1)[:, None]
        return self.emission.marginals(weights.expand(-1, self.length, -1))

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> MixtureLaw:
        weights = nucleus(self.weight_logits, temperature, top_p)
        if temperature == 1 and top_p == 1:
            return self
        return MixtureLaw(self.emission.tempered(temperature, top_p), weights)

    def given(self, x0: Tensor, known: Tensor) -> MixtureLaw:
        """Exact: components are re-weighted by what they say of the known tokens.

        Tokens that no component allows leave the weights as they are.
        """
        evidence = self.emission.log_likelihood(x0.masked_fill(~known, 0))
        evidence = evidence.masked_fill(~known[..., None], 0.0).sum(1)
        weights = reweighted(self.weight_logits, evidence)
        return MixtureLaw(self.emission.pinned(x0, known), weights)
