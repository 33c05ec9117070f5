"""Distillation through dimensional correlations: the teacher's steps, composed by the student."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.law.log_weights import safe_log
from fewjump.law.product import ProductLaw
from fewjump.objective.base import Metrics, Objective, require_frozen, require_likelihood
from fewjump.objective.time_sampling import spread_uniform
from fewjump.options.matching import CorrelationOptions, TimeOptions
from fewjump.random import Generator


@dataclass(eq=False)
class CorrelationDistillation(Objective, TimeOptions, CorrelationOptions):
    """A joint student learns in one step what a product teacher says in many (Di4C, 2410.08709).

    The sum of three cross-entropies of the student's joint law p^φ, weighted by ``term_weights``:

    * distillation: E_{x_s} CE(Πᵢ p^θ(x₀ⁱ|x_s), p^φ(·|x_s)) at small times s, uniform up to
      ``distil_until``, where the product of the teacher's marginals is nearly the joint law;
    * consistency: E_{x_t} E_{x_u} CE(p^φ(·|x_u), p^φ(·|x_t)), where the teacher takes x_t to x_u by
      one step of ``teacher_step`` (at most t/2) and the student, without gradient, goes on from
      there to x₀. This hands the correlations that many steps of the teacher make to every t;
    * data: E[−log p^φ(x₀|x_t)] of the data x₀ that x_t is noised from.

    Here t is uniform, and x_s and x_t are data noised. The teacher's step is the ancestral one
    (x₀ of its law, then the bridge).

    **The control variate.** −log p^φ(x₀) of a drawn x₀ is noisy. With p̄ the product of p^φ's own
    marginals, and q the law that x₀ is drawn from,

      −log p^φ(x₀) + log p̄(x₀) + Σᵢ CE(qⁱ, p̄ⁱ)

    has the expectation of −log p^φ(x₀), gradient included, for every p^φ and q, and the last term
    has no noise. For the data term q is not known, and the teacher's marginals at x_t stand in for
    it, as in the paper: exact for an exact teacher, a bias towards the teacher otherwise. It is
    taken for mixtures, whose marginals have a closed form; for other joint laws the terms are as
    they stand, with ``law.cross_entropy`` as an estimate.

    **Fixed point.** The exact joint law p(x₀|x_t), where teacher and composition are exact. The
    teacher's product step errs by the correlations within it, which ``teacher_step`` controls, and
    the product at ``distil_until`` by E[TC(x₀|x_s)].

    **What differs from the paper.** There p^φ is a mixture over a uniform λ of which a loss sees a
    few draws, so that its estimate is biased; here laws are whole. There each λ is matched to the
    teacher on its own, which bounds the distillation term here.

    Options by keyword: ``min_time``, and those of
    :class:`~fewjump.options.matching.CorrelationOptions`.

    Metrics, nats per position: ``distillation``, ``consistency`` and ``data`` (the three terms,
    with the control variate), ``target_time`` (mean u).

    Raises:
        ValueError: for options outside their range; at check, for students that are products, and
            latent ones whose likelihood is only bounded.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distil_until <= self.min_time:
            raise ValueError(
                f"distil_until must exceed min_time ({self.min_time}), got {self.distil_until}"
            )

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        require_likelihood(student, "di4c")
        if student.product_layer() is not None:
            raise ValueError(
                "di4c teaches correlations, which a product student cannot hold: use a joint one, "
                "such as student='mixture', or --method matching"
            )

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher, process = require_frozen(teacher, student), student.process
        size, length = batch.shape
        t = self.min_time + (1 - self.min_time) * spread_uniform(size, generator, batch.device)
        near = self.min_time + (self.distil_until - self.min_time) * spread_uniform(
            size, generator, batch.device
        )
        u = t - torch.minimum(torch.full_like(t, self.teacher_step), t / 2)
        with torch.no_grad():
            x_t = process.corrupt(batch, 0.0, t, generator)
            x_near = process.corrupt(batch, 0.0, near, generator)
            said, said_near = teacher(x_t, t), teacher(x_near, near)
            x_u = process.bridge(x_t, said.sample(generator), u, t, generator)
            own = student(x_u, u)
        law, law_near = student(x_t, t), student(x_near, near)
        control = self.control_variate and law.chosen_product and not law.independent
        product = product_of_marginals(law) if control else None
        product_near = product_of_marginals(law_near) if control else None
        terms = {
            "distillation": cross_entropy(law_near, product_near, said_near, None, generator),
            "consistency": cross_entropy(law, product, own, None, generator),
            "data": cross_entropy(law, product, said, batch, generator),
        }
        total = torch.zeros((), dtype=torch.float64, device=batch.device)
        for weight, term in zip(self.term_weights, terms.values()):
            total = total + weight * term.mean() / length
        metrics = {name: term.detach().mean() / length for name, term in terms.items()}
        return total, {**metrics, "target_time": u.mean()}


def product_of_marginals(law: Law) -> ProductLaw:
    """p̄: the product of a law's marginals, with their gradients."""
    return ProductLaw(safe_log(law.marginals()))


def cross_entropy(
    law: Law, product: ProductLaw | None, target: Law, x0: Tensor | None, generator: Generator
) -> Tensor:
    """−E log p(x₀) in nats, an estimate: (B,).

    Args:
        law: p.
        product: p̄ of it, for the control variate; None for none.
        target: where x₀ is drawn from, without gradients.
        x0: (B, L) a draw that is there already, of whose law ``target`` has the marginals.
        generator: see :mod:`fewjump.random`.
    """
    if product is None:
        return law.cross_entropy(target, generator) if x0 is None else -law.log_prob(x0)
    drawn = target.sample(generator) if x0 is None else x0
    return product.log_prob(drawn) - law.log_prob(drawn) + product.cross_entropy(target)
