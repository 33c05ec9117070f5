"""Matching the joint conditional through a latent: the bound that trains a latent student, and the
importance-weighted one that says what it is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.latent import LatentHead
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.law.base import Law
from fewjump.law.latent import DiscreteLatent, Latent, LatentLaw, unit_kl
from fewjump.objective.base import Given, Metrics, Objective, require_frozen
from fewjump.objective.joint import JointConditionalMatching
from fewjump.objective.teacher_time import candidate_times, choose_target
from fewjump.objective.time_sampling import time_weight
from fewjump.options.matching import KnownOptions, LatentOptions
from fewjump.random import Generator

#: ``auto`` sums a category of up to this many values out of the bound.
SUM_LIMIT = 32
#: A unit of z counts as active from this KL on, in nats (arXiv 1509.00519 uses the same cut).
ACTIVE_NATS = 0.01
#: (law of N sequences given z, (N,) their rows in the batch or None for all) → (N, C) nats, one for
#: each of C targets.
Costs = Callable[[Law, Tensor | None], Tensor]


@dataclass(kw_only=True, eq=False)
class LatentBound(Objective, LatentOptions, KnownOptions):
    """An objective that bounds −log p^φ(x₀|x_t) of a latent student by its encoder's q.

    E_{z~q(z|x_s,x_t)}[−log p^φ(x₀|x_t,z)] + KL(q ‖ p(z|x_t)), where the KL is scaled up over the
    first ``kl_warmup`` steps, and each sequence has ``free_bits`` of it for nothing.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        # Not an option: where training is. Without the loop's word the warm-up counts as over.
        self._kl_weight = 1.0

    def settle(self, student: Denoiser, steps: int, earlier: Mapping[str, Any]) -> None:
        super().settle(student, steps, earlier)
        if self.kl_warmup is None:
            begun = earlier.get("kl_warmup")
            self.kl_warmup = begun if isinstance(begun, int) else steps // 2

    def begin_step(self, step: int) -> None:
        super().begin_step(step)
        self._kl_weight = min(1.0, step / self.kl_warmup) if self.kl_warmup else 1.0

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        head = latent_head(student)
        if self.known is not None and not student.process.absorbing:
            raise ValueError(
                "a latent student conditions on known positions under masks only: use a masked "
                "teacher, another kind of student (such as mixture or chain), or leave out known"
            )
        if head.encoder is None:
            raise ValueError(
                "the latent student has no encoder, which training needs; build it with "
                "head={'encoder': True} and warm-start it from this one"
            )
        if self.estimator == "sum" and not head.is_one_category():
            raise ValueError(
                "estimator='sum' needs a latent of one category per sequence and nothing else; "
                "use estimator='sample'"
            )

    def bounded(
        self,
        law: LatentLaw,
        posterior: Latent,
        costs: Costs,
        weights: Sequence[float],
        draws: int,
        generator: Generator,
    ) -> tuple[Tensor, Tensor, Metrics]:
        """The bound of each target, and what is minimised.

        Args:
            law: p^φ(x₀|x_t), B rows.
            posterior: the encoder's q.
            costs: −log p^φ(x₀|x_t,z) of C targets. Where z is summed out the first chooses q.
            weights: of the targets.
            draws: of z, where it is not summed out.
            generator: see :mod:`fewjump.random`.

        Returns:
            What is minimised, (B,) nats; the bounds (B, C), with the whole KL and without
            gradients; and metrics.
        """
        category, gap = posterior.category(), None
        if category is not None and self._sums(category.values):
            posterior, each = summed(law, costs)
            gap = posterior.kl(category)
        else:
            drawn = (law.decode(posterior.relaxed(generator), law.rows) for _ in range(draws))
            each = sum(costs(decoded, None) for decoded in drawn) / draws
        assert isinstance(each, Tensor)
        units = unit_kl(posterior, law.prior)
        kl = units.sum(-1)
        total = sum(weight * one for weight, one in zip(weights, each.unbind(-1)))
        total = total + sum(weights) * self._kl_weight * kl.clamp(min=self.free_bits)
        metrics = self._latent_metrics(each[:, 0], units, posterior, law.length)
        if gap is not None:
            total = total + gap
            metrics["encoder_gap"] = gap.detach().mean()
        return total, (each + kl[:, None]).detach(), metrics

    def _sums(self, values: int) -> bool:
        return self.estimator == "sum" or (self.estimator == "auto" and values <= SUM_LIMIT)

    @torch.no_grad()
    def _latent_metrics(
        self, fit: Tensor, units: Tensor, posterior: Latent, length: int
    ) -> Metrics:
        kl = units.sum(-1).mean()
        metrics = {
            "reconstruction": fit.mean() / length,
            "kl": kl,
            "kl_bits": kl / math.log(2),
            "active_units": (units.mean(0) > ACTIVE_NATS).sum().to(kl.dtype),
            "kl_weight": torch.full_like(kl, self._kl_weight),
        }
        category = posterior.category()
        if category is not None:
            mean = category.logits.softmax(-1).mean(0)
            metrics["codes_used"] = torch.special.entr(mean).sum().exp()
        return metrics


@dataclass(eq=False)
class LatentMatching(LatentBound, JointConditionalMatching):
    """E_{x_t, x_s}[ E_{z~q(z|x_s,x_t)} CE(p^θ_{0|s}(·|x_s), p^φ(·|x_t,z)) + KL(q ‖ p(z|x_t)) ].

    This bounds the joint cross-entropy E_{x₀~p^θ(·|x_s)}[−log p^φ(x₀|x_t)] of
    :class:`~fewjump.objective.JointConditionalMatching` from above, with equality where q is the
    posterior of z. Given z both laws are products, and their cross-entropy has a closed form: x₀ is
    not drawn.

    One category of few values is summed over, and then q is the best there is, q*(z) ∝
    p(z|x_t)·exp(−CE(p^θ, p^φ(·|x_t,z))); the encoder only learns to imitate it. A drawn z needs the
    encoder's q, which finds local optima more often.

    Against posterior collapse (z carries nothing, and the student stays a product) the KL is scaled
    up from 0 over the first ``kl_warmup`` steps, and each sequence has ``free_bits`` of it for
    nothing. The metrics have neither.

    Options: those of :class:`~fewjump.objective.JointConditionalMatching` but ``consistency`` and
    ``times``, and by keyword those of :class:`~fewjump.options.matching.LatentOptions`. ``draws``
    are of z. ``data_weight`` is that of the same bound on −log p^φ(x₀|x_t) for the data x₀ of x_t.
    The ``estimator`` ``sum`` takes E_{z~q} over all values of z with the best q, at K trunk
    evaluations; ``sample`` draws z from the encoder's q: gradients to a normal z are exact, those
    to a category straight-through and biased. Known positions need a mask: under other noise they
    would change p(z|x_t) itself.

    Metrics: those of :class:`~fewjump.objective.JointConditionalMatching`, where ``cross_entropy``
    and ``gain_over_product`` are now those of the bound (so the gain is a lower bound of the gain),
    and: ``reconstruction`` (nats per position), ``kl`` (nats per sequence), ``kl_bits``,
    ``active_units`` (units of z whose mean KL exceeds 0.01 nats), ``codes_used`` (category per
    sequence only: exp of the entropy of the batch's mean q), ``kl_weight``, and with a sum
    ``encoder_gap`` (nats per sequence, KL from q* to the encoder's q).

    Raises:
        ValueError: for options outside their range; at :meth:`check`, for a student that is not
            latent or has no encoder, and for several draws of a latent that is summed out.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consistency:
            raise ValueError(
                "consistency is not for latent students, whose encoder is shown the teacher's "
                "state; leave it out"
            )
        if self.summed:
            raise ValueError("summed is not for latent students; leave it out")
        if self.times is not None:
            raise ValueError("times is not for latent students; leave it out")

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        head = latent_head(student)
        if self.draws > 1 and head.is_one_category() and self._sums(head.categories):
            raise ValueError(
                f"this student's latent is summed out over its {head.categories} values, so there "
                "are no draws of it; leave draws at 1, or use estimator='sample'"
            )

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher = require_frozen(teacher, student)
        length = batch.shape[1]
        given = Given.draw(self.known, self.known_share, batch, student.process, generator)
        t, _, _ = self._draw_times(batch.shape[0], generator, batch.device)
        times = candidate_times(self._share(student), t, self.min_time, generator)
        law, x_t, states = self._draw(student, teacher, batch, t, times, generator, given)
        assert isinstance(law, LatentLaw)
        with torch.no_grad():
            target = choose_target(teacher, states, times, self.tolerance * length)
        x_s = _chosen(states, times, target.s)

        def costs(decoded: Law, rows: Tensor | None) -> Tensor:
            told = target.law if rows is None else target.law.select(rows)
            each = [decoded.cross_entropy(told, generator)]
            if self.data_weight:
                each.append(-decoded.log_prob(batch if rows is None else batch[rows]))
            return torch.stack(each, -1)

        posterior = encoded(student, x_s, x_t, t)
        weights = (1.0, self.data_weight) if self.data_weight else (1.0,)
        total, bounds, own = self.bounded(law, posterior, costs, weights, self.draws, generator)
        metrics = self._metrics(bounds[:, 0], target, teacher, x_t, t, given) | own
        if self.data_weight:
            metrics["data_nll"] = bounds[:, 1].mean() / length
        weight = time_weight(self.weighting, student.process, t)
        return (weight.to(total.dtype) * total).mean() / length, metrics


def _chosen(states: Tensor, times: Tensor, s: Tensor) -> Tensor:
    """The (B, L) states at the times s that were chosen, from a path (K, B, L)."""
    if len(states) == 1:
        return states[0]
    level = (times == s).to(torch.uint8).argmax(0)
    return states[level, torch.arange(states.shape[1], device=states.device)]


def summed(law: LatentLaw, costs: Costs) -> tuple[DiscreteLatent, Tensor]:
    """The best q for the first target, q*(z) ∝ p(z|x_t)·exp(−cost), and the mean costs (B, C).

    q carries no gradient: at the minimum over q there is none to carry.
    """
    prior = law.prior.category()
    assert prior is not None
    count, batch = prior.values, law.batch_size
    each = torch.arange(batch, device=law.device).repeat_interleave(count)
    z = torch.arange(count, device=law.device).repeat(batch)
    value = costs(law.decode(z, law.rows[each]), each).unflatten(0, (batch, count))
    best = DiscreteLatent((prior.logits.log_softmax(-1) - value[..., 0]).detach())
    return best, (best.logits.softmax(-1)[..., None] * value).sum(1)


def encoded(student: Denoiser, x_s: Tensor, x_t: Tensor, t: Tensor) -> Latent:
    """The student's q(z|x_s, x_t), for (B, L) tokens and t (B,)."""
    return latent_head(student).encode(x_s, x_t, student.process.schedule.sigma_bar(t))


def latent_head(student: Denoiser) -> LatentHead:
    """The student's latent head.

    Raises:
        ValueError: if it has another.
    """
    student = student.unconditioned
    if isinstance(student, NetworkDenoiser) and isinstance(student.head, LatentHead):
        return student.head
    raise ValueError(
        f"this objective trains latent students, got {student.kind}; use student='latent', or "
        "another method"
    )
