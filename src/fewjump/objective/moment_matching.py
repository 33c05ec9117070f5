"""Discrete moment matching: the mean of x₀ given a noisy sample is the teacher's answer to it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fewjump.law.product import ProductLaw
from fewjump.objective.distribution_matching import PosteriorMatching
from fewjump.options.sampled import StatesName


@dataclass(eq=False)
class MomentMatching(PosteriorMatching):
    """Posteriors of the student's samples pulled to the teacher's (D-MMD, arXiv 2603.20155).

    **What is minimised.** The moment of a token is its mean as a one-hot vector given x_u: of the
    student's samples that is their posterior p, of the teacher's law its answer θ. The auxiliary
    network ψ learns both in equal parts, −½ log ψ(x₀ⁱ) − ½ Σ_c θ(c)·log ψ(c), and the paper's game
    over a position is

      min_φ max_ψ E[CE(x₀, θ) − CE(x₀, ψ) − CE(θ, ψ)],    CE(a, b) = −Σ_c a(c)·log b(c).

    ψ's answer is m = (p + θ)/2, where the bracket is h(p, θ) = 2·KL(m ‖ θ) less the entropy of θ,
    which depends on x_u alone. D has h without it, so that D ≥ 0, and D = 0 where the moments match
    at every x_u. The reward

      R(c) = log m(c) − log θ(c) + Σ_a θ(a)·(log m(a) − log θ(a))    is at least −2 log 2,

    as m ≥ θ/2: to leave a token out earns little, unlike under reverse KL.

    **The published gradient** (:class:`~fewjump.objective.distribution_matching.PosteriorMatching`)
    is that of Σᵢ Σ_c pᵢ^φ(c|x_t)·(log ψ(c) − log θ(c)), through the student's probabilities alone:
    q is the student's law at x_t.

    **What differs from the paper.** Students are trained for the steps of ``grid``, not for all t
    with steps up to 1/k; ψ and the student move in the same step, not by turns; ψ learns drawn
    tokens, not the probabilities that they are drawn from. Under a mask the paper's student needs
    noise as an input: here that is a latent student, see
    :class:`~fewjump.objective.distribution_matching.PosteriorMatching`. There are no students of
    sharpened teachers.

    Options by keyword: those of :class:`~fewjump.options.sampled.OnPolicyOptions` and
    :class:`~fewjump.options.sampled.AnchorOptions`.

    Attributes:
        source: x_t from data noised to t_k (``forward``, the paper's), or from pure noise by the
            student's own steps (``student``; no data).

    Metrics: those of :class:`~fewjump.objective.OnPolicyRefinement`, where ``student_entropy`` is
    that of m and ``auxiliary_cross_entropy`` of both that ψ learns; with an anchor also
    ``kl_to_teacher``.

    Raises:
        ValueError: for options outside their range; at check, for students with classes, and for
            latent ones whose likelihood is only bounded, with an anchor or ``score``.
    """

    source: StatesName = "forward"
    method = "dmmd"

    def _variation(self, ratio: Tensor, mean: Tensor) -> Tensor:
        return ratio + mean

    def _guess(self, own: ProductLaw, fake: ProductLaw) -> Tensor:
        return own.marginals()

    def _surprise(self, fake: ProductLaw, real: ProductLaw, x0: Tensor) -> Tensor:
        return (super()._surprise(fake, real, x0) + fake.position_cross_entropy(real)) / 2
