"""What a forward process is: pure mathematics, no networks.

Conventions (shared by the whole library):

* a state ``x`` is a (B, L) int64 tensor of tokens in {0..V−1}; (B,) and deeper shapes work too;
* times are floats or (B,) tensors in [0, 1]; 0 is clean data, 1 is noise; s ≤ t throughout;
* ``kernel(s, t)`` is Pr(x_t = b | x_s = a): rows are the earlier state and sum to 1;
* a rate matrix has ``Q[a, b]`` = rate a → b, and rows that sum to 0;
* tensors over the vocabulary have it as last axis: posteriors, ratios, marginals are (B, L, V);
* ``ratios[..., y] = p_t(x with xⁱ→y) / p_t(x)``, so 1 at y = xⁱ (the *concrete score*).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self, SupportsIndex

import torch
from torch import Tensor

from fewjump.inversion import invert_shared_cdf
from fewjump.process.bridge import Bridge, RatioCoefficients, ReverseCoefficients
from fewjump.process.kernel import DenseKernel, Kernel, check_dense
from fewjump.process.recovery import (
    Recovery,
    RecoveryMethod,
    invert_kernel,
    posterior_by_inversion,
)
from fewjump.random import Generator, categorical, uniform
from fewjump.registry import PROCESSES
from fewjump.schedule import Schedule, Time, as_time, schedule_from_config


class Process(ABC):
    """A position-wise continuous-time Markov chain that turns data into noise.

    A subclass gives the :meth:`kernel`, a generator (:meth:`base_rate` or :meth:`rate`), the limit
    law and its configuration. Everything else is written over the kernel: O(V) for the identity
    plus rank one, O(V²) for a dense one. The methods raise ValueError for times that are not
    0 ≤ s ≤ t ≤ 1, and where a dense kernel would exceed :data:`~fewjump.process.kernel.DENSE_LIMIT`
    entries. They compute in float64 (identity plus rank one: in the dtype given), and return the
    dtype of the posterior or ratios they were given.

    Attributes:
        vocab_size: number of states V, the mask included where there is one.
        schedule: the noise schedule.
        mask: a state that no clean sequence holds, or None.
        absorbing: whether the mask is all that noise makes, at rate σ(t), so that a visible token
            is a clean one.
        uniform: whether noise redraws a token from all that are not kept, each as likely.
        kept: tokens that noise neither takes nor makes, such as padding: their rows of the
            generator are 0, and so is their probability of being drawn. They are seen clean at
            every time, carry no loss, and are never generated where another token stands.
        rows_apart: whether recovering positions costs the same a few at a time as all at once.
        straight: whether noise draws the token that a position ends with once, from a law that
            stands still: x_t is then x₀ with probability α(t) and x₁ otherwise, x₁ from the prior.
    """

    vocab_size: int
    schedule: Schedule
    mask: int | None = None
    absorbing: bool = False
    uniform: bool = False
    kept: tuple[int, ...] = ()
    rows_apart: bool = False
    straight: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Process:
        """The process itself: nothing changes one, and sparse rates cannot be copied by torch."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, schedule={self.schedule})"

    def is_kept(self, x: Tensor) -> Tensor:
        """Where a state shows a kept token: boolean, same shape as ``x``."""
        return torch.isin(x, torch.tensor(self.kept, dtype=torch.int64, device=x.device))

    def noise_for(self, x0: Tensor, generator: Generator = None) -> Tensor:
        """Pure noise in place of clean tokens (B, L), which shows those of them that are kept."""
        noise = self.prior_sample(x0.shape, generator, x0.device)
        return torch.where(self.is_kept(x0), x0, noise) if self.kept else noise

    def masked(self, x: Tensor) -> Tensor | None:
        """Where a state of an absorbing process is masked: boolean, same shape as ``x``.

        None for other processes, whose tokens may all be noise.
        """
        return x == self.mask if self.absorbing else None

    def hidden(self, x: Tensor) -> Tensor:
        """Where a state does not say what is clean: masked positions, or all but kept tokens."""
        masked = self.masked(x)
        return ~self.is_kept(x) if masked is None else masked

    # -- what a subclass gives --------------------------------------------------------------

    @abstractmethod
    def kernel(self, s: Time, t: Time) -> Kernel:
        """P_{t|s}: one matrix for scalar times, one for each element for batched ones."""

    @abstractmethod
    def prior(self) -> Tensor:
        """The law of a position as t → ∞: (V,) float64, summing to 1."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data from which :func:`process_from_config` rebuilds this."""

    def _described(self, **options: Any) -> dict[str, Any]:
        """A configuration: the class's name, its options, the schedule."""
        return {"name": type(self).__name__, **options, "schedule": self.schedule.config()}

    @classmethod
    def from_config(cls, options: dict[str, Any]) -> Self:
        """The process of :meth:`config`, without its name and with the schedule made."""
        return cls(**options)

    @classmethod
    def example(cls, schedule: Schedule) -> Self:
        """A small one of 4 states, on which the library's tests check what every process obeys."""
        raise NotImplementedError(f"{cls.__name__} gives no example to be tested on")

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

    def rate(self, t: Time) -> Tensor:
        """Q_t = σ(t)·Q: (V, V), or (B, V, V) for batched times."""
        sigma = self.schedule.sigma(t).double()[..., None, None]
        check_dense(self.vocab_size, sigma.numel())
        return sigma * self.base_rate().to(sigma.device)

    def rate_columns(self, x: Tensor, t: Time) -> Tensor:
        """Q_t[·, x] off the diagonal, what stands at x itself being anything: (..., V) float64.

        (..., 1) where all those entries are alike.
        """
        return DenseKernel(self.rate(as_time(t, x.device))).columns(x)

    # -- the forward chain ------------------------------------------------------------------

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        """Draw x_t ~ P_{t|s}(·|x): same shape as ``x``.

        Raises:
            ValueError: on the CPU, for numbers that are no states of the process.
        """
        # Numbers on an accelerator are not read, since that would make it wait.
        if x.device.type == "cpu" and x.numel():
            low, high = (int(end) for end in x.aminmax())
            if low < 0 or high >= self.vocab_size:
                raise ValueError(
                    f"states must lie in 0..{self.vocab_size - 1}, got {low} to {high}; give the "
                    "process as many states as the data have tokens, and its mask one of its own"
                )
        return self.kernel(s, t).sample(x, generator)

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
        return self.kernel(0.0, t).columns(x_t)

    # -- the backward chain -----------------------------------------------------------------

    def bridge_to(self, x_t: Tensor, s: Time, t: Time) -> Bridge:
        """The bridge to ``x_t`` at s: its marginals, its draws, and their mixtures."""
        return self.kernel(s, t).bridge(self.kernel(0.0, s), self.kernel(0.0, t), x_t)

    def bridge_marginals(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> Tensor:
        """q(x_s | x_t, x₀) = P_{s|0}[x₀, x_s]·P_{t|s}[x_s, x_t] / P_{t|0}[x₀, x_t]: (B, L, V).

        Float64. Where x_t cannot be reached from x₀ at all it is a law, but none in particular.
        """
        return self.bridge_to(x_t, s, t).marginals(x0)

    def bridge(
        self, x_t: Tensor, x0: Tensor, s: Time, t: Time, generator: Generator = None
    ) -> Tensor:
        """Draw x_s ~ q(x_s | x_t, x₀), the time-reversed step with known clean tokens: (B, L)."""
        return self.bridge_to(x_t, s, t).sample(x0, generator)

    def flow_marginals(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> Tensor:
        """The law of x_s given x_t and x₀ that moves as little as q(x_s | x₀) allows: (B, L, V).

        A token stays with probability min(1, q_s/q_t), both at x_t and given x₀; what leaves goes
        to tokens in proportion to (q_s − q_t)₊. Averaged over x_t ~ q(x_t | x₀) this is
        q(x_s | x₀), as for the bridge, but nothing is noised again on the way. As s → t its rates
        are those of Campbell et al. 2024 (arXiv 2402.04997, R*), which jump least often. Float64;
        where x₀ cannot lead to x_t the token stays.
        """
        index = x_t[..., None]
        before, after = self.kernel(0.0, t).rows(x0), self.kernel(0.0, s).rows(x0)
        here, later = before.gather(-1, index), after.gather(-1, index)
        possible = here > 0
        stay = torch.where(possible, later / torch.where(possible, here, 1.0), 1.0).clamp(max=1.0)
        gained = (after - before).clamp(min=0)
        total = gained.sum(-1, keepdim=True)
        moved = gained * ((1 - stay) / torch.where(total > 0, total, 1.0))
        return moved.scatter_add(-1, index, torch.where(total > 0, stay, 1.0))

    def flow_step(
        self, x_t: Tensor, x0: Tensor, s: Time, t: Time, generator: Generator = None
    ) -> Tensor:
        """Draw x_s of :meth:`flow_marginals`: (B, L)."""
        return categorical(self.flow_marginals(x_t, x0, s, t), generator)

    def reverse_marginals(self, posterior: Tensor, x_t: Tensor, s: Time, t: Time) -> Tensor:
        """p(x_s | x_t) per position from p(x₀ | x_t): Σ_a posterior(a)·q(x_s | x_t, a).

        The ancestral step; SEDD's analytic step (arXiv 2310.16834, theorem 4.1).
        (B, L, V) → (B, L, V), rows sum to 1. Clean tokens from which x_t cannot be reached are
        ignored, whatever probability the posterior gives them.
        """
        return self.bridge_to(x_t, s, t).reverse_marginals(posterior)

    def reverse_rates(self, ratios: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """Rates of the time-reversed chain, Q_t[y, x]·r_y for y ≠ x: (B, L, V).

        The entry at y = x is minus the sum of the others, so that rows sum to 0.
        """
        columns = self.rate_columns(x_t, t)
        if columns.shape[-1] == 1:
            # One number a position: no wider copy of the table is made for it.
            columns = columns.to(ratios.dtype)
        rates = ratios * columns
        if self.kept:
            rates.index_fill_(-1, torch.tensor(self.kept, device=rates.device), 0.0)
        index = x_t[..., None]
        rates = rates.scatter_(-1, index, 0.0)
        return rates.scatter_(-1, index, -rates.sum(-1, keepdim=True)).to(ratios.dtype)

    def rate_coefficients(self, x_t: Tensor, t: Time) -> ReverseCoefficients | None:
        """The rates of the reverse chain as numbers for each position, like
        :attr:`Bridge.coefficients`; None where the generator is not of that form."""
        return None

    def rates_by_ratios(self, x_t: Tensor, t: Time) -> RatioCoefficients | None:
        """The same from ratios, like :attr:`Bridge.by_ratios`."""
        return None

    # -- ratios and posteriors (paper Eq. 8) ------------------------------------------------

    def posterior_weights(self, posterior: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """w(a) = p(x₀=a|x_t) / P_{t|0}[a, x_t], and 0 where the likelihood is 0: (B, L, V)."""
        return self.kernel(0.0, t).divide_columns(posterior, x_t)

    def ratios_from_posterior(self, posterior: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """Concrete scores r = P_{t|0}ᵀ w from the posterior: (B, L, V) → (B, L, V).

        At a token that some clean token cannot lead to (a visible position of an absorbing process)
        the posterior does not determine the ratios to other tokens. There the excluded clean tokens
        are taken to have weight 0; no reverse step of a reset process uses these ratios.
        """
        kernel = self.kernel(0.0, t)
        wide = posterior.to(torch.promote_types(posterior.dtype, kernel.least_dtype))
        return kernel.push(kernel.divide_columns(wide, x_t)).to(posterior.dtype)

    def weights_from_ratios(self, ratios: Tensor, t: Time) -> Tensor:
        """w = P_{t|0}⁻ᵀ r, in float64: (B, L, V).

        Raises:
            ValueError: if the kernel is singular in float64 (the noise left nothing of the data).
        """
        return invert_kernel(self.kernel(0.0, t), ratios, t)

    def recover(
        self, ratios: Tensor, x_t: Tensor, t: Time, method: RecoveryMethod = "exact"
    ) -> Recovery:
        """p(x₀|x_t) from concrete scores, with the mass that had to be clipped (paper Eq. 8)."""
        posterior, clipped = posterior_by_inversion(self, ratios, x_t, t, method)
        return Recovery(posterior, clipped, self.condition_number(t))

    def posterior_from_ratios(
        self, ratios: Tensor, x_t: Tensor, t: Time, method: RecoveryMethod = "exact"
    ) -> Tensor:
        """p(x₀|x_t) from concrete scores: (B, L, V) → (B, L, V). See :meth:`recover`."""
        return posterior_by_inversion(self, ratios, x_t, t, method)[0]

    def condition_number(self, t: Time) -> Tensor:
        """2-norm condition number of P_{t|0}: by how much recovery may amplify a score error."""
        return self.kernel(0.0, t).condition_number()


def process_from_config(config: dict[str, Any]) -> Process:
    """Rebuild a process from :meth:`Process.config`; the result gives the same config again.

    Raises:
        ValueError: for an unknown process or schedule, and for options that do not fit.
    """
    options = dict(config)
    name = options.pop("name", None)
    process = PROCESSES.named(name)
    if "schedule" not in options:
        raise ValueError(f"the configuration of process {name} lacks its 'schedule'")
    options["schedule"] = schedule_from_config(options["schedule"])
    try:
        return process.from_config(options)
    except TypeError as error:
        raise ValueError(f"the configuration does not fit process {name}: {error}") from error


# -- options that processes share ---------------------------------------------------------------


def check_mask(mask: int | None, vocab_size: int) -> int | None:
    """The mask; ValueError for one that is no state."""
    if mask is not None and (isinstance(mask, bool) or not isinstance(mask, SupportsIndex)):
        raise ValueError(f"mask must be the number of a state, got {mask!r}")
    if mask is not None and not 0 <= int(mask) < vocab_size:
        raise ValueError(f"mask must lie in [0, {vocab_size}), got {mask}")
    return mask


def mask_or_last(mask: int | None, vocab_size: int) -> int:
    """The mask, the last state by default; ValueError as :func:`check_mask`."""
    check_mask(mask, vocab_size)
    return vocab_size - 1 if mask is None else mask


def kept_in_range(kept: Iterable[int], vocab_size: int) -> tuple[int, ...]:
    """The tokens in order, each once; ValueError for one that does not exist."""
    if not isinstance(kept, Iterable):
        raise ValueError(f"kept lists tokens, such as kept=[{kept}]; got {kept!r}")
    tokens = sorted({int(token) for token in kept})
    if tokens and not 0 <= tokens[0] <= tokens[-1] < vocab_size:
        raise ValueError(f"kept tokens must lie in [0, {vocab_size}), got {tokens}")
    return tuple(tokens)


def check_laws(laws: Any, name: str, least: int = 2) -> Tensor:
    """Rows (K, V) as probability vectors in float64 on the CPU, kept to the last bit if they are.

    Raises:
        ValueError: if they are not, within 1e-6, or are of fewer than ``least`` entries.
    """
    laws = torch.as_tensor(laws, dtype=torch.float64).detach().cpu()
    if laws.dim() != 2 or laws.shape[1] < least:
        raise ValueError(
            f"{name} must be laws in rows of at least {least} entries, got {tuple(laws.shape)}"
        )
    total = laws.sum(-1, keepdim=True)
    wrong = ((laws < 0).any(-1) | ~((total[:, 0] - 1).abs() < 1e-6)).nonzero()[:, 0]
    if wrong.numel():
        row = int(wrong[0])
        raise ValueError(
            f"{name} must be non-negative and sum to 1; row {row} sums to "
            f"{float(total[row, 0]):.6g} with smallest entry {float(laws[row].min()):.3g}"
        )
    return torch.where((total - 1).abs() < 1e-12, laws, laws / total)
