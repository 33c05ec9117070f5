"""A problem small enough to enumerate, a teacher with a known error, and a student without one.

The teacher is the exact posterior with an error of its logits that grows with t: right near the
data, wrong near the noise, as trained networks are. The student is a free table over states and
times, so that what it ends up with is the objective's doing and no network's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.exact import data_law, kl
from fewjump.law.base import enumerate_states, ravel
from fewjump.law.product import ProductLaw
from fewjump.objective import freeze
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import fold_seed, generator_for
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import LogLinear
from fewjump.verify.enumeration import random_joint
from fewjump.verify.subjects import Subject

VOCAB, LENGTH = 4, 3
KNOTS = 17
JUDGED = tuple(0.1 * k for k in range(1, 11))
_LOWEST = -30.0


class World(NamedTuple):
    """The problem, the process, the exact denoiser and the imperfect teacher."""

    problem: EnumeratedJoint
    process: Process
    exact: Denoiser
    teacher: Denoiser

    def subject(self, seed: int) -> Subject:
        """The teacher, to be distilled into tables that are judged by :func:`posterior_kl`."""
        return Subject(
            self.teacher,
            lambda: TableStudent(self.process, self.teacher),
            lambda: TableStudent(self.process),
            self.problem.sample(16_384, generator_for(seed, 12)),
            lambda denoiser, _: posterior_kl(self, denoiser),
            "KL of the posterior, nats per position",
            lr=0.05,
            batch_size=128,
        )


def make_world(family: str, error: float, seed: int) -> World:
    """A random joint of 4³ states under ``uniform`` or ``absorbing`` noise.

    Args:
        family: the process.
        error: standard deviation of the teacher's logits at t = 1; it grows linearly with t.
        seed: of the joint and of the teacher's errors.
    """
    problem = EnumeratedJoint(random_joint(VOCAB, LENGTH, fold_seed(seed, 1) % 1000))
    process: Process = (
        Absorbing(VOCAB + 1, LogLinear()) if family == "absorbing" else Uniform(VOCAB, LogLinear())
    )
    exact = problem.denoiser(process)
    return World(problem, process, exact, freeze(WrongTeacher(exact, error, seed)))


class WrongTeacher(Denoiser):
    """log p(x₀ⁱ|x_t) + error·t·z, with z standard normal and fixed for each (state, i, token)."""

    def __init__(self, exact: Denoiser, error: float, seed: int) -> None:
        super().__init__(exact.process, exact.length)
        self.exact, self.error = exact, error
        states, vocab = exact.process.vocab_size**LENGTH, exact.process.vocab_size
        source = generator_for(seed, 4)
        self.noise = torch.randn(states, LENGTH, vocab, generator=source, dtype=torch.float64)

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        law = self.exact.law(x_t, t)
        assert isinstance(law, ProductLaw)
        size = (self.error * t)[:, None, None]
        return ProductLaw(law.log_probs() + size * self.noise[ravel(x_t, self.process.vocab_size)])


class TableStudent(Denoiser):
    """A free logit for every (knot in time, x_t, position, token), linear between knots.

    Args:
        process: the forward process.
        start: the denoiser whose log-probabilities it starts with; None for zeros, that is the
            uniform law over clean tokens.
    """

    def __init__(self, process: Process, start: Denoiser | None = None) -> None:
        super().__init__(process, LENGTH)
        states = enumerate_states(process.vocab_size, LENGTH)
        times = torch.linspace(0, 1, KNOTS, dtype=torch.float64).clamp(min=1e-3)
        table = torch.zeros(KNOTS, len(states), LENGTH, process.vocab_size, dtype=torch.float64)
        if start is not None:
            for knot, time in enumerate(times.tolist()):
                law = start.law(states, torch.full((len(states),), time, dtype=torch.float64))
                assert isinstance(law, ProductLaw)
                table[knot] = law.log_probs().clamp(min=_LOWEST)
        if process.absorbing:
            table[..., process.mask] = _LOWEST
        self.table = nn.Parameter(table)

    def law(self, x_t: Tensor, t: Tensor) -> ProductLaw:
        place = t.clamp(0, 1) * (KNOTS - 1)
        left = place.long().clamp(max=KNOTS - 2)
        share = (place - left)[:, None, None]
        state = ravel(x_t, self.process.vocab_size)
        logits = (1 - share) * self.table[left, state] + share * self.table[left + 1, state]
        return ProductLaw(logits)


@torch.no_grad()
def posterior_kl(world: World, denoiser: Denoiser) -> float:
    """E_t E_{x_t} KL(p(x₀ⁱ|x_t) ‖ denoiser's), nats per position; exact, t over ten times.

    Under absorbing noise a visible position counts as known.
    """
    problem, process = world.problem, world.process
    states = enumerate_states(process.vocab_size, LENGTH)
    total = 0.0
    for t in JUDGED:
        weight = problem.noised(process, t).reshape(-1)
        known = weight > 0
        x_t = states[known]
        truth, guess = _log_probs(world.exact, x_t, t), _log_probs(denoiser, x_t, t)
        terms = truth.exp() * (truth.clamp(min=_LOWEST) - guess.clamp(min=_LOWEST))
        divergence = terms.sum(-1)
        if process.absorbing:
            divergence = divergence * (x_t == process.mask)
        total += float((weight[known][:, None] * divergence).sum()) / LENGTH
    return total / len(JUDGED)


def _log_probs(denoiser: Denoiser, x_t: Tensor, t: float) -> Tensor:
    law = denoiser(x_t, t)
    assert isinstance(law, ProductLaw)
    return law.log_probs()


def output_kl(world: World, denoiser: Denoiser, steps: int) -> float:
    """KL(data ‖ output law) in nats, ancestral sampler of ``steps`` steps; no Monte Carlo."""
    return kl(data_law(world.problem), exact_output_law(denoiser, steps))
