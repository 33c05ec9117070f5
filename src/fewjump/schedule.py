"""Noise schedules: how far the corruption has gone at time t ∈ [0, 1].

A schedule gives σ̄(t) = ∫₀ᵗ σ(u) du (plus the original's offset at 0, where there is one),
α(t) = exp(−σ̄(t)) and the rate σ(t) = dσ̄/dt. Time 0 is the clean data itself:
:meth:`Schedule.level` is 0 there, even for a schedule whose formula gives σ̄(0) > 0 (the geometric
one).

Times are floats or tensors of any shape; what comes back has the same shape, in float64 for a
Python float and in the tensor's dtype otherwise. Formulas near the ends are arranged (``log1p``,
``expm1``, 1 − (1−eps)t as (1−t) + eps·t) so that float32 keeps full relative precision. The
originals do not: in float32 their rate at t = 1 is 999.0129 where the formula says 999.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor

from fewjump.config import require
from fewjump.registry import SCHEDULES

Time = float | Tensor


def as_time(t: Time, device: torch.device | str | None = None) -> Tensor:
    """``t`` as a float tensor (float64 for a Python number)."""
    if isinstance(t, Tensor):
        t = t if t.is_floating_point() else t.double()
        return t if device is None else t.to(device)
    return torch.tensor(float(t), dtype=torch.float64, device=device)


class Schedule(ABC):
    """σ̄(t), its derivative and inverse; everything else follows."""

    @abstractmethod
    def sigma_bar(self, t: Time) -> Tensor:
        """Total noise σ̄(t) as the original's formula has it."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """Rate σ(t) = dσ̄/dt."""

    @abstractmethod
    def time_of_sigma_bar(self, sigma_bar: Time) -> Tensor:
        """The time t ∈ [0, 1] at which σ̄(t) equals ``sigma_bar`` (clamped to the range)."""

    def level(self, t: Time) -> Tensor:
        """σ̄ seen from clean data: σ̄(t) for t > 0 and exactly 0 at t = 0."""
        t = as_time(t)
        return torch.where(t > 0, self.sigma_bar(t), torch.zeros_like(t))

    def between(self, s: Time, t: Time) -> Tensor:
        """∫ₛᵗ σ(u) du ≥ 0, for s ≤ t."""
        return (self.level(t) - self.level(s)).clamp(min=0)

    def alpha(self, t: Time) -> Tensor:
        """α(t) = exp(−level(t)): the probability that nothing happened to a position."""
        return torch.exp(-self.level(t))

    def one_minus_alpha(self, t: Time) -> Tensor:
        """1 − α(t), without cancellation for small t."""
        return -torch.expm1(-self.level(t))

    def time_of_alpha(self, alpha: Time) -> Tensor:
        """The time at which α(t) equals ``alpha``."""
        return self.time_of_sigma_bar(-torch.log(as_time(alpha)))

    def config(self) -> dict[str, Any]:
        """A plain dictionary from which :func:`schedule_from_config` rebuilds the schedule.

        Raises:
            ValueError: for a class of yours that is no dataclass.
        """
        if not is_dataclass(self):
            raise ValueError(
                f"{type(self).__name__} must be a dataclass, whose fields are its options, or have "
                "a config() of its own"
            )
        return {"name": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class LogLinear(Schedule):
    """σ̄(t) = −log(1 − (1−eps)·t), so that α(t) = 1 − (1−eps)·t (SEDD, MDLM; eps = 1e-3)."""

    eps: float = 1e-3

    def __post_init__(self) -> None:
        require(0 < self.eps < 1, f"LogLinear needs 0 < eps < 1, got {self.eps}")

    def alpha(self, t: Time) -> Tensor:
        return _remaining(as_time(t), self.eps)

    def one_minus_alpha(self, t: Time) -> Tensor:
        return (1 - self.eps) * as_time(t)

    def sigma_bar(self, t: Time) -> Tensor:
        t = as_time(t)
        near_data = -torch.log1p(-(1 - self.eps) * t)
        return torch.where(t < 0.5, near_data, -torch.log(self.alpha(t)))

    def sigma(self, t: Time) -> Tensor:
        return (1 - self.eps) / self.alpha(t)

    def time_of_sigma_bar(self, sigma_bar: Time) -> Tensor:
        return (-torch.expm1(-as_time(sigma_bar)) / (1 - self.eps)).clamp(0, 1)

    def between(self, s: Time, t: Time) -> Tensor:
        s, t = as_time(s), as_time(t)
        # log(α_s/α_t) = log1p((α_s − α_t)/α_t): no cancellation for close times.
        return torch.log1p((1 - self.eps) * (t - s).clamp(min=0) / self.alpha(t))


@dataclass(frozen=True)
class Geometric(Schedule):
    """σ̄(t) = σmin^(1−t)·σmax^t (SEDD; 1e-4 … 20). σ̄(0+) = σmin, not 0."""

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        require(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"Geometric needs 0 < sigma_min < sigma_max, got {self.sigma_min}, {self.sigma_max}",
        )

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma_bar(self, t: Time) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self._log_ratio * self.sigma_bar(t)

    def time_of_sigma_bar(self, sigma_bar: Time) -> Tensor:
        value = as_time(sigma_bar).clamp(min=self.sigma_min)
        return (torch.log(value / self.sigma_min) / self._log_ratio).clamp(0, 1)

    def between(self, s: Time, t: Time) -> Tensor:
        s, t = as_time(s), as_time(t)
        gap = (t - s).clamp(min=0)
        inside = self.sigma_bar(s) * torch.expm1(self._log_ratio * gap)
        return torch.where(s > 0, inside, self.level(t))


@dataclass(frozen=True)
class Cosine(Schedule):
    """α(t) = 1 − cos(π/2·(1 − (1−eps)·t)) (Duo; eps = 1e-3).

    :meth:`sigma` is the derivative of σ̄. Duo's own dα/dt leaves out the factor 1−eps.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        require(0 < self.eps < 1, f"Cosine needs 0 < eps < 1, got {self.eps}")

    def _angle(self, t: Time) -> Tensor:
        return math.pi / 2 * _remaining(as_time(t), self.eps)

    def sigma_bar(self, t: Time) -> Tensor:
        # 1 − cos x = 2 sin²(x/2) keeps precision where α is small; where α is near 1,
        # log1p of the complement cos x = sin(π/2·(1−eps)·t) does.
        angle = self._angle(t)
        complement = self.one_minus_alpha(t)
        near_data = -torch.log1p(-complement.clamp(max=0.9))
        near_noise = -torch.log(2 * torch.sin(angle / 2) ** 2)
        return torch.where(complement < 0.5, near_data, near_noise)

    def sigma(self, t: Time) -> Tensor:
        # −α'/α with α = 1 − cos x: (π/2)(1−eps)·sin x/(1−cos x) = (π/2)(1−eps)·cot(x/2).
        return math.pi / 2 * (1 - self.eps) / torch.tan(self._angle(t) / 2)

    def time_of_sigma_bar(self, sigma_bar: Time) -> Tensor:
        value = as_time(sigma_bar)
        complement = -torch.expm1(-value)
        near_data = torch.asin(complement.clamp(0, 1))
        near_noise = math.pi / 2 - 2 * torch.asin((torch.exp(-value) / 2).clamp(0, 1).sqrt())
        phase = torch.where(complement < 0.5, near_data, near_noise)
        return (phase / (math.pi / 2 * (1 - self.eps))).clamp(0, 1)

    def one_minus_alpha(self, t: Time) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - self.eps) * as_time(t))

    def between(self, s: Time, t: Time) -> Tensor:
        s, t = as_time(s), as_time(t)
        # (α_s − α_t)/α_t by the product formula for a difference of cosines.
        end = self._angle(t)
        half_gap = math.pi / 4 * (1 - self.eps) * (t - s).clamp(min=0)
        rise = torch.sin(end + half_gap) * torch.sin(half_gap) / torch.sin(end / 2) ** 2
        return torch.log1p(rise)


@dataclass(frozen=True)
class Linear(Schedule):
    """σ̄(t) = σmax·t: a constant rate (σmin is the offset at 0+, 0 by default)."""

    sigma_max: float = 10.0
    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        require(
            0 <= self.sigma_min < self.sigma_max < math.inf,
            f"Linear needs 0 <= sigma_min < sigma_max, got {self.sigma_min}, {self.sigma_max}",
        )

    def sigma_bar(self, t: Time) -> Tensor:
        return self.sigma_min + (self.sigma_max - self.sigma_min) * as_time(t)

    def sigma(self, t: Time) -> Tensor:
        return torch.full_like(as_time(t), self.sigma_max - self.sigma_min)

    def time_of_sigma_bar(self, sigma_bar: Time) -> Tensor:
        return ((as_time(sigma_bar) - self.sigma_min) / (self.sigma_max - self.sigma_min)).clamp(
            0, 1
        )

    def between(self, s: Time, t: Time) -> Tensor:
        s, t = as_time(s), as_time(t)
        inside = (self.sigma_max - self.sigma_min) * (t - s).clamp(min=0)
        return torch.where(s > 0, inside, self.level(t))


def schedule_from_config(config: dict[str, Any]) -> Schedule:
    """Rebuild a schedule from :meth:`Schedule.config`."""
    options = dict(config)
    return SCHEDULES.named(options.pop("name", None))(**options)


def _remaining(t: Tensor, eps: float) -> Tensor:
    """1 − (1−eps)·t as (1−t) + eps·t: the first difference is exact in floating point near 1."""
    return (1 - t) + eps * t
