"""What joint conditional matching cannot see: the bias of a per-position teacher, enumerated."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.law.base import enumerate_states
from fewjump.law.posterior import outer
from fewjump.problem.enumerable import EnumeratedJoint
from fewjump.process import Process

_STATES_LIMIT = 4096


def joint_target(problem: EnumeratedJoint, process: Process, s: float, t: float) -> Tensor:
    """E_{x_s|x_t} Πᵢ p_{0|s}(x₀ⁱ|x_s) for every x_t and x₀: (N, N) float64, rows sum to 1.

    What joint conditional matching teaches when an exact per-position teacher is asked at s:
    the optimum of the student at t. States are those of the process, the last position fastest.

    Raises:
        ValueError: unless 0 ≤ s ≤ t ≤ 1, and for more than 4096 states.
    """
    if not 0 <= s <= t <= 1:
        raise ValueError(f"times must satisfy 0 <= s <= t <= 1, got s={s}, t={t}")
    states = _states(problem, process)
    product = problem.denoiser(process)(states, s).marginals()
    reverse = problem.reverse_conditional(states, s, t, process).enumerate().exp()
    return reverse @ outer(product.double())


def mixture_bias(problem: EnumeratedJoint, process: Process, s: float, t: float) -> float:
    """E_{x_t} KL(p_{0|t} ‖ E_{x_s|x_t} Πᵢ p_{0|s}(·ⁱ|x_s)) in nats, with no Monte Carlo.

    How far the best student of joint conditional matching at t is from the joint posterior, if the
    exact per-position teacher is asked at s. At most E[TC(x₀|x_s)], the ``product_floor`` at s
    (KL is convex); equal to it at s = t, where matching is per position; 0 at s = 0.

    Raises:
        ValueError: as :func:`joint_target`.
    """
    target = joint_target(problem, process, s, t)
    states = _states(problem, process)
    posterior = problem.posterior(states, t, process).enumerate().exp()
    weight = problem.noised(process, t).reshape(-1)
    used = weight > 0
    posterior, target, weight = posterior[used], target[used], weight[used]
    # Terms p·log(p/m) − p + m are ≥ 0 and sum to the same: near-equal laws do not cancel to noise.
    ratio = torch.xlogy(posterior, posterior / torch.where(target > 0, target, 1.0))
    terms = torch.where((target <= 0) & (posterior > 0), torch.inf, ratio - posterior + target)
    return float(weight @ terms.sum(-1))


def _states(problem: EnumeratedJoint, process: Process) -> Tensor:
    count = process.vocab_size**problem.length
    if count > _STATES_LIMIT:
        raise ValueError(
            f"{process.vocab_size}^{problem.length} = {count} states need tables of {count}² "
            f"entries (limit {_STATES_LIMIT} states); use a smaller problem"
        )
    return enumerate_states(process.vocab_size, problem.length)
