"""How close to the data the teacher is asked: the choice of s, and what it costs in bias.

Joint conditional matching learns the mixture of Πᵢ p(x₀ⁱ|x_s) over x_s. It differs from the joint
p(x₀|x_t) by at most E[TC(x₀|x_s)] in KL, since KL is convex; TC falls to 0 as s does. A larger s
asks more of the teacher and less of the single draw x_s: softer targets, less variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.base import Denoiser
from fewjump.law.base import Law
from fewjump.law.product import as_product
from fewjump.options.matching import Near
from fewjump.process import Process
from fewjump.random import Generator, uniform

#: Shares s/t that ``adaptive`` tries, the largest first; the last resort is min_time.
ADAPTIVE_SHARES = (0.5, 0.25, 0.12, 0.06)


def joint_near(process: Process) -> float:
    """s/t where nothing else is asked for: 0.1 under a mask, 0.02 otherwise.

    At equal s a visible token says more than one that may be noise. At these two shares
    ``fewjump.problem.mixture_bias`` is about the same on a Markov chain of four tokens.
    """
    return 0.1 if process.absorbing else 0.02


def candidate_times(near: Near, t: Tensor, min_time: float, generator: Generator) -> Tensor:
    """The times s that are looked at, (K, B), later ones first; all lie in [min_time, t].

    One row for every rule but ``adaptive``, whose last row is ``min_time``.
    """
    lowest = torch.full_like(t, min_time)
    if near == "zero":
        return lowest[None]
    if near == "uniform":
        share = uniform(t.shape, generator, t.device)
        return (lowest + (t - lowest) * share)[None]
    shares = ADAPTIVE_SHARES if isinstance(near, str) else (near,)
    rows = [torch.minimum(torch.maximum(share * t, lowest), t) for share in shares]
    return torch.stack([*rows, lowest] if isinstance(near, str) else rows)


class Target(NamedTuple):
    """The teacher's law for each row.

    Attributes:
        law: p^θ(x₀|x_s), B rows.
        s: (B,) the times it was taken at.
        entropy: (B, L) of its positions in nats; None for a joint law.
        bias_bound: (B,) nats, an upper bound of TC(x₀|x_s) for this teacher; 0 for a joint law.
    """

    law: Law
    s: Tensor
    entropy: Tensor | None
    bias_bound: Tensor


def choose_target(
    teacher: Denoiser, states: Tensor, times: Tensor, tolerance: float | Tensor
) -> Target:
    """The teacher's law at the latest time whose bias bound is within ``tolerance``.

    The bound is Σᵢ H(x₀ⁱ|x_s) − maxᵢ H(x₀ⁱ|x_s) ≥ TC(x₀|x_s). The choice for a row depends on the
    states at s and later, never on earlier ones: a stopping time of the reverse chain, for which
    E p(x₀|x_s) = p(x₀|x_t) holds as it does for a fixed s. The last time is taken where no bound is
    within the tolerance.

    Args:
        teacher: asked at each time for the rows that are left.
        states: (K, B, L) a path, later times first.
        times: (K, B).
        tolerance: largest bound, in nats per sequence: one, or (B,).
    """
    first = _judge(teacher, states[0], times[0])
    if len(states) == 1 or first.entropy is None:
        return first
    law, entropy = as_product(first.law), first.entropy.clone()
    s, bound = times[0].clone(), first.bias_bound.clone()
    for state, time in zip(states[1:], times[1:]):
        left = (bound > tolerance).nonzero()[:, 0]
        if not left.numel():
            break
        nearer = _judge(teacher.rows(left), state[left], time[left])
        assert nearer.entropy is not None
        law, entropy[left] = law.replaced(left, as_product(nearer.law)), nearer.entropy
        s[left], bound[left] = nearer.s, nearer.bias_bound
    return Target(law, s, entropy, bound)


def _judge(teacher: Callable[[Tensor, Tensor], Law], x_s: Tensor, s: Tensor) -> Target:
    law = teacher(x_s, s)
    if not law.independent:
        return Target(law, s, None, torch.zeros_like(s))
    entropy = as_product(law).entropy()
    return Target(law, s, entropy, (entropy.sum(-1) - entropy.amax(-1)).double())
