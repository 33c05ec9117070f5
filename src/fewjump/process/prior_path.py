"""Priors that move: the law a position is redrawn from, as a function of the noise so far.

A path is a function of the total noise ℓ = σ̄ (0 at clean data). What a process needs of it is the
law m of a position redrawn while the noise grew from ℓ_s to ℓ_t,

    (1 − e^{−(ℓ_t−ℓ_s)})·m = ∫ e^{−(ℓ_t−ℓ)}·π(ℓ) dℓ   over [ℓ_s, ℓ_t]   (METHOD section 1),

which the shipped paths have in closed form: they are mixtures of a few fixed laws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewjump.process.base import check_laws, kept_in_range, mask_or_last


class PriorPath(ABC):
    """π as a function of the noise so far.

    Attributes:
        vocab_size: number of states V.
    """

    vocab_size: int

    @abstractmethod
    def at(self, level: Tensor) -> Tensor:
        """π(ℓ) for ``level`` (...) float64: (..., V) float64 on its device."""

    @abstractmethod
    def redrawn(self, start: Tensor, end: Tensor, gap: Tensor) -> Tensor:
        """m for noise from ``start`` to ``end``: (..., V) float64.

        Args:
            start, end: (...) float64, 0 ≤ start ≤ end.
            gap: their difference, to full relative precision. Where it is 0, π(end) is returned.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain data from which :func:`prior_path_from_config` rebuilds this."""


class MixturePath(PriorPath):
    """Mixtures of K fixed laws with moving weights: (..., K) numbers, then one product.

    Args:
        laws: (K, V) non-negative rows that sum to 1 within 1e-6 (normalised in float64).

    Raises:
        ValueError: if a row is not a probability vector.
    """

    def __init__(self, laws: Tensor | Sequence[Sequence[float]]) -> None:
        self.laws = check_laws(laws, "laws")
        self.vocab_size = self.laws.shape[1]
        self._copies: dict[torch.device, Tensor] = {}

    @abstractmethod
    def weights(self, level: Tensor) -> Tensor:
        """Weights of the laws in π(ℓ): (..., K), summing to 1."""

    @abstractmethod
    def redrawn_weights(self, start: Tensor, end: Tensor, gap: Tensor) -> Tensor:
        """Their integrals against e^{−(end − ℓ)} dℓ, (..., K), up to a common factor."""

    def at(self, level: Tensor) -> Tensor:
        return self._mix(self.weights(level))

    def redrawn(self, start: Tensor, end: Tensor, gap: Tensor) -> Tensor:
        weights = self.redrawn_weights(start, end, gap)
        total = weights.sum(-1, keepdim=True)
        moved = total > 0
        weights = torch.where(moved, weights / torch.where(moved, total, 1.0), self.weights(end))
        return self._mix(weights)

    def _mix(self, weights: Tensor) -> Tensor:
        if weights.device not in self._copies:
            with torch.inference_mode(False):
                self._copies[weights.device] = self.laws.to(weights.device)
        return weights @ self._copies[weights.device]


class InterpolatedPriors(MixturePath):
    """Straight lines between given laws, in the share of positions redrawn so far, f = 1 − α.

    Under the log-linear schedule f is (1 − eps)·t, so that the path is piecewise linear in time.
    On a segment from π_u to π_v over noise g the integral is c·π_u + (1 − e^{−g} − c)·π_v with
    c = e^{−g}·(g − 1 + e^{−g})/(1 − e^{−g}).

    Args:
        laws: (K, V), K at least 2, the laws at the knots.
        shares: K increasing numbers from 0 to 1, the knots in f; evenly spaced by default.

    Raises:
        ValueError: if a law is not a probability vector, or the knots are not as said.
    """

    def __init__(
        self, laws: Tensor | Sequence[Sequence[float]], shares: Sequence[float] | None = None
    ) -> None:
        super().__init__(laws)
        count = self.laws.shape[0]
        if count < 2:
            raise ValueError("a path needs at least 2 laws; for one use ResetToPrior")
        if shares is None:
            shares = torch.linspace(0, 1, count, dtype=torch.float64).tolist()
        knots = torch.as_tensor(shares, dtype=torch.float64)
        if knots.shape != (count,) or knots[0] != 0 or knots[-1] != 1 or (knots.diff() <= 0).any():
            raise ValueError(
                f"shares must be {count} increasing numbers from 0 to 1, one for each law; "
                f"got {list(shares)}"
            )
        self.shares = knots

    def config(self) -> dict[str, Any]:
        return {
            "name": "InterpolatedPriors",
            "laws": self.laws.tolist(),
            "shares": self.shares.tolist(),
        }

    def weights(self, level: Tensor) -> Tensor:
        share = -torch.expm1(-level)[..., None]
        knots = self.shares.to(level.device)
        left, right = knots[:-1], knots[1:]
        inside = ((share - left) / (right - left)).clamp(0, 1)
        # Hat functions: how far past the knot before, minus how far past this one.
        ones = torch.ones_like(share)
        return torch.cat([ones, inside], -1) - torch.cat([inside, torch.zeros_like(ones)], -1)

    def redrawn_weights(self, start: Tensor, end: Tensor, gap: Tensor) -> Tensor:
        knots = self.shares.to(start.device)
        left, right = knots[:-1], knots[1:]
        lower, upper = -torch.log1p(-left), -torch.log1p(-right)
        start, end, gap = start[..., None], end[..., None], gap[..., None]
        begin, finish = torch.maximum(start, lower), torch.minimum(end, upper)
        whole = (start >= lower) & (end <= upper)
        part = torch.where(whole, gap, (finish - begin).clamp(min=0))
        remaining = torch.exp(-(end - finish).clamp(min=0))
        forgotten = -torch.expm1(-part)
        safe = torch.where(forgotten > 0, forgotten, 1.0)
        first = torch.exp(-part) * _excess(part) / safe
        last = forgotten - first

        def inside(level: Tensor) -> Tensor:
            return ((-torch.expm1(-level) - left) / (right - left)).clamp(0, 1)

        at_begin, at_finish = inside(begin), inside(finish)
        to_right = remaining * (first * at_begin + last * at_finish)
        to_left = remaining * (first * (1 - at_begin) + last * (1 - at_finish))
        none = torch.zeros_like(to_left[..., :1])
        return torch.cat([to_left, none], -1) + torch.cat([none, to_right], -1)


class GIDDPriors(MixturePath):
    """GIDD's hybrid of masks and uniform noise (von Rütte et al. 2025, arXiv 2503.04482, γ = 1).

    There a position at time τ is clean, masked or uniform over the other tokens in the proportions
    1 − τ : τ : B·√(τ(1−τ)), with B = 2p/(1 − p). Noise is uniform at first and masks at last; a
    share p of the positions is uniform at τ = ½. As a function of α, by the roots of a quadratic,

        τ = 2f²/(2f + a + D),   1 − τ = (2α + a + D)/(2(1 + a)),   f = 1 − α,  a = (αB)²,
        D = √(a² + 4afα),

    and a position is redrawn to the mask with probability 1/(1 + ½B·√((1−τ)/τ)). Under any
    schedule this is GIDD's chain with another clock; theirs is α(τ) = (1−τ)/(1 + B·√(τ(1−τ))).

    Args:
        vocab_size: number of states V, the mask included.
        peak: p in (0, 1), the share of uniform noise at τ = ½.
        mask: index of the mask; the last state by default.
        kept: tokens that noise leaves alone; the uniform part is over the others.

    Raises:
        ValueError: for a share outside (0, 1), or fewer than 3 states that are noised.
    """

    def __init__(
        self,
        vocab_size: int,
        peak: float = 0.1,
        mask: int | None = None,
        kept: Iterable[int] = (),
    ) -> None:
        if not 0 < peak < 1:
            raise ValueError(f"peak must lie in (0, 1), got {peak}; for 0 use Absorbing")
        self.kept = sorted(kept)
        super().__init__(mask_and_uniform(vocab_size, mask, self.kept))
        self.peak = peak
        self.mask = mask_or_last(mask, vocab_size)
        self._ratio = 2 * peak / (1 - peak)

    def config(self) -> dict[str, Any]:
        return {
            "name": "GIDDPriors",
            "vocab_size": self.vocab_size,
            "peak": self.peak,
            "mask": self.mask,
            "kept": self.kept,
        }

    def _progress(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """(τ, 1 − τ) from the noise so far."""
        alpha, forgotten = torch.exp(-level), -torch.expm1(-level)
        a = (alpha * self._ratio) ** 2
        root = (a * (a + 4 * forgotten * alpha)).sqrt()
        return (
            2 * forgotten**2 / (2 * forgotten + a + root),
            (2 * alpha + a + root) / (2 * (1 + a)),
        )

    def weights(self, level: Tensor) -> Tensor:
        tau, left = self._progress(level)
        masked = tau.sqrt() / (tau.sqrt() + self._ratio / 2 * left.sqrt())
        return torch.stack([masked, 1 - masked], -1)

    def redrawn_weights(self, start: Tensor, end: Tensor, gap: Tensor) -> Tensor:
        (tau_s, left_s), (tau_t, left_t) = self._progress(start), self._progress(end)
        masked = torch.exp(-end) * (tau_t - tau_s).clamp(min=0) / (left_t * left_s)
        total = -torch.expm1(-gap)
        masked = torch.minimum(masked, total)
        return torch.stack([masked, total - masked], -1)


def mask_and_uniform(vocab_size: int, mask: int | None = None, kept: Iterable[int] = ()) -> Tensor:
    """The mask's law and the uniform one over all other states: (2, V) float64.

    Args:
        vocab_size: number of states V, the mask included.
        mask: index of the mask; the last state by default.
        kept: states that neither may hold.

    Raises:
        ValueError: if fewer than 3 states are left, or the mask is none of them.
    """
    kept = kept_in_range(kept, vocab_size)
    if vocab_size - len(kept) < 3:
        raise ValueError(
            "a mask and uniform noise need at least 3 states (the mask counts, kept tokens do "
            f"not), got {vocab_size} with {len(kept)} kept"
        )
    mask = mask_or_last(mask, vocab_size)
    if mask in kept:
        raise ValueError(f"the mask {mask} is among the kept tokens; it must be one of its own")
    masked = torch.zeros(vocab_size, dtype=torch.float64)
    masked[mask] = 1
    others = 1 - masked
    others[list(kept)] = 0
    return torch.stack([masked, others / others.sum()])


def _excess(g: Tensor) -> Tensor:
    """g − 1 + e^{−g} ≥ 0 without cancellation for small g."""
    # Alternating series from g²/2 on; at 0.1 the first term left out is below 1e-18.
    series = torch.zeros_like(g)
    for n in range(10, 1, -1):
        series = (1 - series) * g / n
    return torch.where(g < 0.1, series * g, g + torch.expm1(-g))


_PATHS: dict[str, type[MixturePath]] = {c.__name__: c for c in (InterpolatedPriors, GIDDPriors)}


def prior_path_from_config(config: dict[str, Any]) -> PriorPath:
    """Rebuild a path from :meth:`PriorPath.config`.

    Raises:
        ValueError: for an unknown path, and for options that do not fit.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name not in _PATHS:
        raise ValueError(f"unknown prior path {name!r}; known: {', '.join(sorted(_PATHS))}")
    try:
        return _PATHS[name](**options)
    except TypeError as error:
        raise ValueError(f"the configuration does not fit path {name}: {error}") from error
