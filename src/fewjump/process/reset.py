"""Processes that forget: with rate σ(t) a position is redrawn from a prior π.

Q = 1πᵀ − I gives P_{t|s} = α·I + (1−α)·1πᵀ with α = exp(−σ̄(s,t)) (METHOD section 1). Uniform noise
is π = 1/V, masking is π = e_mask. Every operation here costs O(V) per position and none builds a
V×V matrix, except :meth:`kernel` and :meth:`base_rate`, which are for small V and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewjump.process.base import Process, check_dense, check_times, close_rates, expand_time
from fewjump.random import Generator, bernoulli, invert_shared_cdf, uniform
from fewjump.schedule import Schedule, Time, as_time


class ReverseCoefficients(NamedTuple):
    """A reset process's reverse step, as numbers per position.

    For y ≠ x_t: Pr(x_s = y | x_t) = data·p(y) + C·π_y, where p is the posterior of x₀ and
    C = prior·(1 − p(x_t)) + prior_self·p(x_t). All tensors broadcast over the state.
    """

    data: Tensor
    prior: Tensor
    prior_self: Tensor


class ResetToPrior(Process):
    """Redraw each position from a fixed prior at rate σ(t).

    Args:
        prior: (V,) non-negative, summing to 1 within 1e-6 (normalised in float64).
        schedule: the noise schedule.

    Raises:
        ValueError: if ``prior`` is not a probability vector.
    """

    def __init__(self, prior: Tensor, schedule: Schedule) -> None:
        prior = torch.as_tensor(prior).detach().cpu().double()
        if prior.dim() != 1 or prior.numel() < 2:
            raise ValueError(f"prior must be a vector of at least 2 entries, got {prior.shape}")
        total = float(prior.sum())
        if bool((prior < 0).any()) or not abs(total - 1) < 1e-6:
            raise ValueError(f"prior must be non-negative and sum to 1; its sum is {total:.6g}")
        self.vocab_size = prior.numel()
        self.schedule = schedule
        # A vector that is normalised already is kept to the last bit: config round trips.
        self._prior = prior if abs(total - 1) < 1e-12 else prior / total
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, schedule={self.schedule})"

    def config(self) -> dict[str, Any]:
        return {
            "name": "ResetToPrior",
            "prior": self._prior.tolist(),
            "schedule": self.schedule.config(),
        }

    def prior(self) -> Tensor:
        return self._prior

    def _prior_on(self, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
        """The prior on a device, copied there once."""
        if (device, dtype) not in self._copies:
            # A copy made under inference mode could not take part in a later backward pass.
            with torch.inference_mode(False):
                self._copies[device, dtype] = self._prior.to(device, dtype)
        return self._copies[device, dtype]

    def base_rate(self) -> Tensor:
        check_dense(self.vocab_size)
        eye = torch.eye(self.vocab_size, dtype=torch.float64)
        return self._prior.expand(self.vocab_size, -1) - eye

    def kernel(self, s: Time, t: Time) -> Tensor:
        check_times(s, t)
        gap = self.schedule.between(s, t).double()[..., None, None]
        check_dense(self.vocab_size, gap.numel())
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=gap.device)
        return torch.exp(-gap) * eye - torch.expm1(-gap) * self._prior_on(gap.device)

    # -- forward ----------------------------------------------------------------------------

    def _keep(self, s: Time, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        """(α, 1−α) of P_{t|s} in float64, shaped to broadcast over ``x``."""
        check_times(s, t)
        s, t = as_time(s, x.device).double(), as_time(t, x.device).double()
        gap = expand_time(self.schedule.between(s, t), x)
        return torch.exp(-gap), -torch.expm1(-gap)

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        _, forget = self._keep(s, t, x)
        redrawn = self.prior_sample(x.shape, generator, x.device)
        return torch.where(bernoulli(forget.expand(x.shape), generator), redrawn, x)

    def prior_sample(
        self,
        shape: Sequence[int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        u = uniform(shape, generator, device)
        return invert_shared_cdf(self._prior_on(u.device), u)

    def _prior_at(self, x: Tensor) -> Tensor:
        return self._prior_on(x.device)[x]

    def likelihood(self, x_t: Tensor, t: Time) -> Tensor:
        keep, forget = self._keep(0.0, t, x_t)
        elsewhere = (forget * self._prior_at(x_t))[..., None]
        out = elsewhere.expand(*x_t.shape, self.vocab_size).contiguous()
        return out.scatter_(-1, x_t[..., None], elsewhere + keep[..., None].expand_as(elsewhere))

    # -- backward ---------------------------------------------------------------------------

    def reverse_coefficients(self, x_t: Tensor, s: Time, t: Time) -> ReverseCoefficients:
        """The numbers of one reverse step; see :class:`ReverseCoefficients`. Float64, (B, L)."""
        keep_s, forget_s = self._keep(0.0, s, x_t)
        keep_t, forget_t = self._keep(0.0, t, x_t)
        _, forget_ts = self._keep(s, t, x_t)
        prior_x = self._prior_at(x_t)
        safe = torch.where(forget_t > 0, forget_t, 1.0)
        self_likelihood = keep_t + forget_t * prior_x
        return ReverseCoefficients(
            data=(forget_ts * keep_s / safe).expand(x_t.shape),
            prior=(forget_ts * forget_s / safe).expand(x_t.shape),
            prior_self=forget_ts
            * forget_s
            * prior_x
            / torch.where(self_likelihood > 0, self_likelihood, 1.0),
        )

    def reverse_marginals(self, posterior: Tensor, x_t: Tensor, s: Time, t: Time) -> Tensor:
        data, prior, prior_self = self.reverse_coefficients(x_t, s, t)
        index = x_t[..., None]
        p_x = posterior.gather(-1, index)[..., 0].double()
        toward_prior = prior * (1 - p_x) + prior_self * p_x
        # A position whose token the prior cannot produce is visible: it was never redrawn.
        visible = self._prior_at(x_t) == 0
        data = torch.where(visible, 0.0, data)
        toward_prior = torch.where(visible, 0.0, toward_prior)
        out = posterior * data[..., None].to(posterior.dtype)
        out.addcmul_(
            toward_prior[..., None].to(posterior.dtype),
            self._prior_on(posterior.device, posterior.dtype),
        )
        leave = data * (1 - p_x) + toward_prior * (1 - self._prior_at(x_t))
        return out.scatter_(-1, index, (1 - leave)[..., None].to(posterior.dtype))

    def bridge_marginals(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> Tensor:
        certain = torch.zeros(*x_t.shape, self.vocab_size, dtype=torch.float64, device=x_t.device)
        return self.reverse_marginals(certain.scatter_(-1, x0[..., None], 1.0), x_t, s, t)

    def bridge(
        self, x_t: Tensor, x0: Tensor, s: Time, t: Time, generator: Generator = None
    ) -> Tensor:
        # With x₀ known the step is a three-way choice: stay at x_t, go to x₀, or redraw from π.
        data, prior, prior_self = self.reverse_coefficients(x_t, s, t)
        visible = self._prior_at(x_t) == 0
        same = x_t == x0
        to_data = torch.where(visible | same, 0.0, data)
        to_prior = torch.where(visible, 0.0, torch.where(same, prior_self, prior))
        u = uniform(x_t.shape, generator, x_t.device)
        redrawn = self.prior_sample(x_t.shape, generator, x_t.device)
        moved = torch.where(u < to_data + to_prior, redrawn, x_t)
        return torch.where(u < to_data, x0, moved)

    def reverse_rates(self, ratios: Tensor, x_t: Tensor, t: Time) -> Tensor:
        # Q[y, x] = π_x for y ≠ x: one number per position.
        scale = expand_time(self.schedule.sigma(as_time(t, x_t.device)).double(), x_t)
        scale = (scale * self._prior_at(x_t)).expand(x_t.shape)
        return close_rates(ratios * scale[..., None].to(ratios.dtype), x_t)

    # -- ratios and posteriors --------------------------------------------------------------

    def _times_kernel(self, rows: Tensor, t: Time, x: Tensor) -> Tensor:
        """rows @ P_{t|0} in O(V): α·rows + (1−α)·π·Σrows."""
        keep, forget = self._keep(0.0, t, x)
        total = rows.sum(-1, keepdim=True) * forget.to(rows.dtype)[..., None]
        return rows * keep.to(rows.dtype)[..., None] + total * self._prior_on(
            rows.device, rows.dtype
        )

    def ratios_from_posterior(self, posterior: Tensor, x_t: Tensor, t: Time) -> Tensor:
        # Weights reach V/(1−α), too much for float16.
        wide = posterior.float() if posterior.dtype.itemsize < 4 else posterior
        weights = self.posterior_weights(wide, x_t, t)
        return self._times_kernel(weights, t, x_t).to(posterior.dtype)

    def push_weights(self, weights: Tensor, t: Time) -> Tensor:
        return self._times_kernel(weights, t, weights[..., 0])

    def pull_weights(self, ratios: Tensor, t: Time) -> Tensor:
        keep, forget = self._keep(0.0, t, ratios[..., 0])
        average = (ratios * self._prior_on(ratios.device, ratios.dtype)).sum(-1, keepdim=True)
        return (
            ratios * keep.to(ratios.dtype)[..., None] + average * forget.to(ratios.dtype)[..., None]
        )

    def weights_from_ratios(self, ratios: Tensor, t: Time) -> Tensor:
        # w = (r − (1−α)·π·Σr)/α, since Σr = Σw (METHOD section 2.2).
        ratios = ratios.double()
        keep, forget = self._keep(0.0, t, ratios[..., 0])
        total = ratios.sum(-1, keepdim=True) * forget[..., None]
        return (ratios - total * self._prior_on(ratios.device)) / keep[..., None]

    def condition_number(self, t: Time) -> Tensor:
        """σ_max/σ_min of α·I + (1−α)·1πᵀ, in O(V).

        The map is α on the orthogonal complement of span{1, π}; on that plane it is a 2×2 matrix
        whose singular values have product α·(α + (1−α)) = α (its determinant) and squared sum
        equal to the plane's share of the Frobenius norm.
        """
        alpha = self.schedule.alpha(t).double()
        forget = self.schedule.one_minus_alpha(t).double()
        # a² + b² = 2α + c and a·b = α for the plane's two singular values, c = (1−α)²·V·Σπ².
        excess = forget**2 * self.vocab_size * float((self._prior**2).sum())
        spread = (excess * (excess + 4 * alpha)).sqrt()
        largest = ((2 * alpha + excess + spread) / 2).sqrt()
        smallest = alpha / largest
        if self.vocab_size > 2:
            largest, smallest = torch.maximum(largest, alpha), torch.minimum(smallest, alpha)
        return largest / smallest


class Uniform(ResetToPrior):
    """Uniform noise: each position is redrawn uniformly from all V tokens.

    Args:
        vocab_size: number of tokens V.
        schedule: the noise schedule.
    """

    def __init__(self, vocab_size: int, schedule: Schedule) -> None:
        _check_vocab(vocab_size)
        super().__init__(torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64), schedule)

    def config(self) -> dict[str, Any]:
        return {
            "name": "Uniform",
            "vocab_size": self.vocab_size,
            "schedule": self.schedule.config(),
        }

    def prior_sample(
        self,
        shape: Sequence[int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        draw = uniform(shape, generator, device) * self.vocab_size
        return draw.long().clamp_(max=self.vocab_size - 1)


class Absorbing(ResetToPrior):
    """Masking: each position is replaced by the mask token and stays there.

    Args:
        vocab_size: number of states, the mask included.
        schedule: the noise schedule.
        mask: index of the mask token; the last one by default.
    """

    def __init__(self, vocab_size: int, schedule: Schedule, mask: int | None = None) -> None:
        _check_vocab(vocab_size)
        mask = vocab_size - 1 if mask is None else mask
        if not 0 <= mask < vocab_size:
            raise ValueError(f"mask must lie in [0, {vocab_size}), got {mask}")
        prior = torch.zeros(vocab_size, dtype=torch.float64)
        prior[mask] = 1
        super().__init__(prior, schedule)
        self.mask = mask

    def config(self) -> dict[str, Any]:
        return {
            "name": "Absorbing",
            "vocab_size": self.vocab_size,
            "mask": self.mask,
            "schedule": self.schedule.config(),
        }

    def prior_sample(
        self,
        shape: Sequence[int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return torch.full(tuple(shape), self.mask, dtype=torch.int64, device=device)


def _check_vocab(vocab_size: int) -> None:
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
