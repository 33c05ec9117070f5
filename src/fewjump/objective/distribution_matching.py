"""What the methods share that move a student's own samples towards its teacher's law."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewjump.config import require
from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Draw
from fewjump.law.log_weights import expectation
from fewjump.law.product import ProductLaw, as_product
from fewjump.objective.base import require_likelihood
from fewjump.objective.on_policy import OnPolicyRefinement
from fewjump.objective.score_function import DrawnAt, table_reward
from fewjump.options.sampled import AnchorOptions


@dataclass(eq=False)
class DistributionMatching(OnPolicyRefinement, AnchorOptions):
    """On-policy training from the teacher on, with another reward than refinement's.

    **The anchor** is β·Σ_k E KL(p^φ(·|x_t) ‖ Πᵢ p^θ(x₀ⁱ|x_t)): the distance from where a student
    with a warm start begins. β falls linearly from ``anchor`` to 0 over ``anchor_steps`` steps,
    after those in which ψ learns alone.

    Attributes:
        method: its name on the command line.
        default_anchor: ``anchor`` where it is left open.
    """

    method: ClassVar[str]
    default_anchor: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.anchor is None:
            self.anchor = self.default_anchor
        require(
            self.anchor > 0 or self.anchor_steps is None,
            "anchor_steps is for an anchor above 0: give one, or leave it out",
        )

    def settle(self, student: Denoiser, steps: int, earlier: Mapping[str, Any]) -> None:
        super().settle(student, steps, earlier)
        if self.anchor and self.anchor_steps is None:
            begun = earlier.get("anchor_steps")
            self.anchor_steps = begun if isinstance(begun, int) else max(1, steps // 2)

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        own = getattr(student, "student", student)
        if own.classes is not None:
            raise ValueError(
                f"{self.method} is for teachers without classes; use --method matching"
            )
        # Tokens are summed out given a latent; everything else weighs whole sequences.
        if self.anchor or not self._may_sum(own.process):
            require_likelihood(own, self.method)

    @property
    def _anchor_weight(self) -> float:
        anchor = self.anchor or 0.0
        if self.anchor_steps is None:
            return anchor
        done = max(0, self._step - self.warmup)
        return anchor * max(0.0, 1.0 - done / self.anchor_steps)

    # Without it a method that forgets its reward would train with refinement's.
    @abstractmethod
    def _reward(self, fake: ProductLaw, real: ProductLaw, x0: Tensor, at: DrawnAt) -> Tensor: ...


@dataclass(eq=False)
class PosteriorMatching(DistributionMatching):
    """A divergence between the posteriors of the student's samples and the teacher's, as published.

    Let p be p^φ(x₀ⁱ|x_u), the posterior of the student's samples at a position, and θ the
    teacher's. A method minimises D(φ) = Σ_k ∫ du w(u) E_{x_u~p^φ_u} Σᵢ h(p, θ) for an h of its own
    that is convex in p, ≥ 0, and 0 at p = θ only.

    **The gradient of D** is E[∇log p^φ(x₀|x_t)·Σᵢ R(x₀ⁱ, x_u)] for every law of the student, with
    the first variation R(c) = h + ∂h/∂p(c) − Σ_a p(a)·∂h/∂p(a) of E h as the reward (x_u is a
    sample of the student too), and E[R | x_u] = h. It is unbiased if ψ is exact.

    **The published gradient** holds x_u fixed: with q the law that the method gives to a token,

      E[Σᵢ Σ_c qᵢ(c)·(R(c) − E_q[R])·∇log pᵢ^φ(c|x_t)].

    It has less noise, and a bias: it leaves out that a token changes x_u, and so what the other
    positions earn (where noise does not mask, its own too). It is 0 where p = θ, too. In one
    position under a mask the two are equal.

    ``estimator``: ``auto`` takes the published form for product students, and for latent ones
    given a z whose law is not learned; for all others the gradient of D. ``expected`` (tokens
    summed out: product, mixture and latent students) and ``score`` (drawn) take the gradient of D.

    **Noise as an input.** From a masked start a product student knows only one law. A latent
    student (``student='latent'``) has noise as an input, at every step: a normal z (``size``,
    ``position_size``), or a uniform token at each position (``position_categories``). Its
    likelihood is not needed, so long as there is no anchor.
    """

    def _table(self, fake: ProductLaw, real: ProductLaw) -> Tensor:
        with torch.no_grad():
            ratio = table_reward(fake, real, self.floor)
            return self._variation(ratio, expectation(real.marginals(), ratio)[..., None])

    def _reward(self, fake: ProductLaw, real: ProductLaw, x0: Tensor, at: DrawnAt) -> Tensor:
        return self._table(fake, real).gather(-1, x0[..., None])[..., 0]

    @abstractmethod
    def _variation(self, ratio: Tensor, mean: Tensor) -> Tensor:
        """R (B, L, V) from log ψ − log θ (B, L, V), and its mean under the teacher (B, L, 1)."""

    @abstractmethod
    def _guess(self, own: ProductLaw, fake: ProductLaw) -> Tensor:
        """q (B, L, V), from the student's law at x_t and ψ's at x_u."""

    def _holds(self, one: Draw) -> bool:
        return self.estimator == "auto" and one.log_choice is None

    def _posterior(self, number: int, one: Draw, fake: ProductLaw, at: DrawnAt) -> Tensor:
        if not self._holds(one):
            return super()._posterior(number, one, fake, at)
        assert one.law is not None
        with torch.no_grad():
            return self._guess(as_product(one.law), fake)
