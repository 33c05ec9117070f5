"""The denoiser that is right: exact posteriors of a problem whose law is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.law.posterior import PosteriorLaw, normalised
from fewjump.law.product import as_product
from fewjump.process import Process


class KnownLaw(ABC):
    """What exact posteriors follow from: the part of a :class:`fewjump.problem.Problem`."""

    vocab_size: int
    length: int

    @abstractmethod
    def marginals(self) -> Tensor:
        """Law of each position: (L, V) float64."""

    @abstractmethod
    def posterior_law(
        self,
        factors: Tensor,
        vocab_size: int | None = None,
        fallback: Callable[[], Tensor] | None = None,
    ) -> PosteriorLaw:
        """The law ∝ p(x₀)·Πᵢ factorsᵢ(x₀ⁱ).

        Args:
            factors: (B, L, vocab_size) non-negative.
            vocab_size: tokens of the law that is returned; the extra ones have probability 0.
            fallback: see :class:`~fewjump.law.enumerated.EnumeratedLaw`.
        """


class ExactDenoiser(Denoiser):
    """Exact p(x₀|x_t) of a problem under a process, from ``process.likelihood`` alone.

    Args:
        problem: the law of the data.
        process: over the problem's tokens. An absorbing process may count its mask as an extra,
            last state; if instead the mask is one of the problem's tokens, the problem must give
            it probability 0.
        joint: False: a :class:`~fewjump.law.ProductLaw` of the exact marginals, what a perfect
            per-position network would say. True: the exact joint posterior.

    A state x_t of probability 0 (a sampler that is not exact can reach one) gets the product, over
    positions, of likelihood times the data's marginal; of the likelihood alone where that is 0.
    A position whose likelihood is 0 for every token says nothing, and is treated so.

    Raises:
        ValueError: if the vocabularies do not fit.
    """

    def __init__(self, problem: KnownLaw, process: Process, joint: bool = False) -> None:
        check_vocabularies(problem, process)
        super().__init__(process, problem.length)
        self.problem = problem
        self.joint = joint
        self.time_conditioned = not process.absorbing
        self._marginals: Tensor | None = None

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        posterior = self.posterior(self._likelihood(x_t, t), x_t)
        return posterior if self.joint else as_product(posterior)

    def _likelihood(self, x_t: Tensor, t: Tensor) -> Tensor:
        if not self.process.absorbing:
            return self.process.likelihood(x_t, t)
        # Masked says nothing, visible says all, at any time: the factors α and 1−α cancel, and
        # without them no time can make a likelihood underflow.
        tokens = torch.arange(self.process.vocab_size, device=x_t.device)
        masked = (x_t == self.process.mask)[..., None]
        masked = masked & ~self.process.is_kept(tokens)
        return (masked | (tokens == x_t[..., None])).double()

    def posterior(self, likelihood: Tensor, x_t: Tensor) -> PosteriorLaw:
        """The joint posterior for likelihoods (B, L, V of the process) of the state x_t (B, L).

        Raises:
            ValueError: if x_t does not have the problem's length.
        """
        if x_t.dim() != 2 or x_t.shape[1] != self.problem.length:
            raise ValueError(
                f"this problem has sequences of {self.problem.length} tokens, "
                f"got x_t of shape {tuple(x_t.shape)}"
            )
        factors = likelihood.double()[..., : self.problem.vocab_size]
        factors = torch.where(factors.amax(-1, keepdim=True) > 0, factors, 1.0)

        def independent() -> Tensor:
            if self._marginals is None:
                self._marginals = self.problem.marginals()
            weights = factors * self._marginals.to(factors.device)
            return torch.where(weights.sum(-1, keepdim=True) > 0, weights, normalised(factors))

        return self.problem.posterior_law(factors, self.process.vocab_size, independent)


def check_vocabularies(problem: KnownLaw, process: Process) -> None:
    """Raise ValueError, naming the remedy, unless ``process`` can noise ``problem``'s tokens."""
    tokens, states = problem.vocab_size, process.vocab_size
    name = type(process).__name__
    if process.mask is not None:
        if states == tokens + 1 and process.mask == tokens:
            return
        if states == tokens:
            mass = float(problem.marginals()[:, process.mask].max())
            if mass > 0:
                raise ValueError(
                    f"the mask {process.mask} is a token of the problem (probability up to "
                    f"{mass:.3g}); use {name}(vocab_size={tokens + 1}), whose mask is one more"
                )
            return
        raise ValueError(
            f"a process with a mask for {tokens} tokens needs {tokens + 1} states with the last as "
            f"mask, or {tokens} with an unused one; got {states} and mask {process.mask}: "
            f"use {name}(vocab_size={tokens + 1})"
        )
    if states != tokens:
        raise ValueError(
            f"the process has {states} states but the problem {tokens} tokens; they must agree "
            "(give the problem unused tokens of probability 0, or resize the process)"
        )
