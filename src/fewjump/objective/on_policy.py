"""On-policy refinement: a few-step student against its teacher, on the student's own samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.denoiser.score import ScoreDenoiser
from fewjump.denoiser.wrappers import unwrapped
from fewjump.law.base import Draw, Law
from fewjump.law.product import ProductLaw, as_product
from fewjump.objective.base import Metrics, require_frozen
from fewjump.objective.own_samples import OwnSamples
from fewjump.objective.score_function import (
    DrawnAt,
    leave_one_out,
    own_posterior,
    score_surrogate,
    summed_gradient,
    table_reward,
    token_reward,
)
from fewjump.objective.time_sampling import (
    spread_uniform,
    time_weight,
)
from fewjump.options.sampled import OnPolicyOptions
from fewjump.process import Process
from fewjump.random import Generator, initial_weights, integers

_AUXILIARY_WEIGHTS = 6


@dataclass(eq=False)
class OnPolicyRefinement(OwnSamples, OnPolicyOptions):
    """Reverse KL between the student's sampler and the teacher's chain (DMD family).

    **What is minimised.** On the grid 1 = t_0 > … > t_K = 0 the student's step k draws
    x₀ ~ p^φ(·|x_t) at t = t_k and x_u from the bridge q(x_u|x_t, x₀), u in [t_{k+1}, t_k). Write
    p^φ_u for the law of x_u that results, p^φ(x₀ⁱ|x_u) for its per-position posterior. Then

      D(φ) = Σ_k ∫_{t_{k+1}}^{t_k} du w(u) E_{x_u~p^φ_u} Σᵢ KL(p^φ(x₀ⁱ|x_u) ‖ p^θ(x₀ⁱ|x_u)).

    D ≥ 0, and D = 0 where the student's marginals in each interval follow the teacher's chain.
    Masked, with w = σα/(1−α), D is the KL between the path laws of two chains: the one with the
    student's marginals, and the teacher's. Hence D ≥ KL(output law of the student ‖ law of the
    teacher's chain) where x_t comes from the student's own steps, with equality in one step, where
    x_u is x₀ noised. For other processes D is another divergence with the same zero.

    **Its gradient.** p^φ(x₀ⁱ|x_u) is not known; an auxiliary denoiser ψ learns it by cross-entropy
    on (x_u → x₀). As the logarithmic score is proper,

      D(φ) = max_ψ E_{x_t, x₀~p^φ(·|x_t), x_u}[R_ψ],
      R_ψ = w(u) Σᵢ (log p^ψ(x₀ⁱ|x_u) − log p^θ(x₀ⁱ|x_u)),

    so by the envelope theorem ∇D = E[∇log p^φ(x₀|x_t)·R_ψ*(x₀, x_u)], with no derivative of R.
    ``score`` estimates it with a leave-one-out baseline over ``draws`` of (x₀, x_u) at one (x_t,
    u), for every law. ``expected`` sums x₀ out given x_u, for product laws, for mixtures given the
    component, and for latent students given z, whose own likelihood is then never asked for
    (:mod:`fewjump.objective.score_function`); its variance is lower, its memory (B, L, V).

    The states x_t are held fixed: with ``source="student"`` the gradient leaves out what a step
    does to the states of later steps (nothing at D = 0, and for K = 1).

    The student and ψ are one model, :class:`fewjump.objective.on_policy.StudentWithAuxiliary`;
    both terms are in one loss, and their gradients do not mix.

    Options by keyword: those of :class:`~fewjump.options.sampled.OnPolicyOptions`; a floor
    bounds the reward, and the gradient is then that of D with a teacher so floored. Reverse KL may
    leave modes, the data's likelihood may not.

    Metrics, in nats per position: ``divergence`` (D as ψ sees it, probabilities floored),
    ``auxiliary_cross_entropy``, ``joint_entropy`` (−log p^φ(x₀|x_t) of the draws, of a latent
    student given z),
    ``student_entropy`` and ``teacher_entropy`` (of a position given the same x_u, by ψ and by the
    teacher), with data ``data_nll``.

    Raises:
        ValueError: for options outside their range; at call, for a student that carries no
            auxiliary network, or ``expected`` for a law that has no such form.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._step = self.warmup

    def begin_step(self, step: int) -> None:
        self._step = step

    def own(self, model: Denoiser) -> Denoiser:
        return _pair(model).student

    def settle(self, student: Denoiser, steps: int, earlier: Mapping[str, Any]) -> None:
        if self.warmup >= steps:
            raise ValueError(
                f"auxiliary_steps ({self.warmup}) leaves the student none of the {steps} steps; "
                "lower it, or raise steps"
            )

    def trained(self, student: Denoiser, teacher: Denoiser, seed: int) -> Denoiser:
        helper = auxiliary_for(teacher, student, seed)
        return StudentWithAuxiliary(student, helper, self.auxiliary_lr)

    def delivered(self, model: Denoiser) -> Denoiser:
        return self.own(model).eval()

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        _pair(student)
        if teacher is not None and not teacher.closed_marginals:
            raise ValueError(
                "this asks the teacher for the law of single positions, which a model that draws "
                "token after token, or a latent first, has no closed form for: give the teacher "
                "that the student was distilled from"
            )

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher, pair = require_frozen(teacher, student), _pair(student)
        process, length = student.process, batch.shape[1]
        k, t, u, width = self._times(batch.shape[0], generator, batch.device)
        with torch.no_grad():
            x_t = self._states(student, batch, k, t, generator)
        law = student(x_t, t)
        drawn = [law.draw(generator) for _ in range(self.draws)]
        with torch.no_grad():
            x_u = torch.cat([process.bridge(x_t, one.x0, u, t, generator) for one in drawn])
        x0 = torch.cat([one.x0 for one in drawn])
        late = u.repeat(self.draws)
        fake = pair.auxiliary(x_u, late)
        if not fake.independent:
            raise ValueError("the auxiliary denoiser must return a product law; give it that head")
        fake = as_product(fake)
        with torch.no_grad():
            real = as_product(teacher(x_u, late))
        surprise = self._surprise(fake, real, x0)
        jumps = len(self.few_step_times()) - 1
        scale = self._time_weight(process, u) * width * jumps
        metrics = self._metrics(law, drawn[0], fake, real, length)
        at = DrawnAt(x_t, t, x_u.reshape(self.draws, -1, length), u, scale, process)
        summed, surrogate = self._sums_out(law, drawn[0], process), torch.zeros_like(scale)
        if summed:
            reward, surrogate = self._summed(drawn, fake, real, at)
        else:
            reward = self._reward(fake, real, x0, at)
        total = reward.reshape(self.draws, -1, length).double().sum(-1) * scale
        scored, weight = torch.zeros_like(total) if summed else total, self._anchor_weight
        if weight or not summed:
            log_probs = torch.stack([law.log_prob(one.x0) for one in drawn])
            if weight:
                away = self._away(teacher, x_t, t, drawn, log_probs)
                scored = scored + weight * jumps * away
                metrics["kl_to_teacher"] = away.mean() / length
            surrogate = surrogate + score_surrogate(log_probs, leave_one_out(scored)).mean(0)
        surrogate = surrogate.mean() / length
        if self._step < self.warmup:
            surrogate = surrogate * 0.0
        divergence = total.mean() / length
        # The value of a surrogate means nothing: what is reported is the divergence.
        loss = surrogate - surrogate.detach() + divergence + surprise.double().mean()
        metrics["divergence"] = divergence
        metrics["auxiliary_cross_entropy"] = surprise.detach().mean()
        if self.data_weight:
            nll = -law.log_prob(batch).mean() / length
            loss = loss + (self._step >= self.warmup) * self.data_weight * nll
            metrics["data_nll"] = nll.detach()
        return loss, metrics

    def _time_weight(self, process: Process, u: Tensor) -> Tensor:
        """w(u), (B,)."""
        return time_weight(self.weighting, process, u)

    def _reward(self, fake: ProductLaw, real: ProductLaw, x0: Tensor, at: DrawnAt) -> Tensor:
        """R_ψ / w(u) of x₀ (S·B, L) by position, constant: (S·B, L)."""
        return token_reward(fake, real, x0, self.floor)

    @torch.no_grad()
    def _table(self, fake: ProductLaw, real: ProductLaw) -> Tensor:
        """The same of every token: (B, L, V)."""
        return table_reward(fake, real, self.floor)

    @torch.no_grad()
    def _posterior(self, number: int, one: Draw, fake: ProductLaw, at: DrawnAt) -> Tensor:
        """The law of each token given x_u by which it is summed out: (B, L, V)."""
        assert one.law is not None
        law = as_product(one.law)
        return own_posterior(law, at.x_u[number], at.u, at.x_t, at.t, at.process)

    def _holds(self, one: Draw) -> bool:
        """Whether x_u is held fixed where tokens are summed out."""
        return False

    def _summed(
        self, drawn: list[Draw], fake: ProductLaw, real: ProductLaw, at: DrawnAt
    ) -> tuple[Tensor, Tensor]:
        """R_ψ / w(u) of the draws, (S·B, L), and the surrogate with their tokens summed out, (B,).

        ``fake`` and ``real`` have S·B rows, draw by draw.
        """
        rewards, posteriors, told = [], [], []
        rows = torch.arange(fake.batch_size, device=at.x_t.device).reshape(len(drawn), -1)
        for number, (one, here) in enumerate(zip(drawn, rows)):
            theirs = fake.select(here)
            rewards.append(self._table(theirs, real.select(here)))
            posteriors.append(self._posterior(number, one, theirs, at))
            told.append(rewards[-1].gather(-1, one.x0[..., None])[..., 0])
        held = self._holds(drawn[0])
        return torch.cat(told), summed_gradient(drawn, rewards, posteriors, at.scale, held)

    def _surprise(self, fake: ProductLaw, real: ProductLaw, x0: Tensor) -> Tensor:
        """What ψ minimises by position, with gradients: (N, L), for x₀ (N, L)."""
        return -fake.token_log_prob(x0)

    @property
    def _anchor_weight(self) -> float:
        """Of KL(p^φ(·|x_t) ‖ Πᵢ p^θ(x₀ⁱ|x_t)), summed over the steps of the grid."""
        return 0.0

    @torch.no_grad()
    def _away(
        self, teacher: Denoiser, x_t: Tensor, t: Tensor, drawn: list[Draw], log_probs: Tensor
    ) -> Tensor:
        """log p^φ(x₀|x_t) − Σᵢ log p^θ(x₀ⁱ|x_t) of each draw, the latter floored: (S, B)."""
        law = as_product(teacher(x_t, t))
        each = torch.stack([law.token_log_prob(one.x0) for one in drawn])
        return log_probs.double() - each.clamp(min=math.log(self.floor)).double().sum(-1)

    def _times(
        self, batch_size: int, generator: Generator, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step k, its time t, u in its interval, and the interval's width: (B,) each."""
        grid = self.few_step_times()
        times = torch.tensor(grid, dtype=torch.float64, device=device)
        k = integers(len(grid) - 1, (batch_size,), generator, device)
        t, lowest = times[k], times[k + 1].clamp(min=self.min_time)
        share = spread_uniform(batch_size, generator, device)
        return k, t, lowest + (t - lowest) * share, t - lowest

    def _sums_out(self, law: Law, one: Draw, process: Process) -> bool:
        """Whether tokens are summed out, given one draw."""
        if self.estimator == "expected" and one.law is None:
            raise ValueError(
                f"there is no expected form for a {type(law).__name__}; use estimator='score'"
            )
        return one.law is not None and self._may_sum(process)

    def _may_sum(self, process: Process) -> bool:
        """Whether tokens are summed out of laws of which they can be."""
        return self.estimator != "score"

    @torch.no_grad()
    def _metrics(
        self, law: Law, one: Draw, fake: ProductLaw, real: ProductLaw, length: int
    ) -> Metrics:
        # A likelihood that is not at hand is that given what chose the draw.
        law = law if one.law is None or law.chosen_product else one.law
        return {
            "joint_entropy": -law.log_prob(one.x0).mean() / length,
            "student_entropy": fake.entropy().mean(),
            "teacher_entropy": real.entropy().mean(),
        }


def _pair(student: Denoiser) -> StudentWithAuxiliary:
    if not isinstance(student, StudentWithAuxiliary):
        raise ValueError(
            "on-policy refinement trains a student with an auxiliary network; use fewjump.refine, "
            "or StudentWithAuxiliary(student, auxiliary)"
        )
    return student


class StudentWithAuxiliary(Denoiser):
    """A student denoiser that carries an auxiliary one; as a denoiser it *is* the student.

    Both are parts of one module, so that the training loop optimises, averages, saves and resumes
    them together. The auxiliary's parameters carry an ``lr_scale``, which the loop's optimiser
    multiplies their learning rate by.

    Args:
        student: the few-step sampler that is refined.
        auxiliary: returns a product law; of the student's process.
        lr_scale: learning rate of the auxiliary as a multiple of the student's, above 0.

    Raises:
        ValueError: for another process, shared parameters, or an ``lr_scale`` that is not positive.
    """

    def __init__(self, student: Denoiser, auxiliary: Denoiser, lr_scale: float = 1.0) -> None:
        super().__init__(student.process, student.length, student.clean_vocab_size)
        if auxiliary.process.config() != student.process.config():
            raise ValueError(
                f"the auxiliary denoiser has the process {auxiliary.process!r}, the student "
                f"{student.process!r}; build it with process=student.process"
            )
        mine = {id(p) for p in student.parameters()}
        if any(id(p) in mine for p in auxiliary.parameters()):
            raise ValueError("student and auxiliary share parameters; copy.deepcopy one of them")
        if not 0 < lr_scale < math.inf:
            raise ValueError(f"lr_scale must be positive, got {lr_scale}")
        self.student, self.auxiliary = student, auxiliary
        self.take_after(student)
        for parameter in auxiliary.parameters():
            parameter.lr_scale = lr_scale  # pyright: ignore[reportAttributeAccessIssue]

    def law(self, x_t: Tensor, t: Tensor) -> Law:
        return self.student(x_t, t)

    @property
    def network(self) -> nn.Module:
        """The student's own network: what ``compile=True`` compiles."""
        for name in ("trunk", "network"):
            part = getattr(self.student, name, None)
            if isinstance(part, nn.Module):
                return part
        raise AttributeError("the student has no network of its own")


def auxiliary_for(teacher: Denoiser, student: Denoiser, seed: int) -> Denoiser:
    """What learns the student's samples: a copy of a product teacher, if there is a network in it.

    Otherwise a product network on a copy of the student's trunk.

    Raises:
        ValueError: where neither is a network.
    """
    if teacher.kind == "product" and isinstance(teacher, NetworkDenoiser | ScoreDenoiser):
        return teacher.as_student()
    if not isinstance(student, NetworkDenoiser):
        raise ValueError(
            f"neither a {type(teacher).__name__} nor a {type(student).__name__} says what the "
            "auxiliary network should be; give auxiliary=…, a denoiser with a product law"
        )
    with initial_weights(seed, _AUXILIARY_WEIGHTS):
        helper = NetworkDenoiser.from_config({**student.config(), "head": {"kind": "product"}})
    helper.trunk.load_state_dict(unwrapped(student.trunk).state_dict())
    helper.process = student.process
    return helper
