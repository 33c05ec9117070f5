"""Inverse distillation: the student's samples must look to the teacher like the teacher's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.law.product import ProductLaw
from fewjump.objective.base import require_likelihood
from fewjump.objective.elbo import rate_divergence
from fewjump.objective.on_policy import OnPolicyRefinement
from fewjump.options.objectives import AnchorOptions
from fewjump.process import Process


@dataclass(eq=False)
class InverseDistillation(OnPolicyRefinement, AnchorOptions):
    """By how much the teacher's likelihood bound of the student's samples exceeds its own minimum.

    **What is minimised.** Let ℓ_p(x₀, x_u) be the density over u of a denoiser p's negative ELBO:
    under a mask σα/(1−α)·Σᵢ −log p(x₀ⁱ|x_u), under other noise the rate divergence of SEDD
    (:func:`~fewjump.objective.elbo.rate_divergence`). With x_t, x₀ ~ p^φ(·|x_t) and x_u from the
    bridge as in :class:`~fewjump.objective.OnPolicyRefinement`,

      D(φ) = Σ_k ∫ du { E[ℓ_θ(x₀, x_u)] − min_ψ E[ℓ_ψ(x₀, x_u)] }    (IDLM, arXiv 2602.19066),

    where the auxiliary denoiser ψ learns the student's samples. The minimum is at the posterior of
    those, so that D is, for every process, the KL divergence between two laws of whole paths: of
    the reverse chain with the student's marginals, and of the teacher's. It bounds that of the
    laws of any x_u on the path. In one step, from noise that tells nothing of the data, x_u is
    the student's sample noised, and the integral over [a, b] is exactly

      KL(p^φ_a ‖ p^θ_a) − KL(p^φ_b ‖ p^θ_b),

    with p_u the laws of x_u: the distribution-matching objective Σ_u w(u)·KL(p^φ_u ‖ p^θ_u), its
    weights on ``min_time`` and on 1, where both are noise. Its zero is the teacher's own law.

    **Its gradient** is E[∇log p^φ(x₀|x_t)·(ℓ_θ − ℓ_ψ)(x₀, x_u)] (Williams 1992; ψ has none, at the
    minimum), with the mean over the other ``draws`` at the same (x_t, u) as a baseline, which costs
    no bias. It needs ``sample`` and ``log_prob`` of the student's law and nothing else: joint laws
    of every kind are trained as product laws are. For product laws and mixtures under a mask x₀ is
    summed out (``estimator``).

    **The anchor** is β·Σ_k E KL(p^φ(·|x_t) ‖ Πᵢ p^θ(x₀ⁱ|x_t)): the distance from where a student
    with a warm start begins. β falls linearly from ``anchor`` to 0 over ``anchor_steps`` steps,
    after those in which ψ learns alone. In one step from pure noise the optimum at β is in
    proportion to (p^θ(x₀)·Πᵢ p^θ(x₀ⁱ)^β)^{1/(1+β)}: the student cools from the teacher's product
    law to its joint law. Without that, reverse KL drives it to the first mode that it finds before
    it has learned to tell modes apart.

    **What differs from the papers.** IDLM has the same loss; its student is a product, its gradient
    passes through samples that are relaxed to the simplex (biased, of lower variance), and it
    noises them to any u. Di[M]O (2503.15457) has the auxiliary network and one step of a masked
    product student, whose logits follow a token-wise divergence between auxiliary and teacher at
    x_u; its noisy initial tokens and its divergences other than reverse KL are not here. D-MMD
    (2603.20155) matches moments of the posteriors at x_u, with such a network, in several steps.

    Run by :func:`fewjump.distill`, which makes ψ: a copy of the teacher, at ``auxiliary_lr`` times
    the learning rate. It is trained, averaged, saved and resumed with the student, and is not part
    of the result. On-policy gradients are noisy: use a lower rate than for matching (1e-4).

    Options by keyword: those of :class:`~fewjump.options.objectives.OnPolicyOptions`, but for
    ``weighting``, which is the bound's, and of
    :class:`~fewjump.options.objectives.AnchorOptions`; ``source`` and ``grid`` as in
    :class:`~fewjump.objective.OnPolicyRefinement`.

    Metrics: those of :class:`~fewjump.objective.OnPolicyRefinement`, and while there is an anchor
    ``kl_to_teacher`` (nats per position, of the law at x_t from the teacher's product).

    Raises:
        ValueError: for options outside their range; at check, for students with classes, and
            latent ones whose likelihood is only bounded.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting != "elbo":
            raise ValueError("inverse distillation has the bound's own weights: leave weighting")
        # What is not an option does not identify a run.
        del self.weighting

    def settle(self, student: Denoiser, steps: int, earlier: Mapping[str, Any]) -> None:
        super().settle(student, steps, earlier)
        if self.anchor_steps is None:
            begun = earlier.get("anchor_steps")
            self.anchor_steps = begun if isinstance(begun, int) else max(1, steps // 2)

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        own = getattr(student, "student", student)
        if own.classes is not None:
            raise ValueError(
                "inverse distillation is for teachers without classes; use --method matching"
            )
        require_likelihood(own, "idlm")

    @property
    def _anchor_weight(self) -> float:
        if self.anchor_steps is None:
            return self.anchor
        done = max(0, self._step - self.warmup)
        return self.anchor * max(0.0, 1.0 - done / self.anchor_steps)

    def _time_weight(self, process: Process, u: Tensor) -> Tensor:
        # The rates of the divergence have the noise rate in them.
        return super()._time_weight(process, u) if process.absorbing else torch.ones_like(u)

    @torch.no_grad()
    def _reward(
        self,
        process: Process,
        fake: ProductLaw,
        real: ProductLaw,
        x0: Tensor,
        x_u: Tensor,
        u: Tensor,
    ) -> Tensor:
        if process.absorbing:
            return super()._reward(process, fake, real, x0, x_u, u)
        theirs, own = (
            rate_divergence(process, law.marginals().clamp(min=self.floor), x_u, x0, u)
            for law in (real, fake)
        )
        return theirs - own

    def _uses_expected(self, law: Law, process: Process) -> bool:
        if process.absorbing:
            return super()._uses_expected(law, process)
        if self.estimator == "expected":
            raise ValueError("the expected form is for noise with a mask; use estimator='score'")
        return False
