"""Processes that forget: at rate σ(t) a position is redrawn from a law π_t, whatever it held.

Q_t = σ(t)·(1π_tᵀ − I) gives P_{t|s} = α·I + 1βᵀ with α = exp(−σ̄(s,t)) and
β_{t|s} = ∫ₛᵗ σ(u)·exp(−σ̄(u,t))·π_u du, which sums to 1 − α (METHOD section 1). If π moves, the Q_t
do not commute, and the kernel keeps this form all the same. β is handled as (1−α)·m, m the *law of
a redrawn position*: what it shows at t, given that it was redrawn since s. A prior that stands
still has m = π.

Every operation here costs O(V) per position (or per element of the batch, where m differs between
them) and none builds a V×V matrix, except :meth:`RankOne.kernel` and :meth:`RankOne.rate`, which
are for small V and for tests.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewjump.process.base import Process, check_dense, check_times, close_rates, expand_time
from fewjump.random import Generator, bernoulli, invert_shared_cdf, uniform
from fewjump.schedule import Time, as_time


class ReverseCoefficients(NamedTuple):
    """A reverse step, or the rates of the reverse chain, as numbers per position.

    For y ≠ x_t: Pr(x_s = y | x_t) = data·p(y) + C·m(y), where p is the posterior of x₀, m the law
    of a position redrawn between 0 and s (for rates: and t), and
    C = prior·(1 − p(x_t)) + prior_self·p(x_t). All are 0 at a token that cannot have been redrawn:
    such a position is visible. All tensors broadcast over the state.
    """

    data: Tensor
    prior: Tensor
    prior_self: Tensor


class RankOne(Process):
    """A process with kernel α·I + (1−α)·1mᵀ."""

    rows_apart = True

    @abstractmethod
    def redrawn(
        self,
        s: Time,
        t: Time,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """m_{t|s}, the law at t of a position redrawn between s and t: (V,), or (B, V).

        At s = t it is :meth:`redraws_from`.
        """

    @abstractmethod
    def redraws_from(self, t: Time, device: torch.device | str | None = None) -> Tensor:
        """π_t, the law a position is redrawn from at time t: (V,), or (B, V), float64."""

    def prior_on(self, device: torch.device | str | None = None) -> Tensor:
        """The limit law on a device: (V,) float64."""
        return self.redrawn(0.0, 1.0, device)

    def prior(self) -> Tensor:
        return self.prior_on()

    def rate(self, t: Time) -> Tensor:
        sigma = self.schedule.sigma(t).double()[..., None, None]
        check_dense(self.vocab_size, sigma.numel())
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=sigma.device)
        return sigma * (self.redraws_from(t, sigma.device)[..., None, :] - eye)

    def kernel(self, s: Time, t: Time) -> Tensor:
        check_times(s, t)
        gap = self.schedule.between(s, t).double()[..., None, None]
        check_dense(self.vocab_size, gap.numel())
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=gap.device)
        redrawn = self.redrawn(s, t, gap.device)[..., None, :]
        return torch.exp(-gap) * eye - torch.expm1(-gap) * redrawn

    def _noised_count(self) -> int:
        """How many tokens the noise mixes."""
        return self.vocab_size

    # -- forward ----------------------------------------------------------------------------

    def _keep(self, s: Time, t: Time, x: Tensor) -> tuple[Tensor, Tensor]:
        """(α, 1−α) of P_{t|s} in float64, shaped to broadcast over ``x``."""
        check_times(s, t)
        s, t = as_time(s, x.device).double(), as_time(t, x.device).double()
        gap = expand_time(self.schedule.between(s, t), x)
        return torch.exp(-gap), -torch.expm1(-gap)

    def _draw_redrawn(
        self, s: Time, t: Time, shape: torch.Size, generator: Generator, device: torch.device
    ) -> Tensor:
        """Tokens of positions redrawn between s and t: of ``shape``, int64."""
        return _invert(self.redrawn(s, t, device), uniform(shape, generator, device))

    def corrupt(self, x: Tensor, s: Time, t: Time, generator: Generator = None) -> Tensor:
        _, forget = self._keep(s, t, x)
        redrawn = self._draw_redrawn(s, t, x.shape, generator, x.device)
        return torch.where(bernoulli(forget.expand(x.shape), generator), redrawn, x)

    def prior_sample(
        self,
        shape: Sequence[int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        u = uniform(shape, generator, device)
        return invert_shared_cdf(self.prior_on(u.device), u)

    def likelihood(self, x_t: Tensor, t: Time) -> Tensor:
        elsewhere, here = self._likelihoods(x_t, t)
        out = elsewhere.expand(*x_t.shape, self.vocab_size).contiguous()
        return out.scatter_(-1, x_t[..., None], here)

    def _likelihoods(self, x_t: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """P_{t|0}[a, x_t], one number for all a but x_t, and the one at x_t: (B, L, 1) each."""
        keep, forget = self._keep(0.0, t, x_t)
        elsewhere = (forget * look_up(self.redrawn(0.0, t, x_t.device), x_t))[..., None]
        return elsewhere, elsewhere + keep[..., None].expand_as(elsewhere)

    # -- backward ---------------------------------------------------------------------------

    def reverse_coefficients(self, x_t: Tensor, s: Time, t: Time) -> ReverseCoefficients:
        """The numbers of one reverse step; see :class:`ReverseCoefficients`. Float64, (B, L)."""
        keep_s, forget_s = self._keep(0.0, s, x_t)
        _, forget_ts = self._keep(s, t, x_t)
        entered = forget_ts * look_up(self.redrawn(s, t, x_t.device), x_t)
        return self._coefficients(entered, keep_s, forget_s, x_t, t)

    def rate_coefficients(self, x_t: Tensor, t: Time) -> ReverseCoefficients:
        """The same numbers for the rates of the reverse chain at t. Float64, (B, L)."""
        sigma = expand_time(self.schedule.sigma(as_time(t, x_t.device)).double(), x_t)
        entered = sigma * look_up(self.redraws_from(t, x_t.device), x_t)
        return self._coefficients(entered, *self._keep(0.0, t, x_t), x_t, t)

    def _coefficients(
        self, entered: Tensor, keep: Tensor, forget: Tensor, x_t: Tensor, t: Time
    ) -> ReverseCoefficients:
        """``entered``: probability (or rate) of x_t being drawn in the step; α, 1−α before it."""
        keep_t, forget_t = self._keep(0.0, t, x_t)
        from_prior = forget_t * look_up(self.redrawn(0.0, t, x_t.device), x_t)
        possible = from_prior > 0
        share = torch.where(possible, entered / torch.where(possible, from_prior, 1.0), 0.0)
        share_self = torch.where(possible, entered / (keep_t + from_prior), 0.0)
        return ReverseCoefficients(share * keep, share * forget, share_self * forget)

    def reverse_marginals(self, posterior: Tensor, x_t: Tensor, s: Time, t: Time) -> Tensor:
        data, prior, prior_self = self.reverse_coefficients(x_t, s, t)
        index = x_t[..., None]
        p_x = posterior.gather(-1, index)[..., 0].double()
        toward_prior = prior * (1 - p_x) + prior_self * p_x
        out = posterior * data[..., None].to(posterior.dtype)
        row = _beside(self.redrawn(0.0, s, posterior.device, posterior.dtype), x_t)
        out.addcmul_(toward_prior[..., None].to(posterior.dtype), row)
        here = look_up(self.redrawn(0.0, s, x_t.device), x_t)
        leave = data * (1 - p_x) + toward_prior * (1 - here)
        return out.scatter_(-1, index, (1 - leave)[..., None].to(posterior.dtype))

    def bridge_marginals(self, x_t: Tensor, x0: Tensor, s: Time, t: Time) -> Tensor:
        certain = torch.zeros(*x_t.shape, self.vocab_size, dtype=torch.float64, device=x_t.device)
        return self.reverse_marginals(certain.scatter_(-1, x0[..., None], 1.0), x_t, s, t)

    def bridge(
        self, x_t: Tensor, x0: Tensor, s: Time, t: Time, generator: Generator = None
    ) -> Tensor:
        # With x₀ known the step is a three-way choice: stay at x_t, go to x₀, or be redrawn.
        data, prior, prior_self = self.reverse_coefficients(x_t, s, t)
        same = x_t == x0
        to_data = torch.where(same, 0.0, data)
        to_prior = torch.where(same, prior_self, prior)
        u = uniform(x_t.shape, generator, x_t.device)
        redrawn = self._draw_redrawn(0.0, s, x_t.shape, generator, x_t.device)
        moved = torch.where(u < to_data + to_prior, redrawn, x_t)
        return torch.where(u < to_data, x0, moved)

    def reverse_rates(self, ratios: Tensor, x_t: Tensor, t: Time) -> Tensor:
        # Q[y, x] = π_x for y ≠ x: one number per position.
        scale = expand_time(self.schedule.sigma(as_time(t, x_t.device)).double(), x_t)
        scale = (scale * look_up(self.redraws_from(t, x_t.device), x_t)).expand(x_t.shape)
        return close_rates(ratios * scale[..., None].to(ratios.dtype), x_t)

    # -- ratios and posteriors --------------------------------------------------------------

    def _times_kernel(self, rows: Tensor, t: Time, x: Tensor) -> Tensor:
        """rows @ P_{t|0} in O(V): α·rows + β·Σrows."""
        keep, forget = self._keep(0.0, t, x)
        total = rows.sum(-1, keepdim=True) * forget.to(rows.dtype)[..., None]
        redrawn = _beside(self.redrawn(0.0, t, rows.device, rows.dtype), x)
        return (total * redrawn).addcmul_(rows, keep.to(rows.dtype)[..., None])

    def ratios_from_posterior(self, posterior: Tensor, x_t: Tensor, t: Time) -> Tensor:
        # Weights reach V/(1−α), too much for float16.
        wide = posterior.float() if posterior.dtype.itemsize < 4 else posterior
        weights = self.posterior_weights(wide, x_t, t)
        return self._times_kernel(weights, t, x_t).to(posterior.dtype)

    def push_weights(self, weights: Tensor, t: Time) -> Tensor:
        return self._times_kernel(weights, t, weights[..., 0])

    def pull_weights(self, ratios: Tensor, t: Time) -> Tensor:
        x = ratios[..., 0]
        keep, forget = self._keep(0.0, t, x)
        redrawn = _beside(self.redrawn(0.0, t, ratios.device, ratios.dtype), x)
        average = (ratios * redrawn).sum(-1, keepdim=True)
        return (
            ratios * keep.to(ratios.dtype)[..., None] + average * forget.to(ratios.dtype)[..., None]
        )

    def weights_from_ratios(self, ratios: Tensor, t: Time) -> Tensor:
        # w = (r − β·Σr)/α, since Σr = Σw (METHOD section 2.2).
        x = ratios[..., 0]
        keep, forget = self._keep(0.0, t, x)
        total = ratios.sum(-1, keepdim=True, dtype=torch.float64) * -forget[..., None]
        # In place: a tensor of this size is dearer to make than to write to.
        weights = total * _beside(self.redrawn(0.0, t, ratios.device), x)
        return weights.add_(ratios).div_(keep[..., None])

    def closed_posterior(self, ratios: Tensor, x_t: Tensor, t: Time) -> Tensor:
        elsewhere, here = (values.reshape(-1, 1) for values in self._likelihoods(x_t, t))
        rows = self.weights_from_ratios(ratios, t).reshape(-1, self.vocab_size)
        # By index, which unlike a gather leaves nothing to keep for a backward pass.
        place = torch.arange(rows.shape[0], device=rows.device), x_t.reshape(-1)
        here = rows[place] * here[:, 0]
        rows.mul_(elsewhere)[place] = here
        return rows.reshape(ratios.shape)

    def condition_number(self, t: Time) -> Tensor:
        """σ_max/σ_min of α·I + (1−α)·1mᵀ on the tokens that are noised, in O(V).

        The map is α on the orthogonal complement of span{1, m}; on that plane it is a 2×2 matrix
        whose singular values have product α·(α + (1−α)) = α (its determinant) and squared sum
        equal to the plane's share of the Frobenius norm.
        """
        alpha = self.schedule.alpha(t).double()
        forget = self.schedule.one_minus_alpha(t).double()
        # a² + b² = 2α + c and a·b = α for the plane's two singular values, c = (1−α)²·V·Σm².
        spread = (self.redrawn(0.0, t, alpha.device) ** 2).sum(-1)
        excess = forget**2 * self._noised_count() * spread
        gap = (excess * (excess + 4 * alpha)).sqrt()
        largest = ((2 * alpha + excess + gap) / 2).sqrt()
        smallest = alpha / largest
        if self._noised_count() > 2:
            largest, smallest = torch.maximum(largest, alpha), torch.minimum(smallest, alpha)
        return largest / smallest


def look_up(table: Tensor, x: Tensor) -> Tensor:
    """Entries of (V,), or of one row of (B, V) per element of the batch, at tokens (B, ...)."""
    if table.dim() == 1:
        return table[x]
    return table.gather(1, x.reshape(x.shape[0], -1)).reshape(x.shape)


def _beside(table: Tensor, x: Tensor) -> Tensor:
    """(V,) or (B, V) shaped to broadcast with (B, ..., V) for states (B, ...)."""
    if table.dim() == 1:
        return table
    return table.reshape(table.shape[0], *(1,) * (x.dim() - 1), table.shape[1])


def _invert(table: Tensor, u: Tensor) -> Tensor:
    """Tokens drawn from (V,), or from one row of (B, V) per element, for uniforms (B, ...)."""
    if table.dim() == 1:
        return invert_shared_cdf(table, u)
    cumulative = table.cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    last = torch.searchsorted(cumulative, total)
    target = u.reshape(u.shape[0], -1) * total
    return torch.searchsorted(cumulative, target, right=True).minimum(last).reshape(u.shape)
