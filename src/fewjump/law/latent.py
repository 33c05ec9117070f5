"""A latent variable in front of a law: p(x₀|x_t) = ∫ p(z) p(x₀|x_t, z) dz."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.law.base import Law, nucleus
from fewjump.law.composed import MixtureOf
from fewjump.random import Generator, SampleStreams, categorical_from_logits, uniform

Decode = Callable[[Tensor, Tensor], Law]


class Latent(ABC):
    """A batch of distributions over z: a :class:`LatentLaw`'s prior, or its encoder's answer."""

    batch_size: int
    device: torch.device

    @abstractmethod
    def sample(self, generator: Generator = None) -> Tensor:
        """Draw z: (B, ...). Differentiable with respect to the parameters where z is continuous."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (or log-probability) in nats: (B,)."""

    @abstractmethod
    def select(self, rows: Tensor) -> Latent:
        """The distributions of the given batch rows."""

    def relaxed(self, generator: Generator = None) -> Tensor:
        """A draw that gradients pass through: z itself where z is continuous."""
        return self.sample(generator)

    def tempered(self, temperature: float, top_p: float) -> Latent:
        """Categorical parts sharpened and truncated; what is continuous stays as it is."""
        return self


class DiscreteLatent(Latent):
    """A categorical z in {0..K−1} per sequence.

    Args:
        logits: (B, K), unnormalised.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.batch_size, self.values = logits.shape
        self.device = logits.device

    def sample(self, generator: Generator = None) -> Tensor:
        return categorical_from_logits(self.logits, generator)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.logits.log_softmax(-1).gather(-1, z[:, None])[:, 0]

    def kl(self, other: DiscreteLatent) -> Tensor:
        """KL(self ‖ other) in nats: (B,)."""
        mine, theirs = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        weight = mine.exp()
        return (weight * (mine - theirs).masked_fill(weight == 0, 0.0)).sum(-1)

    def select(self, rows: Tensor) -> DiscreteLatent:
        return DiscreteLatent(self.logits[rows])

    def relaxed(self, generator: Generator = None) -> Tensor:
        """(B, K) one-hot, see :func:`straight_through`."""
        return straight_through(self.logits, generator)

    def tempered(self, temperature: float, top_p: float) -> DiscreteLatent:
        return DiscreteLatent(nucleus(self.logits, temperature, top_p))


class GaussianLatent(Latent):
    """Independent normals of any shape per row: z per sequence (B, D) or per position (B, L, D).

    Args:
        mean: (B, ...).
        log_std: (B, ...), natural logarithm of the standard deviation.
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        if mean.shape != log_std.shape:
            raise ValueError(
                f"mean and log_std must have one shape, got {tuple(mean.shape)} and "
                f"{tuple(log_std.shape)}"
            )
        self.mean, self.log_std = mean, log_std
        self.batch_size = mean.shape[0]
        self.device = mean.device

    @classmethod
    def standard(
        cls,
        shape: tuple[int, ...],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> GaussianLatent:
        """Zero mean, unit variance; ``shape`` includes the batch."""
        zero = torch.zeros(shape, device=device, dtype=dtype)
        return cls(zero, zero)

    def sample(self, generator: Generator = None) -> Tensor:
        u = uniform(self.mean.shape, generator, self.mean.device)
        noise = torch.special.ndtri(u).to(self.mean.dtype)
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        scaled = (z - self.mean) * (-self.log_std).exp()
        each = -0.5 * scaled.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(-1)

    def kl(self, other: GaussianLatent) -> Tensor:
        """KL(self ‖ other) in nats, per entry of z: (B, ...); sum it, or apply free bits first."""
        ratio = 2 * (self.log_std - other.log_std)
        shift = (self.mean - other.mean) * (-other.log_std).exp()
        return 0.5 * (ratio.exp() + shift.square() - 1 - ratio)

    def select(self, rows: Tensor) -> GaussianLatent:
        return GaussianLatent(self.mean[rows], self.log_std[rows])


def straight_through(logits: Tensor, generator: Generator = None) -> Tensor:
    """One-hot draws (..., K) whose gradient is that of the softmax relaxation (arXiv 1611.01144).

    The draw is exact (Gumbel-max in float64); the gradient, at relaxation temperature 1, is biased.
    """
    u = uniform(logits.shape, generator, logits.device)
    perturbed = logits.double() - (-u.log()).log()
    soft = perturbed.softmax(-1).to(logits.dtype)
    hard = torch.zeros_like(soft).scatter(-1, perturbed.argmax(-1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())


class LatentLaw(Law):
    """p(x₀|x_t) = E_{z~prior} p(x₀|x_t, z), z entering wherever ``decode`` lets it, e.g. the trunk.

    A discrete z with few values is summed out: every method is exact, at K evaluations of
    ``decode`` (sampling takes one). For a continuous z :meth:`log_prob` is the importance-weighted
    lower bound (arXiv 1509.00519) from ``particles`` prior draws of a fixed seed, :meth:`marginals`
    the average over the same draws (the same for every row), and :meth:`given` raises.
    :meth:`tempered` sharpens a discrete prior and the decoded law; a normal prior stays as it is.

    Args:
        prior: distribution of z.
        decode: (z (N, ...), rows (N,) int64) → the law of N sequences, whose n-th row is batch row
            ``rows[n]`` decoded with ``z[n]``.
        length, vocab_size: L and V.
        particles: draws of a continuous z in :meth:`log_prob` and :meth:`marginals`.
        rows: (B,) which rows of ``decode`` these are; all of them by default.
    """

    def __init__(
        self,
        prior: Latent,
        decode: Decode,
        length: int,
        vocab_size: int,
        particles: int = 64,
        rows: Tensor | None = None,
    ) -> None:
        self.prior, self.decode = prior, decode
        self.batch_size, self.length, self.vocab_size = prior.batch_size, length, vocab_size
        self.particles = particles
        if rows is None:
            rows = torch.arange(self.batch_size, device=prior.device)
        self.rows = rows

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def exact(self) -> MixtureOf:
        """A discrete latent summed out: the mixture over its K values.

        Raises:
            ValueError: for a continuous latent.
        """
        if not isinstance(self.prior, DiscreteLatent):
            raise ValueError(
                "a continuous latent cannot be summed out. To condition on known tokens show them "
                "in x_t (a prompt of a masked process), or use a discrete latent"
            )
        count = self.prior.values
        z = torch.arange(count, device=self.device).repeat(self.batch_size)
        rows = self.rows.repeat_interleave(count)
        return MixtureOf(self.decode(z, rows), self.prior.logits)

    def sample(self, generator: Generator = None) -> Tensor:
        return self.decode(self.prior.sample(generator), self.rows).sample(generator)

    def log_prob(self, x0: Tensor) -> Tensor:
        if isinstance(self.prior, DiscreteLatent):
            return self.exact().log_prob(x0)
        return self.bound(x0, self.prior, self.particles, self._fixed_streams())

    def _fixed_streams(self) -> SampleStreams:
        """The same draws for every row: an answer does not depend on the rows beside it."""
        return SampleStreams(0, torch.zeros(self.batch_size, dtype=torch.int64))

    def bound(
        self,
        x0: Tensor,
        proposal: Latent,
        particles: int = 1,
        generator: Generator = None,
    ) -> Tensor:
        """log of the mean of p(x₀|z)p(z)/q(z) over draws z ~ q: at most log p(x₀) on average, (B,).

        One particle gives the evidence lower bound; more tighten it (arXiv 1509.00519).
        """
        terms = []
        for _ in range(particles):
            z = proposal.sample(generator)
            term = self.decode(z, self.rows).log_prob(x0)
            if proposal is not self.prior:
                term = term + self.prior.log_prob(z) - proposal.log_prob(z)
            terms.append(term)
        return torch.stack(terms).logsumexp(0) - math.log(particles)

    def marginals(self) -> Tensor:
        if isinstance(self.prior, DiscreteLatent):
            return self.exact().marginals()
        generator = self._fixed_streams()
        total = torch.zeros((), device=self.device)
        for _ in range(self.particles):
            total = total + self.decode(self.prior.sample(generator), self.rows).marginals()
        return total / self.particles

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> LatentLaw:
        if temperature == 1 and top_p == 1:
            return self
        prior, decode = self.prior, self.decode
        nucleus(torch.zeros(1), temperature, top_p)  # refuses bad values before any decoding
        return LatentLaw(
            prior.tempered(temperature, top_p),
            lambda z, rows: decode(z, rows).tempered(temperature, top_p),
            self.length,
            self.vocab_size,
            self.particles,
            self.rows,
        )

    def select(self, rows: Tensor) -> LatentLaw:
        return LatentLaw(
            self.prior.select(rows),
            self.decode,
            self.length,
            self.vocab_size,
            self.particles,
            self.rows[rows],
        )

    def given(self, x0: Tensor, known: Tensor) -> MixtureOf:
        """Exact for a discrete latent, as a mixture over its values.

        Raises:
            ValueError: for a continuous latent, whose conditional has no closed form.
        """
        return self.exact().given(x0, known)
