"""What a problem is: a law of the data whose truth is known, for any position-wise noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.denoiser.exact import ExactDenoiser, KnownLaw
from fewjump.law.base import ENUMERATION_LIMIT, enumerate_states, whole_numbers
from fewjump.law.posterior import PosteriorLaw, padded, position_entropy
from fewjump.process import Process
from fewjump.random import Generator, uniform
from fewjump.schedule import Time, as_time


class Estimate(NamedTuple):
    """A number in nats with its 95% confidence interval; all three agree if it is exact."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Estimate:
        return cls(value, value, value)

    @classmethod
    def from_draws(cls, draws: Tensor) -> Estimate:
        """Mean of independent draws (N,), N ≥ 2, with its normal interval."""
        if draws.numel() < 2:
            raise ValueError(f"a confidence interval needs at least 2 draws, got {draws.numel()}")
        mean = float(draws.mean())
        error = 1.96 * float(draws.std()) / draws.numel() ** 0.5
        return cls(mean, mean - error, mean + error)


class Problem(KnownLaw):
    """A law over sequences of ``length`` tokens in {0..vocab_size−1}, known exactly.

    Subclasses give the law and its conditionals; the posteriors and scores of every process
    follow, because noise acts on each position alone: p(x₀|x_t) ∝ p(x₀)·Πᵢ P_{t|0}[x₀ⁱ, x_tⁱ].
    All numbers are float64 and all entropies are in nats.
    """

    @abstractmethod
    def sample(self, n: int, generator: Generator = None) -> Tensor:
        """``n`` exact draws: (n, L) int64."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of sequences (n, L): (n,) float64.

        Raises:
            ValueError: for a wrong length, or tokens outside the vocabulary.
        """

    @abstractmethod
    def entropy(self) -> float:
        """Entropy of a whole sequence in nats."""

    def listed(self) -> tuple[Tensor, Tensor] | None:
        """Sequences (N, L), all that can occur among them, and their probabilities (N,) float64.

        None where V^L exceeds 1e6, unless the law is a list itself.
        """
        if self.vocab_size**self.length > ENUMERATION_LIMIT:
            return None
        states = enumerate_states(self.vocab_size, self.length)
        return states, self.log_prob(states).exp()

    def all_possible(self) -> bool:
        """Whether every sequence has a positive probability; False where that is not known."""
        found = self.listed()
        count = self.vocab_size**self.length
        return found is not None and len(found[1]) == count and bool((found[1] > 0).all())

    def ngram_law(self, n: int) -> Tensor:
        """Law of n neighbouring tokens, averaged over the positions: (V^n,), the last one fastest.

        Raises:
            ValueError: unless 1 ≤ n ≤ L, for more than 1e6 cells, and for a law that is neither
                a list nor a chain.
        """
        self.check_ngram(n)
        found = self.listed()
        if found is None:
            raise ValueError(f"{self!r} has too many sequences to list")
        sequences, probs = found
        powers = self.vocab_size ** torch.arange(n - 1, -1, -1)
        cells = (sequences.unfold(1, n, 1) * powers).sum(-1)
        weights = (probs / cells.shape[1])[:, None].expand_as(cells)
        size = self.vocab_size**n
        return torch.bincount(cells.flatten(), weights.flatten(), minlength=size)

    def marginals(self) -> Tensor:
        """Law of each position: (L, V)."""
        ones = torch.ones(1, self.length, self.vocab_size, dtype=torch.float64)
        return self.posterior_law(ones).marginals()[0]

    def one_step_floor(self) -> float:
        """Total correlation of the data, Σᵢ H(xⁱ) − H(x), in nats.

        The smallest KL from the data that a product of marginals reaches in one step from pure
        noise (METHOD section 3).
        """
        return float(position_entropy(self.marginals()[None])) - self.entropy()

    def denoiser(self, process: Process, joint: bool = False) -> ExactDenoiser:
        """The perfect network: a product of the exact posterior marginals, or the joint law.

        Args:
            process: over the same tokens; an :class:`~fewjump.process.Absorbing` one may have a
                mask as one extra, last state.
            joint: whether to return the exact joint posterior instead of its marginals.

        Raises:
            ValueError: if the vocabularies do not fit.
        """
        return ExactDenoiser(self, process, joint)

    def ratios(self, x_t: Tensor, t: Time, process: Process) -> Tensor:
        """Exact concrete scores p_t(x with xⁱ→y)/p_t(x): (B, L, V of the process) float64.

        Where p_t(x_t) = 0 they are undefined; those of the denoiser's fallback law are returned
        (independent positions), or 0 and a 1 at the current token if that fails too.

        Args:
            x_t: (B, L) int64.
            t: float or (B,).
            process: see :meth:`denoiser`.
        """
        denoiser = ExactDenoiser(self, process, joint=True)
        time = as_time(t, x_t.device).double().expand(x_t.shape[0])
        law = denoiser.posterior(process.likelihood(x_t, time), x_t)
        weights = padded(law.cavity(), process.vocab_size)
        impossible = law.log_evidence == -torch.inf
        if bool(impossible.any()):
            independent = process.posterior_weights(law.marginals(), x_t, time)
            weights = torch.where(impossible[:, None, None], independent, weights)
        noised = process.kernel(0.0, time).push(weights)
        here = noised.gather(-1, x_t[..., None])
        tokens = torch.arange(process.vocab_size, device=x_t.device)
        certain = (tokens == x_t[..., None]).double()
        return torch.where(here > 0, noised / torch.where(here > 0, here, 1.0), certain)

    def noised_log_prob(self, x_t: Tensor, t: Time, process: Process) -> Tensor:
        """log p_t(x_t), the law of the noised data, (B,); −inf where it is 0."""
        denoiser = ExactDenoiser(self, process, joint=True)
        likelihood = process.likelihood(x_t, t)
        silent = (likelihood[..., : self.vocab_size].amax(-1) <= 0).any(-1)
        value = denoiser.posterior(likelihood, x_t).log_evidence
        return torch.where(silent, -torch.inf, value)

    def product_floor(
        self, process: Process, t: Time, samples: int = 256, generator: Generator = None
    ) -> Estimate:
        """E over x_t of the total correlation TC(x₀|x_t), in nats, for a scalar time.

        What the exact product of marginals loses in KL when it draws x₀ at time t. An average of
        exact values over ``samples`` draws of x_t, unless a subclass has it in closed form.
        """
        x0 = self.sample(samples, generator)
        x_t = process.corrupt(x0, 0.0, t, generator)
        law = ExactDenoiser(self, process, joint=True)(x_t, t)
        assert isinstance(law, PosteriorLaw)
        return Estimate.from_draws(law.total_correlation())

    def check_ngram(self, n: int) -> None:
        """Raise ValueError unless runs of n tokens exist, and their law fits a table."""
        if not 1 <= n <= self.length or self.vocab_size**n > ENUMERATION_LIMIT:
            raise ValueError(
                f"runs of {n} of {self.length} tokens out of {self.vocab_size} have no table here; "
                f"take 1 to {self.length} tokens with at most {ENUMERATION_LIMIT:,} runs"
            )

    def check_tokens(self, x: Tensor) -> Tensor:
        """``x`` as int64; ValueError unless it is (n, L) and holds tokens of this problem."""
        if x.dim() != 2 or x.shape[1] != self.length:
            raise ValueError(f"expected (n, {self.length}) tokens, got shape {tuple(x.shape)}")
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < self.vocab_size:
            raise ValueError(f"tokens must lie in 0..{self.vocab_size - 1}")
        return whole_numbers(x, "x")


def probability_table(value: Tensor, name: str) -> Tensor:
    """``value`` as float64 on the CPU with its last axis normalised exactly.

    Raises:
        ValueError: if it has negative entries, or the last axis does not sum to 1 within 1e-6.
    """
    table = torch.as_tensor(value).detach().cpu().double()
    total = table.sum(-1, keepdim=True)
    if bool((table < 0).any()) or not bool(((total - 1).abs() < 1e-6).all()):
        raise ValueError(
            f"{name} must be non-negative with sums of 1; found entries down to "
            f"{float(table.min()):.3g} and sums in [{float(total.min()):.8g}, "
            f"{float(total.max()):.8g}]; divide by the sum first"
        )
    return table / total


def random_rows(
    rows: int, size: int, concentration: float, generator: torch.Generator | None = None
) -> Tensor:
    """Random probability vectors: (rows, size) float64.

    Entries are E^(1/concentration), E exponential, normalised: uniform on the simplex (the flat
    Dirichlet law) at concentration 1, nearly one-hot below, nearly equal above.
    """
    if not 0 < concentration < math.inf:
        raise ValueError(f"concentration must be positive, got {concentration}")
    log_weights = (-uniform((rows, size), generator).log()).log() / concentration
    return log_weights.softmax(-1)
