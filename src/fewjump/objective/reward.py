"""Refinement by a reward: a few-step student on its own samples, held to where it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from fewjump.config import require
from fewjump.denoiser.base import Denoiser
from fewjump.objective.base import Given, Metrics, require_frozen, require_likelihood
from fewjump.objective.own_samples import OwnSamples
from fewjump.objective.score_function import leave_one_out, score_surrogate
from fewjump.options.matching import KnownOptions
from fewjump.options.sampled import RewardOptions
from fewjump.random import Generator, integers
from fewjump.textfile import function_at


@dataclass(eq=False)
class RewardRefinement(OwnSamples, RewardOptions, KnownOptions):
    """The expected reward of a student's samples, less their divergence from its start.

    **What is maximised.** At each step of the grid the student draws whole sequences
    x₀ ~ p^φ(·|x_t). With the law at the start, p⁰, and a reward r(x₀) of any kind,

      J(φ) = E_k E_{x_t} [ E_{x₀~p^φ(·|x_t)} r(x₀) − β·KL(p^φ(·|x_t) ‖ p⁰(·|x_t)) ].

    For each x_t the maximum over all laws is p⁰(x₀|x_t)·exp(r(x₀)/β)/Z (for language models arXiv
    1909.08593, 2205.11275). β is what holds variety: with β = 0 one sequence that keeps a rule is
    as good as all.

    **Its gradient** is E[∇log p^φ(x₀|x_t)·A] with A = r − β·log(p^φ/p⁰), estimated with the mean of
    the other ``draws`` of x₀ at one x_t as each draw's baseline, which is free of bias (arXiv
    1402.0030). It needs the student's likelihood. Under a product law single tokens are praised for
    what others did.

    The states x_t are held fixed, as in :class:`~fewjump.objective.OnPolicyRefinement`.

    With ``known`` a part of each sequence of the data is shown, and the rest drawn. The reward is
    of the whole sequence.

    The teacher is the student as it was at the start, frozen.

    Options by keyword: those of :class:`~fewjump.options.sampled.RewardOptions`,
    :class:`~fewjump.options.sampled.OwnSamplesOptions` and
    :class:`~fewjump.options.matching.KnownOptions`.

    Metrics: ``reward`` (mean), ``kl_to_start`` and ``joint_entropy`` in nats per position, with
    data ``data_nll``.

    Raises:
        ValueError: for options outside their range, a reward that is no function, or one that
            returns anything but a finite number for each sample; at check, for students that only
            bound a sample's likelihood.
        FileNotFoundError: if the reward's file does not exist.
    """

    matches_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reward is not None, "refinement by a reward needs one: give reward=")
        self.needs_data = self.needs_data or self.known is not None
        named = self.reward
        if not callable(named):
            form = "a reward is FILE.py:NAME, a function in a Python file"
            named, self.reward = function_at(str(named), form)
        self._function = cast(Callable[[Tensor], Tensor], named)

    def check(self, student: Denoiser, teacher: Denoiser | None) -> None:
        super().check(student, teacher)
        require_likelihood(student, "refinement by a reward")

    def __call__(
        self, student: Denoiser, teacher: Denoiser | None, batch: Tensor, generator: Generator
    ) -> tuple[Tensor, Metrics]:
        start, process = require_frozen(teacher, student), student.process
        grid, (rows, length) = self.few_step_times(), batch.shape
        k = integers(len(grid) - 1, (rows,), generator, batch.device)
        t = torch.tensor(grid, dtype=torch.float64, device=batch.device)[k]
        given = Given.draw(self.known, self.known_share, batch, process, generator)
        with torch.no_grad():
            x_t = self._states(student, batch, k, t, generator, given)
            before = given.condition(start(x_t, t))
        law = given.condition(student(x_t, t))
        drawn = torch.stack([law.sample(generator) for _ in range(self.draws)])
        log_probs = torch.stack([law.log_prob(x0) for x0 in drawn])
        with torch.no_grad():
            reward = self._worth(drawn.flatten(0, 1)).reshape(self.draws, rows)
            away = log_probs.double() - torch.stack([before.log_prob(x0) for x0 in drawn]).double()
            worth = reward - self.anchor * away
        surrogate = score_surrogate(log_probs, leave_one_out(worth)).mean() / length
        # The value of a surrogate means nothing: what is reported is −J.
        loss = surrogate.detach() - surrogate - worth.mean() / length
        metrics = {
            "reward": reward.mean(),
            "kl_to_start": away.mean() / length,
            "joint_entropy": -log_probs.detach().mean() / length,
        }
        if self.data_weight:
            nll = -law.log_prob(batch).mean() / length
            loss = loss + self.data_weight * nll
            metrics["data_nll"] = nll.detach()
        return loss, metrics

    def rehearse(self, few: Callable[[], Tensor]) -> None:
        self._worth(few())

    def _worth(self, x0: Tensor) -> Tensor:
        """r of samples (N, L): (N,) float64."""
        try:
            found = torch.as_tensor(self._function(x0.clone()), device=x0.device).double()
        except Exception as error:
            raise ValueError(
                f"the reward takes samples, an integer tensor (N, L), and returns N numbers; of "
                f"{tuple(x0.shape)} samples it fails with {type(error).__name__}: {error}"
            ) from error
        if found.shape != x0.shape[:1]:
            raise ValueError(
                f"the reward of {tuple(x0.shape)} samples must have shape ({len(x0)},), one number "
                f"for each; it has {tuple(found.shape)}"
            )
        if not bool(found.isfinite().all()):
            raise ValueError("the reward must be finite; it returned NaN or infinity")
        return found
