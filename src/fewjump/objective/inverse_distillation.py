"""Inverse distillation: the student's samples must look to the teacher like the teacher's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.law.product import ProductLaw
from fewjump.objective.distribution_matching import DistributionMatching
from fewjump.objective.elbo import rate_divergence
from fewjump.objective.score_function import DrawnAt, token_reward
from fewjump.process import Process


@dataclass(eq=False)
class InverseDistillation(DistributionMatching):
    """By how much the teacher's likelihood bound of the student's samples exceeds its own minimum.

    **What is minimised.** Let ℓ_p(x₀, x_u) be the density over u of a denoiser p's negative ELBO:
    under a mask σα/(1−α)·Σᵢ −log p(x₀ⁱ|x_u), under other noise the rate divergence of SEDD
    (:func:`~fewjump.objective.elbo.rate_divergence`). With x_t, x₀ ~ p^φ(·|x_t) and x_u from the
    bridge as in :class:`~fewjump.objective.OnPolicyRefinement`,

      D(φ) = Σ_k ∫ du { E[ℓ_θ(x₀, x_u)] − min_ψ E[ℓ_ψ(x₀, x_u)] }    (IDLM, arXiv 2602.19066),

    where the auxiliary denoiser ψ learns the student's samples. For every process D is the KL
    divergence between two laws of whole paths: of the reverse chain with the student's marginals,
    and of the teacher's. It bounds that of the laws of any x_u on the path. In one step, from noise
    that tells nothing of the data, the integral over [a, b] is exactly

      KL(p^φ_a ‖ p^θ_a) − KL(p^φ_b ‖ p^θ_b),

    with p_u the laws of x_u: the student's sample, noised. Its zero is the teacher's own law.

    **Its gradient** is E[∇log p^φ(x₀|x_t)·(ℓ_θ − ℓ_ψ)(x₀, x_u)] (Williams 1992; ψ has none, at the
    minimum), with the mean over the other ``draws`` at the same (x_t, u) as a baseline, which costs
    no bias. It needs no more than ``sample`` and ``log_prob`` of the student's law. For product
    laws and mixtures under a mask x₀ is summed out (``estimator``).

    **The anchor** (:class:`~fewjump.objective.distribution_matching.DistributionMatching`) is 1 at
    first. In one step from pure noise the optimum at β is in proportion to
    (p^θ(x₀)·Πᵢ p^θ(x₀ⁱ)^β)^{1/(1+β)}. Without the anchor reverse KL drives the student to the first
    mode that it finds.

    **What differs from the paper.** IDLM's student is a product. Its gradient passes through
    samples that are relaxed to the simplex (biased, of lower variance), noised to any u.

    :func:`fewjump.distill` makes ψ: a copy of the teacher, at ``auxiliary_lr`` times the learning
    rate. It is trained and saved with the student, and is not part of the result. On-policy
    gradients are noisy: use a lower rate than for matching (1e-4).

    Options by keyword: those of :class:`~fewjump.options.sampled.OnPolicyOptions`, but for
    ``weighting``, which is the bound's, and of
    :class:`~fewjump.options.sampled.AnchorOptions`; ``source`` and ``grid`` as in
    :class:`~fewjump.objective.OnPolicyRefinement`.

    Metrics: those of :class:`~fewjump.objective.OnPolicyRefinement`, and while there is an anchor
    ``kl_to_teacher`` (nats per position, of the law at x_t from the teacher's product).

    Raises:
        ValueError: for options outside their range; at check, for students with classes, and
            latent ones whose likelihood is only bounded.
    """

    method = "idlm"
    default_anchor = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting != "elbo":
            raise ValueError("inverse distillation has the bound's own weights: leave weighting")
        # What is not an option does not identify a run.
        del self.weighting

    def _time_weight(self, process: Process, u: Tensor) -> Tensor:
        # The rates of the divergence have the noise rate in them.
        return super()._time_weight(process, u) if process.absorbing else torch.ones_like(u)

    @torch.no_grad()
    def _reward(self, fake: ProductLaw, real: ProductLaw, x0: Tensor, at: DrawnAt) -> Tensor:
        if at.process.absorbing:
            return token_reward(fake, real, x0, self.floor)
        x_u, u = at.x_u.flatten(0, 1), at.u.repeat(len(at.x_u))
        theirs, own = (
            rate_divergence(at.process, law.marginals().clamp(min=self.floor), x_u, x0, u)
            for law in (real, fake)
        )
        return theirs - own

    def _may_sum(self, process: Process) -> bool:
        if process.absorbing:
            return super()._may_sum(process)
        if self.estimator == "expected":
            raise ValueError("the expected form is for noise with a mask; use estimator='score'")
        return False
