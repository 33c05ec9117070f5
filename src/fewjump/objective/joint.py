"""Joint conditional matching: the paper's decomposition read as a mixture over x_s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from fewjump.config import one_of
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.constrain import DEFER_FROM
from fewjump.law.base import Law
from fewjump.objective.base import Given, MatchingObjective, Metrics, require_frozen
from fewjump.objective.intermediate import bridge_path, forward_path, roll_down, rollout_path
from fewjump.objective.teacher_time import (
    Target,
    candidate_times,
    choose_target,
    joint_near,
)
from fewjump.objective.time_sampling import grid_times, spread_uniform, time_weight
from fewjump.options.matching import JointIntermediate, JointOptions, Near
from fewjump.random import Generator, uniform


@dataclass(eq=False)
class JointConditionalMatching(MatchingObjective, JointOptions):
    """E_{x_t} E_{x_s|x_t} E_{x₀~p^θ_{0|s}(·|x_s)} [−log p^φ_{0|t}(x₀|x_t)], for s < t.

    p_{0|t}(x₀|x_t) is the mixture of p_{0|s}(x₀|x_s) over x_s|x_t (arXiv 2512.12889, the Markov
    decomposition), and for small s each of those is nearly a product, which a per-position teacher
    can say. So a student whose joint log-probability is tractable learns the joint conditional, up
    to E[TC(x₀|x_s)] in KL, which s controls (see :mod:`fewjump.objective.teacher_time`); a teacher
    whose own law is joint has no such bias. At a masked process the positions visible in x_t are
    certain in both laws and carry no loss.

    x₀ is drawn from the teacher's law and scored by ``law.cross_entropy``: an autoregressive law
    sums each position's own token out, a product law has no variance at all. ``summed`` does so for
    chains and mixtures too.

    Options by keyword: those of :class:`~fewjump.options.matching.MatchingOptions` and
    :class:`~fewjump.options.matching.JointOptions`, and ``times``. ``near`` says where s is:
    ``zero``: s = min_time; ``uniform``: uniform on (min_time, t); a share c in (0, 1): s = c·t;
    ``adaptive``: for each sample the largest of a few shares whose bias bound is within
    ``tolerance``, or min_time. One trunk evaluation serves all ``draws`` of x₀. ``consistency``
    adds the student's own target (without gradient) at a time u between s and t, from the same
    path; in the few-step form u is the next grid time, and rows that have none keep the teacher's
    target. With a grid t is one of its times but the last, else uniform on (min_time, 1). Both laws
    are conditioned on what is known.

    Attributes:
        intermediate: how x_s|x_t is drawn. ``forward``: data noised to s and on to t: exact. With
            ``near="zero"`` this is maximum likelihood on the data, and the teacher adds nothing.
            ``teacher-rollout``: the teacher's ancestral steps, from noise to t and on to s; no
            data. The student then learns the law of the teacher *run with that many steps*.
            ``student``: x₀ from the student's own joint law at x_t, then the bridge to s: exact
            when the student is. Its errors enter its own target, and only the teacher's answer at
            x_s corrects them: use it with larger s.

    Metrics: ``cross_entropy`` and ``teacher_entropy`` (nats per position; the latter of the
    teacher's positions at s), ``bias_bound`` (nats per position, an upper bound of TC(x₀|x_s)),
    ``source_time`` (mean s), ``gain_over_product`` (nats per *sequence*, on an eighth of the batch:
    by how much the student beats the teacher's own product law at t on the same targets: 0 at a
    warm start, on average TC(x₀|x_t) for a perfect joint student). With their terms switched on,
    ``consistency_cross_entropy`` and ``data_nll``, per position.

    Raises:
        ValueError: for options outside their range or that exclude each other; at call, for a
            teacher that is not frozen.
    """

    intermediate: JointIntermediate = "forward"
    default_rollout_steps: ClassVar[int] = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("intermediate", self.intermediate, get_args(JointIntermediate))
        if self.near != "adaptive" and self.tolerance != JointOptions.tolerance:
            raise ValueError("tolerance is for near='adaptive'")
        if not self.summed:
            # What is not used does not identify a run.
            del self.summed
        if self.data_weight and self.intermediate == "teacher-rollout":
            raise ValueError(
                "teacher-rollout reads no data, so it has no data term: set data_weight=0, or "
                "use intermediate='forward'"
            )
        if self.consistency and self.grid is not None and len(self.grid) == 2:
            raise ValueError(
                "consistency needs a time between s and t, and a one-step form trains t alone: "
                "set consistency=0, or use more steps"
            )
        # The given part of a sequence comes from the data.
        self.needs_data = self.intermediate != "teacher-rollout" or self.known is not None
        if self.times is not None and self.times.curriculum != "none":
            raise ValueError(
                "a curriculum bounds t − s, which joint matching sets by near; use it with "
                "student='product', or leave it out (--times)"
            )
        if self.times is not None and self.times.gap_bins > 1:
            raise ValueError(
                "joint matching sets s by near, so there are no pairs (t, s) to draw; use "
                "gap_bins=1 (--times importance)"
            )

    def settle(self, student: Denoiser, steps: int, earlier: Mapping[str, Any]) -> None:
        super().settle(student, steps, earlier)
        self.near = self._share(student)

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        if self.summed and student.process.vocab_size >= DEFER_FROM:
            raise ValueError(
                "summed writes a (batch, length, vocabulary) tensor, which training avoids from "
                f"{DEFER_FROM:,} tokens on; leave it out"
            )

    def _share(self, student: Denoiser) -> Near:
        return joint_near(student.process) if self.near is None else self.near

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        teacher = require_frozen(teacher, student)
        length = batch.shape[1]
        given = Given.draw(self.known, self.known_share, batch, student.process, generator)
        drawn = None
        if self.times is not None:
            drawn = self.times.draw(spread_uniform(batch.shape[0], generator, batch.device))
        first = None if drawn is None else drawn.first
        t, u, has_u = self._draw_times(batch.shape[0], generator, batch.device, first)
        times = candidate_times(self._share(student), t, self.min_time, generator)
        if self.consistency:
            times = torch.cat([times, u[None]])
        law, x_t, states = self._draw(student, teacher, batch, t, times, generator, given)
        own: Law | None = None
        with torch.no_grad():
            if self.consistency:
                own = given.condition(student(states[-1], u))
                states, times = states[:-1], times[:-1]
            positions = (~student.process.is_kept(x_t)).sum(-1).double()
            target = choose_target(teacher, states, times, self.tolerance * positions)
            target = target._replace(law=given.condition(target.law))
        entropy = self._cross_entropy(law, target.law, generator)
        metrics = self._metrics(entropy.detach(), target, teacher, x_t, t, given)
        total = entropy
        if own is not None:
            itself = self._cross_entropy(law, own, generator)
            share = self.consistency * has_u.to(itself.dtype)
            total = (1 - share) * entropy + share * itself
            metrics["consistency_cross_entropy"] = itself.detach().mean() / length
        if self.data_weight:
            nll = -law.log_prob(batch)
            total = total + self.data_weight * nll
            metrics["data_nll"] = nll.detach().mean() / length
        weight = time_weight(self.weighting, student.process, t)
        if drawn is not None and self.times is not None:
            weight = weight * drawn.weight
            self.times.see(drawn.bins, entropy / length)
        return (weight.to(total.dtype) * total).mean() / length, metrics

    def _draw_times(
        self,
        batch_size: int,
        generator: Generator,
        device: torch.device,
        first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """t, the student's own target time u, and whether there is one: (B,) each."""
        first = spread_uniform(batch_size, generator, device) if first is None else first
        if self.grid is None:
            t = self.min_time + (1 - self.min_time) * first
            u = t
            if self.consistency:
                share = uniform((batch_size,), generator, device)
                u = self.min_time + (t - self.min_time) * share
            return t, u, torch.ones_like(t, dtype=torch.bool)
        t, following = grid_times(first, self.grid)
        return t, following.clamp(min=self.min_time), following > self.grid[-1]

    def _draw(
        self,
        student: Denoiser,
        teacher: Denoiser,
        batch: Tensor,
        t: Tensor,
        times: Tensor,
        generator: Generator,
        given: Given,
    ) -> tuple[Law, Tensor, Tensor]:
        """The student's law at x_t with gradients, x_t (B, L), and the path at ``times``."""
        process = student.process
        if self.intermediate == "forward":
            with torch.no_grad():
                path = forward_path(process, batch, torch.cat([t[None], times]), generator)
                path = given.pin(path)
            return given.condition(student(path[0], t)), path[0], path[1:]
        with torch.no_grad():
            if self.intermediate == "student":
                x_t = given.pin(process.corrupt(batch, 0.0, t, generator))
            else:
                x_t = given.pin(process.noise_for(batch, generator))
                # In the one-step form every t is 1 and there is nothing to run.
                if bool((t < 1).any()):
                    start = torch.ones_like(t)
                    x_t = roll_down(teacher, x_t, start, t, self.teacher_steps, generator, given)
        law = given.condition(student(x_t, t))
        with torch.no_grad():
            if self.intermediate == "student":
                path = bridge_path(process, law, x_t, t, times, generator)
                return law, x_t, given.pin(path)
            each = -(-self.teacher_steps // len(times))
            return law, x_t, rollout_path(teacher, x_t, t, times, each, generator, given)

    def _cross_entropy(self, law: Law, target: Law, generator: Generator) -> Tensor:
        """Average over the draws, in nats per sequence: (B,)."""
        if law.independent:
            return law.cross_entropy(target)
        score = law.summed_cross_entropy if self.summed else law.cross_entropy
        total = score(target, generator)
        for _ in range(self.draws - 1):
            total = total + score(target, generator)
        return total / self.draws

    @torch.no_grad()
    def _metrics(
        self,
        entropy: Tensor,
        target: Target,
        teacher: Denoiser,
        x_t: Tensor,
        t: Tensor,
        given: Given,
    ) -> Metrics:
        length = x_t.shape[1]
        metrics = {
            "cross_entropy": entropy.mean() / length,
            "source_time": target.s.mean(),
            "bias_bound": target.bias_bound.mean() / length,
        }
        if target.entropy is None:
            return metrics
        metrics["teacher_entropy"] = target.entropy.mean()
        rows = torch.arange(max(1, x_t.shape[0] // 8), device=x_t.device)
        product = given.condition(teacher.rows(rows)(x_t[rows], t[rows]), rows)
        if product.independent:
            theirs = product.cross_entropy(target.law.select(rows))
            metrics["gain_over_product"] = (theirs - entropy[rows]).mean()
        return metrics
