"""Few-step students from data alone: the likelihood of a joint or latent law p^φ(x₀|x_t).

The teacher of a distillation gives the process, the sizes of the network and the weights to start
from. It is never evaluated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.law.latent import LatentLaw
from fewjump.objective.base import Metrics, require_likelihood
from fewjump.objective.elbo import DataObjective, cross_entropy
from fewjump.objective.latent import LatentBound, encoded
from fewjump.objective.time_sampling import grid_times, time_weight
from fewjump.options.matching import ExpertOptions, FewStepOptions
from fewjump.process import Process
from fewjump.random import Generator


@dataclass(eq=False)
class FromData(DataObjective, FewStepOptions):
    """E_t w(t)·E_{x_t|x₀} of what a student's law at x_t costs on the data x₀.

    t is uniform on (min_time, 1), or one of the times of the few-step form but the last.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.grid, self.steps = self.few_step_times(), None

    def draw_times(self, first: Tensor) -> Tensor:
        return super().draw_times(first) if self.grid is None else grid_times(first, self.grid)[0]

    def weighted(self, cost: Tensor, process: Process, t: Tensor, length: int) -> Tensor:
        """Mean over the batch in nats per position, of costs (B,) of whole sequences."""
        weight = time_weight(self.weighting, process, t)
        return (weight.to(cost.dtype) * cost).mean() / length


@dataclass(eq=False)
class DataLikelihood(FromData):
    """E_t w(t)·E_{x_t|x₀}[−log p^φ(x₀|x_t)]: maximum likelihood of the data behind a noisy state.

    For every student whose likelihood can be computed: joint heads, products, and latent ones of
    one category per sequence. The exact p(x₀|x_t) is the minimiser, for every weight.

    **What it bounds.** With p_K the law of K ancestral steps along a grid from 1 to 0, the times of
    that grid (``steps``, ``grid``) and uniform weight,

      E[−log p_K(x₀)] ≤ Σ_k E[−log p^φ(x₀|x_{t_k})] + KL(q(x₁|x₀) ‖ prior) = K·L·loss + KL,

    with equality for one step under a mask. The weight ``elbo`` makes the loss of a *product* law
    under a mask the likelihood bound of infinitely many steps (MDLM). Of a joint law it makes no
    bound.

    Options by keyword: those of :class:`~fewjump.options.matching.FewStepOptions`. With ``known``
    a part of every sequence stays clean, and the loss is that of the others given it.

    Metrics: ``cross_entropy``, nats per position.

    Raises:
        ValueError: for options outside their range; at check, for latent students whose likelihood
            is only bounded.
    """

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        require_likelihood(student, "this method")

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        return self.scored(student, batch, generator)[1:]

    def scored(
        self, student: Denoiser, batch: Tensor, generator: Generator
    ) -> tuple[Law, Tensor, Metrics]:
        """The student's law at x_t, the loss and metrics."""
        process = student.process
        t, given, x_t = self.noised(process, batch, generator)
        law = student(x_t, t)
        cost, mean = cross_entropy(law, x_t, batch, given)
        loss = self.weighted(cost, process, t, batch.shape[1])
        return law, loss, {"cross_entropy": mean}


@dataclass(eq=False)
class RoutedLikelihood(DataLikelihood, ExpertOptions):
    """:class:`DataLikelihood` of a mixture of experts, p^φ(x₀|x_t) = Σ_k π_k(x_t) Πᵢ p_k(x₀ⁱ|x_t).

    After E-MoE (Ivanov et al. 2026, arXiv 2609.37533), read in its authors' summary and published
    code (github.com/Arseny5/e-moe), not in full. There an expert is chosen at every position and
    layer of the trunk, and the likelihood is bounded. Here one component of the head is chosen for
    a sequence, and −log p^φ is exact; with a latent student of one category the choice enters the
    trunk, at K evaluations a step of training. The default weight is uniform, theirs is 1/t
    (``weighting="elbo"`` under a mask).

    **Balance.** ``balance``·(log K − H(π̄)), π̄ the mean of π(x_t) over the batch, is ours: 0 where
    the experts are used alike, log K where one is. With it the exact law is a fixed point only if
    its experts are used alike, and the loss depends on how a batch is split: π̄ is that of a part
    on one device.

    Options by keyword: those of :class:`~fewjump.options.matching.FewStepOptions` and
    :class:`~fewjump.options.matching.ExpertOptions`.

    Metrics: ``cross_entropy`` (nats per position), ``experts_used`` (exp H(π̄), from 1 to K).

    Raises:
        ValueError: for options outside their range; at check, for students that are no mixture.
    """

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        if not student.mixture:
            raise ValueError(
                "e-moe trains mixtures: use student='mixture', student='shared-mixture' or a "
                "latent one of one category, or --method data-only, which takes every kind"
            )

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        law, loss, metrics = self.scored(student, batch, generator)
        logits = law.component_logits()
        assert logits is not None
        shares = logits.softmax(-1).mean(0)
        # The entropy's slope at 0 is not finite.
        used = torch.special.entr(shares.clamp(min=torch.finfo(shares.dtype).tiny)).sum()
        if self.balance:
            uneven = math.log(logits.shape[-1]) - used
            loss = loss + self.balance * uneven / batch.shape[1]
        return loss, {**metrics, "experts_used": used.detach().exp()}


@dataclass(eq=False)
class VariationalLikelihood(LatentBound, FromData):
    """E_t w(t)·E_{x_t|x₀}[ E_{z~q(z|x₀,x_t)}[−log p^φ(x₀|x_t,z)] + KL(q ‖ p(z|x_t)) ].

    VADD (Xie et al. 2025, arXiv 2505.17384): a latent z makes the positions that one step draws
    agree, p^φ(x₀|x_t) = ∫ p(z) Πᵢ p^φ(x₀ⁱ|x_t,z) dz, and a recognition network q(z|x₀,x_t), which
    sees the data, bounds its likelihood. The loss is never below that of :class:`DataLikelihood`,
    and equal to it where q is the posterior of z. The KL's weight rises over the first
    ``kl_warmup`` steps, as it does there.

    The paper was read in its abstract and in E-MoE's published code of it, not in full. There z is
    normal (``--head size=64 categories=0``) and the weight ``elbo``. Here z may be of any kind, and
    one category per sequence is summed out with the best q, as in
    :class:`~fewjump.objective.LatentMatching`.

    Options by keyword: those of :class:`~fewjump.options.matching.FewStepOptions` and
    :class:`~fewjump.options.matching.LatentOptions`. Known positions need a mask.

    Metrics: ``cross_entropy`` (nats per position, that of the bound), and those of the latent, as
    :class:`~fewjump.objective.LatentMatching` has them.

    Raises:
        ValueError: for options outside their range; at check, for a student that is not latent or
            has no encoder.
    """

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        process, length = student.process, batch.shape[1]
        t, _, x_t = self.noised(process, batch, generator)
        law = student(x_t, t)
        assert isinstance(law, LatentLaw)

        def costs(decoded: Law, rows: Tensor | None) -> Tensor:
            return -decoded.log_prob(batch if rows is None else batch[rows])[:, None]

        posterior = encoded(student, batch, x_t, t)
        total, bounds, metrics = self.bounded(law, posterior, costs, (1.0,), 1, generator)
        metrics["cross_entropy"] = bounds.mean() / length
        return self.weighted(total, process, t, length), metrics
