"""A latent variable in front of a law: p(x₀|x_t) = ∫ p(z) p(x₀|x_t, z) dz."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Self

import torch
from torch import Tensor

from fewjump.law.base import Draw, Law
from fewjump.law.batched import SHARED, Batched
from fewjump.law.log_weights import expectation, nucleus
from fewjump.law.mixture import MixtureOf
from fewjump.random import Generator, SampleStreams, categorical_from_logits, uniform

Decode = Callable[[Tensor, Tensor], Law]


class Latent(Batched, ABC):
    """A batch of distributions over z: a :class:`LatentLaw`'s prior, or its encoder's answer."""

    @abstractmethod
    def sample(self, generator: Generator = None) -> Tensor:
        """Draw z: (B, ...). Differentiable with respect to the parameters where z is continuous."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (or log-probability) in nats: (B,)."""

    @abstractmethod
    def shape(self, relaxed: bool = False) -> tuple[int, ...]:
        """Shape of one row's z, as :meth:`sample` or :meth:`relaxed` returns it."""

    def category(self) -> DiscreteLatent | None:
        """Itself, where z is one category per sequence, so that it can be summed out."""
        return None

    def relaxed(self, generator: Generator = None) -> Tensor:
        """A draw that gradients pass through: z itself where z is continuous."""
        return self.sample(generator)

    def tempered(self, temperature: float, top_p: float) -> Latent:
        """Categorical parts sharpened and truncated; what is continuous stays as it is."""
        return self


@dataclass(eq=False)
class CategoricalLatent(Latent):
    """Base of a categorical z in {0..K−1} per sequence, or one at every position.

    Args:
        logits: (B, K) or (B, L, K), unnormalised.
    """

    logits: Tensor

    def __post_init__(self) -> None:
        self.batch_size, self.values = self.logits.shape[0], self.logits.shape[-1]

    def sample(self, generator: Generator = None) -> Tensor:
        return categorical_from_logits(self.logits, generator)

    def log_prob(self, z: Tensor) -> Tensor:
        each = self.logits.log_softmax(-1).gather(-1, z[..., None])[..., 0]
        return each.reshape(self.batch_size, -1).sum(-1)

    def shape(self, relaxed: bool = False) -> tuple[int, ...]:
        return tuple(self.logits.shape[1:] if relaxed else self.logits.shape[1:-1])

    def kl(self, other: CategoricalLatent) -> Tensor:
        """KL(self ‖ other) in nats of each categorical: (B,), or (B, L) with one a position."""
        mine, theirs = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        return expectation(mine.exp(), mine - theirs)

    def relaxed(self, generator: Generator = None) -> Tensor:
        """One-hot (B, K), or (B, L, K) with one a position, see :func:`straight_through`."""
        return straight_through(self.logits, generator)

    def tempered(self, temperature: float, top_p: float) -> Self:
        return replace(self, logits=nucleus(self.logits, temperature, top_p))


class DiscreteLatent(CategoricalLatent):
    """A categorical z in {0..K−1} per sequence, from logits (B, K)."""

    def category(self) -> DiscreteLatent:
        return self


class PositionLatent(CategoricalLatent):
    """An independent categorical z_i in {0..K−1} for every position, from logits (B, L, K)."""


@dataclass(eq=False)
class GaussianLatent(Latent):
    """Independent normals of any shape per row: z per sequence (B, D) or per position (B, L, D).

    Args:
        mean: (B, ...).
        log_std: (B, ...), natural logarithm of the standard deviation.
    """

    mean: Tensor
    log_std: Tensor

    def __post_init__(self) -> None:
        if self.mean.shape != self.log_std.shape:
            raise ValueError(
                f"mean and log_std must have one shape, got {tuple(self.mean.shape)} and "
                f"{tuple(self.log_std.shape)}"
            )
        self.batch_size = self.mean.shape[0]

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

    def shape(self, relaxed: bool = False) -> tuple[int, ...]:
        return tuple(self.mean.shape[1:])

    def kl(self, other: GaussianLatent) -> Tensor:
        """KL(self ‖ other) in nats, per entry of z: (B, ...); sum it, or apply free bits first."""
        ratio = 2 * (self.log_std - other.log_std)
        shift = (self.mean - other.mean) * (-other.log_std).exp()
        return 0.5 * (ratio.exp() + shift.square() - 1 - ratio)


@dataclass(eq=False)
class LatentProduct(Latent):
    """Independent latents side by side. z is their values laid out in one row, (B, F).

    Integers are kept as floating point numbers of the same value (exact below 2^24).

    Args:
        parts: two or more latents of one batch; :meth:`unpack` takes a z apart again.
    """

    parts: Sequence[Latent]

    def __post_init__(self) -> None:
        if len({part.batch_size for part in self.parts}) != 1 or len(self.parts) < 2:
            raise ValueError("LatentProduct needs two or more latents of one batch size")
        self.batch_size = self.parts[0].batch_size

    def _each(self, change: Callable[[Any], Any]) -> LatentProduct:
        return LatentProduct([change(part) for part in self.parts])

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    def shape(self, relaxed: bool = False) -> tuple[int, ...]:
        return (sum(prod(part.shape(relaxed)) for part in self.parts),)

    def sample(self, generator: Generator = None) -> Tensor:
        return self._pack([part.sample(generator) for part in self.parts])

    def relaxed(self, generator: Generator = None) -> Tensor:
        return self._pack([part.relaxed(generator) for part in self.parts])

    def log_prob(self, z: Tensor) -> Tensor:
        return sum(part.log_prob(value) for part, value in zip(self.parts, self.unpack(z)))  # type: ignore[return-value]

    def tempered(self, temperature: float, top_p: float) -> LatentProduct:
        return self._each(lambda part: part.tempered(temperature, top_p))

    def unpack(self, z: Tensor) -> list[Tensor]:
        """The parts' own values, in order, from what :meth:`sample` or :meth:`relaxed` returned."""
        hard = (z.shape[1],) == self.shape()
        shapes = [part.shape(relaxed=not hard) for part in self.parts]
        out = []
        for part, shape, piece in zip(self.parts, shapes, z.split([*map(prod, shapes)], dim=1)):
            value = piece.reshape(len(z), *shape)
            out.append(value.long() if hard and isinstance(part, CategoricalLatent) else value)
        return out

    def _pack(self, values: list[Tensor]) -> Tensor:
        dtype = torch.float32
        for value in values:
            if value.is_floating_point():
                dtype = torch.promote_types(dtype, value.dtype)
        return torch.cat([value.reshape(self.batch_size, -1).to(dtype) for value in values], 1)


def unit_kl(posterior: Latent, prior: Latent) -> Tensor:
    """KL(posterior ‖ prior) of each unit of z in nats: (B, units).

    A unit is one categorical, or one normal number.

    Raises:
        TypeError: for latents of different kinds.
    """
    if isinstance(posterior, LatentProduct) and isinstance(prior, LatentProduct):
        return torch.cat([unit_kl(q, p) for q, p in zip(posterior.parts, prior.parts)], 1)
    for kind in (DiscreteLatent, PositionLatent, GaussianLatent):
        if isinstance(posterior, kind) and isinstance(prior, kind):
            return posterior.kl(prior).reshape(posterior.batch_size, -1)  # type: ignore[arg-type]
    raise TypeError(f"no KL from {type(posterior).__name__} to {type(prior).__name__}")


def straight_through(logits: Tensor, generator: Generator = None) -> Tensor:
    """One-hot draws (..., K) whose gradient is that of the softmax relaxation (arXiv 1611.01144).

    The draw is exact (Gumbel-max in float64); the gradient, at relaxation temperature 1, is biased.
    """
    u = uniform(logits.shape, generator, logits.device)
    perturbed = logits.double() - (-u.log()).log()
    soft = perturbed.softmax(-1).to(logits.dtype)
    hard = torch.zeros_like(soft).scatter(-1, perturbed.argmax(-1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())


@dataclass(eq=False)
class LatentLaw(Law):
    """p(x₀|x_t) = E_{z~prior} p(x₀|x_t, z), z entering wherever ``decode`` lets it, e.g. the trunk.

    A discrete z with few values is summed out: every method is exact, at K evaluations of
    ``decode`` (sampling takes one). For a continuous z :meth:`log_prob` is the importance-weighted
    lower bound (arXiv 1509.00519) from ``particles`` prior draws of a fixed seed, :meth:`marginals`
    the average over the same draws (the same for every row), and :meth:`given` raises, but for
    tokens that are certain whatever z is.
    :meth:`tempered` sharpens a discrete prior and the decoded law; a normal prior stays as it is.

    Args:
        prior: distribution of z.
        decode: (z (N, ...), rows (N,) int64) → the law of N sequences, whose n-th row is batch row
            ``rows[n]`` decoded with ``z[n]``.
        length, vocab_size: L and V.
        particles: draws of a continuous z in :meth:`log_prob` and :meth:`marginals`.
        rows: (B,) which rows of ``decode`` these are; all of them by default.
        kept: see :meth:`held`.
        certain: (B, L) int64, the tokens that every z makes certain, such as the visible ones under
            a mask; −1 elsewhere. None for none.
    """

    prior: Latent
    decode: Decode = field(metadata=SHARED)
    length: int = field(metadata=SHARED)
    vocab_size: int = field(metadata=SHARED)
    particles: int = field(default=64, metadata=SHARED)
    rows: Tensor = None  # type: ignore[assignment]
    kept: list[Tensor] | None = field(default=None, metadata=SHARED)
    certain: Tensor | None = None

    def __post_init__(self) -> None:
        self.batch_size = self.prior.batch_size
        if self.rows is None:  # pyright: ignore[reportUnnecessaryComparison]
            self.rows = torch.arange(self.batch_size, device=self.prior.device)

    @property
    def exact_density(self) -> bool:
        return self.kept is None and self.prior.category() is not None

    def exact(self) -> MixtureOf:
        """A discrete latent summed out: the mixture over its K values.

        Raises:
            ValueError: for a continuous latent.
        """
        prior = self.prior.category()
        if prior is None:
            raise ValueError(
                "a continuous latent cannot be summed out. To condition on known tokens show them "
                "in x_t (a prompt of a masked process), or use a discrete latent"
            )
        count = prior.values
        z = torch.arange(count, device=self.device).repeat(self.batch_size)
        rows = self.rows.repeat_interleave(count)
        return MixtureOf(self.decode(z, rows), prior.logits)

    def component_logits(self) -> Tensor | None:
        category = self.prior.category()
        return None if category is None else category.logits

    def sample(self, generator: Generator = None) -> Tensor:
        z = self.kept[0] if self.kept else self.prior.sample(generator)
        if self.kept is not None and not self.kept:
            self.kept.append(z)
        return self.decode(z, self.rows).sample(generator)

    def held(self, kept: list[Tensor]) -> LatentLaw:
        return replace(self, kept=kept)

    def draw(self, generator: Generator = None) -> Draw:
        """A draw of the law that one z decodes to; z is what chose it, where the prior learns."""
        with torch.no_grad():
            z = self.prior.sample(generator)
        one, choice = self.decode(z, self.rows).draw(generator), self.prior.log_prob(z)
        if not choice.requires_grad:
            return one
        return one._replace(
            log_choice=choice if one.log_choice is None else choice + one.log_choice
        )

    def log_prob(self, x0: Tensor) -> Tensor:
        if self.kept is not None:
            raise ValueError(
                "a latent that is held over several draws gives none of them a likelihood of its "
                "own; use sampler='ancestral', or estimate the law from samples"
            )
        x0 = self.checked(x0)
        if self.prior.category() is not None:
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
        if self.prior.category() is not None:
            return self.exact().marginals()
        generator = self._fixed_streams()
        total = torch.zeros((), device=self.device)
        for _ in range(self.particles):
            total = total + self.decode(self.prior.sample(generator), self.rows).marginals()
        return total / self.particles

    def tempered(self, temperature: float = 1.0, top_p: float = 1.0) -> LatentLaw:
        if temperature == 1 and top_p == 1:
            return self
        nucleus(torch.zeros(1), temperature, top_p)  # refuses bad values before any decoding
        decode = self.decode
        return replace(
            self,
            prior=self.prior.tempered(temperature, top_p),
            decode=lambda z, rows: decode(z, rows).tempered(temperature, top_p),
        )

    def given(self, x0: Tensor, known: Tensor) -> LatentLaw | MixtureOf:
        """Exact for a discrete latent, as a mixture over its values.

        What is certain already says nothing of z: known tokens of that kind leave the law as it is.

        Raises:
            ValueError: as :meth:`checked`; for a continuous latent and other known tokens, whose
                conditional has no closed form.
        """
        x0 = self.checked(x0, known)
        if self.certain is not None and bool(((self.certain == x0) | ~known).all()):
            return self
        return self.exact().given(x0, known)
