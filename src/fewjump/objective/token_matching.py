"""Token-level distribution matching of a one-step student on its own samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fewjump.law.product import ProductLaw
from fewjump.objective.distribution_matching import PosteriorMatching
from fewjump.options.sampled import JeffreyOptions


@dataclass(eq=False)
class TokenMatching(PosteriorMatching, JeffreyOptions):
    """A generalised Jeffrey divergence of posteriors at noised samples (Di[M]O, arXiv 2503.15457).

    **What is minimised.** With p the posterior of the student's samples at a position of x_u, which
    the auxiliary network ψ learns, θ the teacher's answer, and β = ``reverse_share``,

      h(p, θ) = (1 − β)·KL(θ ‖ p) + β·KL(p ‖ θ),
      R(c) = (1 − β)·(KL(θ ‖ ψ) + 1 − θ(c)/ψ(c)) + β·(log ψ(c) − log θ(c)).

    β = 0, the setting of the paper's code, covers what the teacher says; with β = 1 and weights
    ``elbo`` the objective is :class:`~fewjump.objective.OnPolicyRefinement`.

    **The published gradient** (:class:`~fewjump.objective.distribution_matching.PosteriorMatching`)
    is ∂h/∂z at ψ's logits z at x_u, handed on to the student's logits at x_t: q is ψ's law, for
    β = 0 the weights are ψ − θ.

    **What differs from the paper.** ψ and the student move in the same step, not by turns; weights
    and times are those of ``weighting`` (the paper's weight is 1); any noise, and several steps
    too (``grid``). The paper's student begins from 60% masks and 40% random tokens, with normal
    noise on the embeddings. Here that takes a latent student: ``position_categories`` adds a random
    token at each position to the embedded masks, ``position_size`` normal noise.

    Options by keyword: those of :class:`~fewjump.options.sampled.OnPolicyOptions`,
    :class:`~fewjump.options.sampled.AnchorOptions` and
    :class:`~fewjump.options.sampled.JeffreyOptions`.

    Metrics: those of :class:`~fewjump.objective.OnPolicyRefinement`; with an anchor also
    ``kl_to_teacher``.

    Raises:
        ValueError: for options outside their range; at check, for students with classes, and for
            latent ones whose likelihood is only bounded, with an anchor or ``score``.
    """

    method = "dimo"

    def _variation(self, ratio: Tensor, mean: Tensor) -> Tensor:
        forward = 1 - (-ratio).exp() - mean
        return (1 - self.reverse_share) * forward + self.reverse_share * ratio

    def _guess(self, own: ProductLaw, fake: ProductLaw) -> Tensor:
        return fake.marginals()
