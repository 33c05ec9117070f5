"""What a forward process is: pure mathematics, no networks.

Conventions (shared by the whole library):

* a state ``x`` is a (B, L) int64 tensor of tokens in {0..V−1}; (B,) and deeper shapes work too;
* times are floats or (B,) tensors in [0, 1]; 0 is clean data, 1 is noise; s ≤ t throughout;
* ``kernel(s, t)[a, b] = Pr(x_t = b | x_s = a)``: rows are the earlier state and sum to 1;
* a rate matrix has ``Q[a, b]`` = rate a → b, and rows that sum to 0;
* tensors over the vocabulary have it as last axis: posteriors, ratios, marginals are (B, L, V);
* ``ratios[..., y] = p_t(x with xⁱ→y) / p_t(x)``, so 1 at y = xⁱ (the *concrete score*).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewjump.process.recovery import Recovery, RecoveryMethod, recover, recovered
from fewjump.random import Generator, categorical, invert_shared_cdf, uniform
from fewjump.schedule import Schedule, Time, as_time

# Entries of the largest dense (…, V, V) tensor that is allowed: 2 GiB in float64, V = 16,384.
DENSE_LIMIT = 1 << 28


def check_dense(vocab_size: int, batch: int = 1) -> None:
    """Raise ValueError where a dense (batch, V, V) tensor would exceed :data:`DENSE_LIMIT`."""
    if batch * vocab_size**2 > DENSE_LIMIT:
        raise ValueError(
            f"a dense kernel of {batch} x {vocab_size} x {vocab_size} entries is too large "
            f"(limit {DENSE_LIMIT}); use the methods of Uniform, Absorbing, ResetToPrior or "
            "TimeVaryingPrior that never build it (corrupt, bridge, reverse_marginals, "
            "posterior_from_ratios, ...), or a smaller vocabulary or batch"
        )


def check_times(s: Time, t: Time) -> None:
    """Raise ValueError unless 0 ≤ s ≤ t ≤ 1, up to 1e-6.

    Times that live on an accelerator are not read, since that would make it wait.
    """
    if any(isinstance(v, Tensor) and v.device.type != "cpu" for v in (s, t)):
        return
    ordered = s <= t + _SLACK
    inside = (s >= -_SLACK, t <= 1 + _SLACK)
    if not all(bool(v.all()) if isinstance(v, Tensor) else v for v in (ordered, *inside)):
        raise ValueError(f"times must satisfy 0 <= s <= t <= 1, got s={s}, t={t}")


_SLACK = 1e-6


def expand_time(value: Tensor, x: Tensor) -> Tensor:
    """Reshape a () or (B,) coefficient to broadcast over a state ``x`` of shape (B, ...)."""
    value = value.to(x.device)
    return value.reshape(value.shape + (1,) * (x.dim() - value.dim())) if value.dim() else value


class Process(ABC):
    """A position-wise continuous-time Markov chain that turns data into noise.

    The methods of this class are written through the dense :meth:`kernel` and therefore cost
    O(V²) (times B for batched times); structured processes override them with O(V) forms. They
    raise ValueError where a dense kernel would exceed :data:`DENSE_LIMIT` entries, and for times
    that are not 0 ≤ s ≤ t ≤ 1. They compute in float64, and return the dtype of the posterior or
    ratios they were given.

    Attributes:
        vocab_size: number of states V, the mask included where there is one.
        schedule: the noise schedule.
        mask: a state that no clean sequence holds, or None.
        kept: tokens that noise neither takes nor makes (see :mod:`fewjump.process.kept`).
        absorbing: whether all that is not at the mask is clean for certain.
        rows_apart: whether recovering positions costs the same a few at a time as all at once.
    """

    vocab_size: int
    schedule: Schedule
    mask: int | None = None
    kept: tuple[int, ...] = ()
    absorbing: ClassVar[bool] = False
    rows_apart: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Process:
        """The process itself: nothing changes one, and sparse rates cannot be copied by torch."""
        return self

    def is_kept(self, x: Tensor) -> Tensor:
        """Where a state shows a kept token: boolean, same shape as ``x``."""
        return torch.isin(x, torch.tensor(self.kept, dtype=torch.int64, device=x.device))

    def masked(self, x: Tensor) -> Tensor | None:
        """Where a state of an absorbing process is masked: boolean, same shape as ``x``.

        None for other processes, whose tokens may all be noise.
        """
        return x == self.mask if self.absorbing else None

    # -- the forward chain ------------------------------------------------------------------

    def base_rate(self) -> Tensor:
        """The time-independent generator Q, (V, V) float64, rows summing to 0. Small V only.

        Every process has this or a :meth:`rate` of its own.

        Raises:
            ValueError: if the generator is not one matrix times σ(t).
        """
        raise ValueError(
            f"the generator of {self} is not one matrix times a rate; use rate(t), which gives it "
            "at a time"
        )

    @abstractmethod
    def kernel(self, s: Time, t: Time) -> Tensor:
        """P_{t|s}: (V, V) float64 for scalar times, (B, V, V) for batched ones."""

    @abstractmethod
    def prior(self) -> Tensor:
        """The law of a position as t → ∞: (V,) float64, summing to 1."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data from which :func:`fewjump.process.process_from_config` rebuilds this."""

    def rate(self, t: Time) -> Tensor:
        """Q_t = σ(t)·Q: (V, V), or (B, V, V) for batched times."""
        sigma = self.schedule.sigma(t).double()[..., None, None]
        check_dense(self.vocab_size, sigma.numel())
        return sigma * self.base_rate().to(sigma.device)

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        """Draw x_t ~ P_{t|s}(·|x): same shape as ``x``."""
        return categorical(self._rows(s, t, x), generator)

    def prior_sample(
        self,
        shape: Sequence[int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw states of ``shape`` from the limit law, each position independently."""
        u = uniform(shape, generator, device)
        return invert_shared_cdf(self.prior().to(u.device), u)

    def likelihood(self, x_t: Tensor, t: Time) -> Tensor:
        """P_{t|0}[a, x_t] for every clean token a: (B, L, V)."""
        return self._columns(0.0, t, x_t)

    # -- the backward chain -----------------------------------------------------------------

    def bridge_marginals(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> Tensor:
        """q(x_s | x_t, x₀) = P_{s|0}[x₀, x_s]·P_{t|s}[x_s, x_t] / P_{t|0}[x₀, x_t]: (B, L, V).

        Float64. Where x_t cannot be reached from x₀ at all the law of x_s given x₀ alone is
        returned.
        """
        forward = self._rows(0.0, s, x0)
        return _normalised(forward * self._columns(s, t, x_t), forward)

    def bridge(
        self, x_t: Tensor, x0: Tensor, s: Time, t: Time, generator: Generator = None
    ) -> Tensor:
        """Draw x_s ~ q(x_s | x_t, x₀), the time-reversed step with known clean tokens: (B, L)."""
        return categorical(self.bridge_marginals(x_t, x0, s, t), generator)

    def reverse_marginals(self, posterior: Tensor, x_t: Tensor, s: Time, t: Time) -> Tensor:
        """p(x_s | x_t) per position from p(x₀ | x_t): Σ_a posterior(a)·q(x_s | x_t, a).

        The ancestral step; equals SEDD's analytic one (arXiv 2310.16834, theorem 4.1).
        (B, L, V) → (B, L, V), rows sum to 1. Clean tokens from which x_t cannot be reached are
        ignored, whatever probability the posterior gives them.
        """
        weights = self.posterior_weights(posterior.double(), x_t, t)
        pushed = self._push(weights, 0.0, s)
        stay = torch.zeros_like(pushed).scatter(-1, x_t[..., None], 1.0)
        return _normalised(pushed * self._columns(s, t, x_t), stay).to(posterior.dtype)

    def reverse_rates(self, ratios: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """Rates of the time-reversed chain, Q_t[y, x]·r_y for y ≠ x: (B, L, V).

        The entry at y = x is minus the sum of the others, so that rows sum to 0.
        """
        return close_rates(self._rate_columns(x_t, t) * ratios.double(), x_t).to(ratios.dtype)

    # -- ratios and posteriors (paper Eq. 8) ------------------------------------------------

    def posterior_weights(self, posterior: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """w(a) = p(x₀=a|x_t) / P_{t|0}[a, x_t], and 0 where the likelihood is 0: (B, L, V)."""
        likelihood = self.likelihood(x_t, t).to(posterior.dtype)
        possible = likelihood > 0
        return torch.where(possible, posterior / torch.where(possible, likelihood, 1), 0)

    def ratios_from_posterior(self, posterior: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """Concrete scores r = P_{t|0}ᵀ w from the posterior: (B, L, V) → (B, L, V).

        At a token that some clean token cannot lead to (a visible position of an absorbing
        process) the posterior does not determine the ratios to other tokens. What is returned
        there takes the excluded clean tokens to have weight 0; the reverse rates away from such
        a token are 0 for a reset process, so that no reverse step of one uses it.
        """
        weights = self.posterior_weights(posterior.double(), x_t, t)
        return self._push(weights, 0.0, t).to(posterior.dtype)

    def weights_from_ratios(self, ratios: Tensor, t: Time) -> Tensor:
        """w = P_{t|0}⁻ᵀ r, in float64: (B, L, V).

        Raises:
            ValueError: if the kernel is singular in float64 (the noise left nothing of the data).
        """
        kernel = self.kernel(0.0, t).to(ratios.device)
        columns = ratios.double().reshape(*kernel.shape[:-2], -1, self.vocab_size).mT
        factors, pivots, _ = torch.linalg.lu_factor_ex(kernel.mT)
        diagonal = factors.diagonal(dim1=-2, dim2=-1).abs()
        if bool((diagonal.amin(-1) <= 1e-15 * diagonal.amax(-1)).any()):
            raise ValueError(
                f"the kernel at t = {t} is singular in float64, so ratios there do not determine a "
                "posterior; use a smaller t, or a denoiser that gives posteriors"
            )
        solution = torch.linalg.lu_solve(factors, pivots, columns)
        return solution.mT.reshape(ratios.shape)

    def closed_posterior(self, ratios: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """P_{t|0}[a, x_t]·w(a), the closed form of p(x₀|x_t), in float64: (B, L, V)."""
        likelihood, weights = self.likelihood(x_t, t).double(), self.weights_from_ratios(ratios, t)
        return likelihood * weights if weights.requires_grad else likelihood.mul_(weights)

    def push_weights(self, weights: Tensor, t: Time) -> Tensor:
        """P_{t|0}ᵀ w, the inverse of :meth:`weights_from_ratios`: (B, L, V)."""
        return self._push(weights, 0.0, t)

    def pull_weights(self, ratios: Tensor, t: Time) -> Tensor:
        """P_{t|0} r, the adjoint of :meth:`push_weights`: (B, L, V)."""
        return self._pull(ratios, 0.0, t)

    def recover(
        self, ratios: Tensor, x_t: Tensor, t: Time, method: RecoveryMethod = "exact"
    ) -> Recovery:
        """p(x₀|x_t) from concrete scores, with the mass that had to be clipped (paper Eq. 8)."""
        return recover(self, ratios, x_t, t, method)

    def posterior_from_ratios(
        self, ratios: Tensor, x_t: Tensor, t: Time, method: RecoveryMethod = "exact"
    ) -> Tensor:
        """p(x₀|x_t) from concrete scores: (B, L, V) → (B, L, V). See :meth:`recover`."""
        return recovered(self, ratios, x_t, t, method)[0]

    def condition_number(self, t: Time) -> Tensor:
        """2-norm condition number of P_{t|0}: by how much recovery may amplify a score error."""
        return torch.linalg.cond(self.kernel(0.0, t))

    # -- dense helpers ----------------------------------------------------------------------

    def _rows(self, s: Time, t: Time, x: Tensor) -> Tensor:
        """P_{t|s}[x, ·]: (..., V)."""
        return self._gather(self.kernel(s, t).to(x.device), x)

    def _columns(self, s: Time, t: Time, x: Tensor) -> Tensor:
        """P_{t|s}[·, x]: (..., V)."""
        return self._gather(self.kernel(s, t).to(x.device).mT, x)

    def _push(self, rows: Tensor, s: Time, t: Time) -> Tensor:
        """rows @ P_{t|s}: (..., V)."""
        return self._multiply(rows, self.kernel(s, t))

    def _pull(self, rows: Tensor, s: Time, t: Time) -> Tensor:
        """rows @ P_{t|s}ᵀ: (..., V)."""
        return self._multiply(rows, self.kernel(s, t).mT)

    def _rate_columns(self, x: Tensor, t: Time) -> Tensor:
        """Q_t[·, x]: (..., V)."""
        return self._gather(self.rate(as_time(t, x.device)).mT, x)

    @staticmethod
    def _gather(table: Tensor, x: Tensor) -> Tensor:
        if table.dim() == 2:
            return table[x]
        batch = torch.arange(x.shape[0], device=x.device)
        return table[batch.reshape(-1, *(1,) * (x.dim() - 1)), x]

    @staticmethod
    def _multiply(rows: Tensor, kernel: Tensor) -> Tensor:
        """rows @ kernel with an optional batch axis in ``kernel``."""
        kernel = kernel.to(rows.device, rows.dtype)
        if kernel.dim() == 3:
            flat = rows.reshape(rows.shape[0], -1, rows.shape[-1])
            return torch.bmm(flat, kernel).reshape(rows.shape)
        return rows @ kernel


def close_rates(rates: Tensor, x: Tensor) -> Tensor:
    """Set the entry at the current state so that each row of (B, L, V) ``rates`` sums to 0.

    In place: ``rates`` must be a tensor that nobody else reads.
    """
    index = x[..., None]
    rates = rates.scatter_(-1, index, 0.0)
    return rates.scatter_(-1, index, -rates.sum(-1, keepdim=True))


def _normalised(weights: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of ``weights`` divided by their sum; rows without mass become ``otherwise``."""
    total = weights.sum(-1, keepdim=True)
    possible = total > 0
    return torch.where(possible, weights / torch.where(possible, total, 1.0), otherwise)
