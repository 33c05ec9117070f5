"""Joint laws small enough to hold as a table: the truth with no Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.config import check_counts
from fewjump.denoiser.exact import check_vocabularies
from fewjump.inversion import invert_shared_cdf
from fewjump.law.base import check_enumerable, enumerate_states, ravel, unravel
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.posterior import outer, padded
from fewjump.problem.base import Estimate, Problem, probability_table
from fewjump.process import Process
from fewjump.random import Generator, uniform
from fewjump.schedule import Time

#: A noised table may be larger than the data's, by the mask: (V+1)^L entries.
NOISED_LIMIT = 50_000_000
_STATES_LIMIT = 4096


class EnumeratedJoint(Problem):
    """A law given by the probability of every sequence.

    Args:
        probs: L axes of size V: ``probs[x1, …, xL]``. Non-negative, sums to 1 within 1e-6
            (normalised in float64), V^L ≤ 1e6.

    Raises:
        ValueError: for unequal axes, a table that is too large, or no probabilities.
    """

    def __init__(self, probs: Tensor) -> None:
        probs = torch.as_tensor(probs)
        if probs.dim() < 1 or len(set(probs.shape)) != 1:
            raise ValueError(
                f"probs needs one axis of the same size V per position, got {tuple(probs.shape)}"
            )
        self.vocab_size, self.length = probs.shape[0], probs.dim()
        check_enumerable(self.vocab_size, self.length)
        #: L axes of size V, float64.
        self.probs = probability_table(probs.flatten(), "probs").reshape(probs.shape)

    @classmethod
    def random(
        cls,
        vocab_size: int,
        length: int,
        roughness: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> EnumeratedJoint:
        """Probabilities ∝ exp(roughness·N(0, 1)), independently for every sequence."""
        if not math.isfinite(roughness):
            raise ValueError(f"roughness must be a finite number, got {roughness}")
        check_counts(vocab_size=vocab_size, length=length)
        check_enumerable(vocab_size, length)
        normal = math.sqrt(2) * torch.erfinv(2 * uniform((vocab_size**length,), generator) - 1)
        return cls((roughness * normal).softmax(0).reshape((vocab_size,) * length))

    def __repr__(self) -> str:
        return f"EnumeratedJoint(vocab_size={self.vocab_size}, length={self.length})"

    # -- the data ---------------------------------------------------------------------------

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        index = invert_shared_cdf(self.probs.flatten(), uniform((n,), generator))
        return unravel(index, self.vocab_size, self.length)

    def log_prob(self, x: Tensor) -> Tensor:
        x = self.check_tokens(x)
        return self.probs.to(x.device).flatten()[ravel(x, self.vocab_size)].log()

    def entropy(self) -> float:
        return _entropy(self.probs)

    def posterior_law(
        self,
        factors: Tensor,
        vocab_size: int | None = None,
        fallback: Callable[[], Tensor] | None = None,
    ) -> EnumeratedLaw:
        table = self.probs.to(factors.device).reshape(1, -1)
        return EnumeratedLaw(table, factors, vocab_size, fallback=fallback)

    # -- noised -----------------------------------------------------------------------------

    def noised(self, process: Process, t: Time) -> Tensor:
        """p_t as a table of L axes of size ``process.vocab_size``, for a scalar time.

        Costs O(L·V^{L+1}): the kernel is applied along each axis.

        Raises:
            ValueError: if the vocabularies do not fit or the table would be too large.
        """
        kernel = self._kernel(process, t)
        table = self.probs
        for axis in range(self.length):
            table = _along(table, kernel, axis)
        return table

    def _kernel(self, process: Process, t: Time) -> Tensor:
        """Rows of P_{t|0} of the problem's tokens: (v, V)."""
        check_vocabularies(self, process)
        count = process.vocab_size**self.length
        if count > NOISED_LIMIT:
            raise ValueError(
                f"the noised law has {process.vocab_size}^{self.length} = {count:.3g} states "
                f"(limit {NOISED_LIMIT:.3g}); use a smaller problem"
            )
        kernel = process.kernel(0.0, t).dense()
        if kernel.dim() != 2:
            raise ValueError("one scalar time is needed here, not a batch of times")
        return kernel.cpu()[: self.vocab_size]

    def posterior(self, x_t: Tensor, t: Time, process: Process) -> EnumeratedLaw:
        """p_{0|t}(x₀|x_t) as a law; ``.enumerate()`` gives all its log-probabilities."""
        law = self.denoiser(process, joint=True)(x_t, t)
        assert isinstance(law, EnumeratedLaw)
        return law

    def reverse_conditional(
        self, x_t: Tensor, s: float, t: float, process: Process
    ) -> EnumeratedLaw:
        """p_{s|t}(x_s|x_t) ∝ p_s(x_s)·Πᵢ P_{t|s}[x_sⁱ, x_tⁱ], the joint reverse step.

        Where p_t(x_t) = 0: the product of the noised marginals at s and the kernel's column.

        Args:
            x_t: (B, L) int64.
            s, t: the earlier and the later time.
            process: the forward process.
        """
        table = self.noised(process, s)
        columns = process.kernel(s, t).columns(x_t)
        factors = torch.where(columns.amax(-1, keepdim=True) > 0, columns, 1.0)

        def independent() -> Tensor:
            marginals = process.kernel(0.0, s).push(padded(self.marginals(), process.vocab_size))
            weights = factors * marginals.to(x_t.device)
            return torch.where(weights.sum(-1, keepdim=True) > 0, weights, factors)

        flat = table.to(x_t.device).reshape(1, -1)
        return EnumeratedLaw(flat, factors, process.vocab_size, fallback=independent)

    def product_floor(
        self, process: Process, t: Time, samples: int = 0, generator: Generator = None
    ) -> Estimate:
        """E over x_t of TC(x₀|x_t) in nats, exact; ``samples`` and ``generator`` are not needed.

        Uses H(a|x_t) = H(a, x_t) − H(x_t), and that x_tⁱ depends on x₀ⁱ alone, so that the tables
        of (x₀ⁱ, x_t without position i) suffice: O(L²·V^{L+1}).
        """
        kernel = self._kernel(process, t)
        row_entropy = -torch.xlogy(kernel, kernel).sum(-1)
        marginals = self.marginals()
        position_noise = (marginals * row_entropy).sum(-1)
        noised = _entropy(self.noised(process, t))
        floor = -(self.entropy() + float(position_noise.sum()) - noised)
        for i in range(self.length):
            table = self.probs
            for axis in range(self.length):
                table = table if axis == i else _along(table, kernel, axis)
            floor += _entropy(table) + float(position_noise[i]) - noised
        return Estimate.exact(floor)


def ising(rows: int = 4, cols: int = 4, coupling: float = 0.4) -> EnumeratedJoint:
    """The Ising model on a grid with free edges: p(x) ∝ exp(coupling·Σ_{neighbours} s·s').

    Tokens 0 and 1 are the spins s = −1 and +1; positions are the grid's cells in row order.
    """
    if not math.isfinite(coupling):
        raise ValueError(f"coupling must be a finite number, got {coupling}")
    check_counts(rows=rows, cols=cols)
    spins = 2 * enumerate_states(2, rows * cols).double() - 1
    grid = spins.reshape(-1, rows, cols)
    down = (grid[:, 1:] * grid[:, :-1]).sum((1, 2))
    across = (grid[:, :, 1:] * grid[:, :, :-1]).sum((1, 2))
    return EnumeratedJoint((coupling * (down + across)).softmax(0).reshape((2,) * (rows * cols)))


def xor(length: int = 4) -> EnumeratedJoint:
    """Uniform over the bit strings of even parity: any length−1 positions are independent."""
    even = (enumerate_states(2, length).sum(-1) % 2 == 0).double()
    return EnumeratedJoint((even / even.sum()).reshape((2,) * length))


def copy(vocab_size: int = 4, length: int = 3) -> EnumeratedJoint:
    """One uniform token repeated at every position: TC = (length−1)·log V."""
    check_enumerable(vocab_size, length)
    probs = torch.zeros((vocab_size,) * length, dtype=torch.float64)
    token = torch.arange(vocab_size)
    probs[(token,) * length] = 1 / vocab_size
    return EnumeratedJoint(probs)


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


def _along(table: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Apply ``kernel`` (v, V) to one axis of a table."""
    return torch.movedim(torch.movedim(table, axis, -1) @ kernel, -1, axis)


def _entropy(probs: Tensor) -> float:
    return -float(torch.xlogy(probs, probs).sum())
