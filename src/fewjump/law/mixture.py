"""A finite mixture of product laws: the cheapest law that is not a product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fewjump.law.base import Law, nucleus
from fewjump.law.product import ProductLaw, pin_logits
from fewjump.law.tokens import at_least_float32, safe_logsumexp, token_log_prob
from fewjump.random import Generator, categorical_from_logits


def reweighted(weight_logits: Tensor, evidence: Tensor) -> Tensor:
    """Bayes' rule for log-weights (B, K); rows without a possible component stay as they are."""
    weights = weight_logits + evidence
    impossible = (weights == -torch.inf).all(-1, keepdim=True)
    return torch.where(impossible, weight_logits, weights)


class ComponentLogits(ABC):
    """The logits (B, K, L, V) of a mixture, computed when asked for: a draw needs one component."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(B, K, L, V)."""

    @abstractmethod
    def all(self) -> Tensor:
        """Every component: (B, K, L, V)."""

    @abstractmethod
    def one(self, index: Tensor) -> Tensor:
        """Component ``index`` (B,) of each row: (B, L, V)."""

    @abstractmethod
    def select(self, rows: Tensor) -> ComponentLogits:
        """Those of the given batch rows."""

    @abstractmethod
    def expand(self, batch_size: int) -> ComponentLogits:
        """Those of a batch of one for ``batch_size`` rows; see :meth:`Law.expand`."""


@dataclass(frozen=True, eq=False)
class _Tempered(ComponentLogits):
    inner: ComponentLogits
    temperature: float
    top_p: float

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.inner.shape

    def all(self) -> Tensor:
        return nucleus(self.inner.all(), self.temperature, self.top_p)

    def one(self, index: Tensor) -> Tensor:
        return nucleus(self.inner.one(index), self.temperature, self.top_p)

    def select(self, rows: Tensor) -> ComponentLogits:
        return _Tempered(self.inner.select(rows), self.temperature, self.top_p)

    def expand(self, batch_size: int) -> ComponentLogits:
        return _Tempered(self.inner.expand(batch_size), self.temperature, self.top_p)


class MixtureLaw(Law):
    """p(x₀|x_t) = Σ_k π_k Πᵢ softmax(logits[k, i])(x₀ⁱ) (METHOD section 4; Di4C, arXiv 2410.08709).

    There is no closed form for the cross-entropy against a product target (a log of a sum under
    an expectation), so :meth:`cross_entropy` is the unbiased one-draw estimate of the base class.
    :meth:`sample` draws the component, then that component's positions; :meth:`tempered` sharpens
    both, component weights included.

    Args:
        logits: (B, K, L, V) floating point, unnormalised; −inf marks impossible tokens. Kept, not
            copied. Or what computes them when they are needed, without gradients.
        weight_logits: (B, K), unnormalised log-weights of the components.
    """

    def __init__(self, logits: Tensor | ComponentLogits, weight_logits: Tensor) -> None:
        if isinstance(logits, Tensor) and logits.dim() != 4:
            raise ValueError(f"logits must be (B, K, L, V), got shape {tuple(logits.shape)}")
        if weight_logits.shape != logits.shape[:2]:
            raise ValueError(
                f"weight_logits must be (B, K) = {tuple(logits.shape[:2])}, "
                f"got shape {tuple(weight_logits.shape)}"
            )
        self._given = logits
        self.weight_logits = at_least_float32(weight_logits)
        self.batch_size, self.components, self.length, self.vocab_size = logits.shape

    @cached_property
    def logits(self) -> Tensor:
        """(B, K, L, V)."""
        if isinstance(self._given, Tensor):
            return self._given
        with torch.no_grad():
            return self._given.all()

    @property
    def device(self) -> torch.device:
        return self.weight_logits.device

    def component_log_prob(self, x0: Tensor) -> Tensor:
        """log Πᵢ p(x₀ⁱ|k) for each component: (B, L) → (B, K)."""
        return self._token_log_prob(x0).sum(-1)

    def _token_log_prob(self, x0: Tensor) -> Tensor:
        """log p(x₀ⁱ|k), (B, K, L), read in the order in which the logits lie in memory."""
        by_position = self.logits.transpose(1, 2)
        if by_position.is_contiguous():
            return token_log_prob(by_position, x0[..., None]).transpose(1, 2)
        return token_log_prob(self.logits, x0[:, None])

    def log_prob(self, x0: Tensor) -> Tensor:
        return safe_logsumexp(self.weight_logits.log_softmax(-1) + self.component_log_prob(x0))

    def component(self, index: Tensor) -> ProductLaw:
        """The product law of component ``index`` (B,) of each row."""
        if isinstance(self._given, Tensor):
            return ProductLaw(self._given[torch.arange(self.batch_size, device=self.device), index])
        with torch.no_grad():
            return ProductLaw(self._given.one(index))

    def sample(self, generator: Generator = None) -> Tensor:
        index = categorical_from_logits(self.weight_logits, generator)
        return self.component(index).sample(generator)

    def marginals(self) -> Tensor:
        weights = self.weight_logits.softmax(-1)
        total = torch.zeros((), dtype=weights.dtype, device=self.device)
        for k in range(self.components):
            total = total + weights[:, k, None, None] * ProductLaw(self.logits[:, k]).marginals()
        return total

    def responsibilities(self, x0: Tensor) -> Tensor:
        """Posterior probability of each component given a sequence: (B, K)."""
        return (self.weight_logits + self.component_log_prob(x0)).softmax(-1)

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> MixtureLaw:
        if temperature == 1 and top_p == 1:
            return self
        weights = nucleus(self.weight_logits, temperature, top_p)
        if isinstance(self._given, Tensor):
            return MixtureLaw(nucleus(self._given, temperature, top_p), weights)
        return MixtureLaw(_Tempered(self._given, temperature, top_p), weights)

    def select(self, rows: Tensor) -> MixtureLaw:
        given = self._given
        part = given[rows] if isinstance(given, Tensor) else given.select(rows)
        return MixtureLaw(part, self.weight_logits[rows])

    def _expanded(self, batch_size: int) -> MixtureLaw:
        given = self._given
        if isinstance(given, Tensor):
            logits = given.expand(batch_size, -1, -1, -1)
        else:
            logits = given.expand(batch_size)
        return MixtureLaw(logits, self.weight_logits.expand(batch_size, -1))

    def given(self, x0: Tensor, known: Tensor) -> MixtureLaw:
        """Exact: components are re-weighted by what they say of the known tokens.

        Tokens that no component allows leave the weights as they are.
        """
        evidence = self._token_log_prob(x0)
        evidence = evidence.masked_fill(~known[:, None], 0.0).sum(-1)
        weights = reweighted(self.weight_logits, evidence)
        shape = self.logits.shape[:3]
        pinned = pin_logits(self.logits, x0[:, None].expand(shape), known[:, None].expand(shape))
        return MixtureLaw(pinned, weights)
