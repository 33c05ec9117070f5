"""Processes that forget: at rate σ(t) a position is redrawn from a law π_t, whatever it held.

Q_t = σ(t)·(1π_tᵀ − I) gives P_{t|s} = α·I + 1βᵀ with α = exp(−σ̄(s,t)) and
β_{t|s} = ∫ₛᵗ σ(u)·exp(−σ̄(u,t))·π_u du, which sums to 1 − α (METHOD section 1). β is handled as
(1−α)·m, m the *law of a redrawn position*: what it shows at t, given that it was redrawn since s. A
prior that stands still has m = π.

Every operation here costs O(V) per position (or per element of the batch, where m differs between
them), except :meth:`RankOneKernel.dense` and :meth:`RankOne.rate`, which build a V×V matrix.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fewjump.process.base import Process, kept_in_range
from fewjump.process.bridge import (
    Bridge,
    RankOneBridge,
    RatioCoefficients,
    ReverseCoefficients,
)
from fewjump.process.kernel import (
    MOST_NOISE,
    Kernel,
    SingularKernelError,
    check_dense,
    checked_times,
    expand_time,
)
from fewjump.process.redraw_law import RedrawLaw
from fewjump.random import Generator, bernoulli
from fewjump.schedule import Time, as_time


class RankOneKernel(Kernel):
    """α·I + (1−α)·1mᵀ on the tokens that are noised, and the identity on the kept ones.

    Args:
        gap: noise σ̄(s, t) between the times, () or (B,) float64; α = e^{−gap}.
        redrawn: m, with no mass on kept tokens.
        kept: the kept tokens.
    """

    least_dtype = torch.float32  # Weights reach V/(1−α), too much for float16.
    dense_up_to = 0

    def __init__(self, gap: Tensor, redrawn: RedrawLaw, kept: tuple[int, ...] = ()) -> None:
        self.keep, self.forget = torch.exp(-gap), -torch.expm1(-gap)
        self.redrawn, self.kept = redrawn, kept
        self.vocab_size = redrawn.weights.shape[-1]

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(α, 1−α), shaped to broadcast over ``x``."""
        return expand_time(self.keep, x), expand_time(self.forget, x)

    def _kept_index(self, device: torch.device) -> Tensor:
        return torch.tensor(self.kept, dtype=torch.int64, device=device)

    def _without_kept(self, rows: Tensor) -> Tensor:
        """(..., V) with 0 at kept tokens."""
        return rows.index_fill(-1, self._kept_index(rows.device), 0.0) if self.kept else rows

    def _with_kept(self, rows: Tensor, source: Tensor) -> Tensor:
        """(..., V) with the entries of ``source`` at kept tokens; overwrites ``rows``."""
        if self.kept:
            index = self._kept_index(rows.device)
            rows[..., index] = source[..., index].to(rows.dtype)
        return rows

    # -- the forward chain ------------------------------------------------------------------

    def dense(self) -> Tensor:
        check_dense(self.vocab_size, self.keep.numel())
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=self.keep.device)
        redrawn = self.redrawn.on(self.keep.device)[..., None, :]
        kernel = self.keep[..., None, None] * eye + self.forget[..., None, None] * redrawn
        if self.kept:
            index = self._kept_index(kernel.device)
            kernel[..., index, :] = eye[index]
        return kernel

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        forget = expand_time(self.forget, x)
        redrawn = self.redrawn.sample(x.shape, generator, x.device)
        x_t = torch.where(bernoulli(forget.expand(x.shape), generator), redrawn, x)
        if not self.kept:
            return x_t
        return torch.where(torch.isin(x, self._kept_index(x.device)), x, x_t)

    def rows(self, x: Tensor) -> Tensor:
        keep, forget = (v[..., None] for v in self.beside(x))
        index = x[..., None]
        out = (forget * self.redrawn.beside(x)).expand(*x.shape, -1).contiguous()
        out = out.scatter_add_(-1, index, keep.expand(index.shape))
        if self.kept:
            kept = torch.isin(index, self._kept_index(x.device))
            out = torch.where(kept, torch.zeros_like(out).scatter_(-1, index, 1.0), out)
        return out

    def columns(self, x: Tensor) -> Tensor:
        elsewhere, here = self._two_columns(x)
        index = x[..., None]
        out = elsewhere.expand(*x.shape, self.vocab_size).contiguous()
        if self.kept:
            kept = self._kept_index(x.device)
            out = out.index_fill_(-1, kept, 0.0)
            here = torch.where(torch.isin(index, kept), 1.0, here)
        return out.scatter_(-1, index, here)

    def _two_columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """P[a, x], one number for all noised a but x, and the one at x: (..., 1) each."""
        keep, forget = self.beside(x)
        elsewhere = (forget * self.redrawn.at(x))[..., None]
        return elsewhere, elsewhere + keep[..., None].expand_as(elsewhere)

    # -- products ---------------------------------------------------------------------------

    def push(self, rows: Tensor) -> Tensor:
        x = rows[..., 0]
        keep, forget = self.beside(x)
        noised = self._without_kept(rows)
        total = noised.sum(-1, keepdim=True) * forget.to(rows.dtype)[..., None]
        redrawn = self.redrawn.beside(x, rows.dtype)
        moved = (total * redrawn).addcmul_(noised, keep.to(rows.dtype)[..., None])
        return self._with_kept(moved, rows)

    def pull(self, rows: Tensor) -> Tensor:
        x = rows[..., 0]
        keep, forget = (v.to(rows.dtype)[..., None] for v in self.beside(x))
        average = (rows * self.redrawn.beside(x, rows.dtype)).sum(-1, keepdim=True)
        return self._with_kept(rows * keep + average * forget, rows)

    def solve(self, rows: Tensor) -> Tensor:
        # w = (r − β·Σr)/α, since Σr = Σw (METHOD section 2.2).
        # Numbers on an accelerator are not read, since that would make it wait.
        if self.keep.device.type == "cpu" and bool((self.keep < math.exp(-MOST_NOISE)).any()):
            raise SingularKernelError("is singular in float64")
        x = rows[..., 0]
        keep, forget = self.beside(x)
        noised = self._without_kept(rows)
        total = noised.sum(-1, keepdim=True, dtype=torch.float64) * -forget[..., None]
        # In place: a tensor of this size is dearer to make than to write to.
        weights = (total * self.redrawn.beside(x)).add_(noised).div_(keep[..., None])
        return self._with_kept(weights, rows)

    def times_columns(self, weights: Tensor, x: Tensor) -> Tensor:
        if self.kept:
            return super().times_columns(weights, x)
        elsewhere, here = (values.reshape(-1, 1) for values in self._two_columns(x))
        rows = weights.reshape(-1, self.vocab_size)
        # By index, which unlike a gather leaves nothing to keep for a backward pass.
        place = torch.arange(rows.shape[0], device=rows.device), x.reshape(-1)
        here = rows[place] * here[:, 0]
        rows.mul_(elsewhere)[place] = here
        return rows.reshape(weights.shape)

    def condition_number(self) -> Tensor:
        """σ_max/σ_min of α·I + (1−α)·1mᵀ on the tokens that are noised, in O(V).

        The map is α on the orthogonal complement of span{1, m}; on that plane it is a 2×2 matrix
        whose singular values have product α·(α + (1−α)) = α (its determinant) and squared sum
        equal to the plane's share of the Frobenius norm.
        """
        alpha, noised = self.keep, self.vocab_size - len(self.kept)
        # a² + b² = 2α + c and a·b = α for the plane's two singular values, c = (1−α)²·V·Σm².
        spread = (self.redrawn.on(alpha.device) ** 2).sum(-1)
        excess = self.forget**2 * noised * spread
        gap = (excess * (excess + 4 * alpha)).sqrt()
        largest = ((2 * alpha + excess + gap) / 2).sqrt()
        smallest = alpha / largest
        if noised > 2:
            largest, smallest = torch.maximum(largest, alpha), torch.minimum(smallest, alpha)
        return largest / smallest

    def row_entropies(self) -> Tensor:
        keep, forget = self.keep[..., None], self.forget[..., None]
        redrawn = forget * self.redrawn.on(forget.device)
        terms = torch.special.entr(redrawn)
        rows = terms.sum(-1, keepdim=True) - terms + torch.special.entr(redrawn + keep)
        return rows.index_fill(-1, self._kept_index(rows.device), 0.0)

    # -- the reverse chain ------------------------------------------------------------------

    def bridge(self, before: Kernel, whole: Kernel, x_t: Tensor) -> Bridge:
        assert isinstance(before, RankOneKernel)
        assert isinstance(whole, RankOneKernel)
        keep, forget = self.beside(x_t)
        entered = forget * self.redrawn.at(x_t)
        coefficients = reverse_coefficients(entered, before, whole, x_t)
        by_ratios = RatioCoefficients(entered / keep, forget, self.redrawn, self.kept)
        return RankOneBridge(coefficients, by_ratios, x_t)


def reverse_coefficients(
    entered: Tensor, before: RankOneKernel, whole: RankOneKernel, x_t: Tensor
) -> ReverseCoefficients:
    """The numbers of a reverse step, or of reverse rates.

    Args:
        entered: probability (or rate) of x_t being drawn in the step, for each position.
        before: P_{s|0}; for rates P_{t|0}.
        whole: P_{t|0}.
        x_t: (B, ...) int64.
    """
    keep_t, from_prior = whole.beside(x_t)
    from_prior = from_prior * whole.redrawn.at(x_t)
    possible = from_prior > 0
    share = torch.where(possible, entered / torch.where(possible, from_prior, 1.0), 0.0)
    share_self = torch.where(possible, entered / (keep_t + from_prior), 0.0)
    keep, forget = before.beside(x_t)
    return ReverseCoefficients(share * keep, share * forget, share_self * forget, before.redrawn)


class RankOne(Process):
    """A process with kernel α·I + (1−α)·1mᵀ on the tokens that it does not keep."""

    rows_apart = True

    @abstractmethod
    def redrawn(self, s: Tensor, t: Tensor) -> RedrawLaw:
        """m_{t|s}, the law at t of a position redrawn between s and t, for float64 times.

        At s = t it is :meth:`redraws_from`.
        """

    @abstractmethod
    def redraws_from(self, t: Time) -> RedrawLaw:
        """π_t, the law a position is redrawn from at time t."""

    @abstractmethod
    def limit(self) -> RedrawLaw:
        """The law at t = 1 of a position that was redrawn at all."""

    def _keep_tokens(self, kept: Iterable[int]) -> None:
        """Set :attr:`kept`; ValueError if fewer than two tokens are left to noise."""
        tokens = kept_in_range(kept, self.vocab_size)
        if self.vocab_size - len(tokens) < 2:
            raise ValueError(
                f"{len(tokens)} of {self.vocab_size} tokens are kept; noise needs at least two"
            )
        self.kept = tokens

    def kernel(self, s: Time, t: Time) -> RankOneKernel:
        s, t = checked_times(s, t)
        return RankOneKernel(self.schedule.between(s, t), self.redrawn(s, t), self.kept)

    def prior(self) -> Tensor:
        return self.limit().on()

    def prior_sample(
        self,
        shape: Sequence[int],
        generator: Generator = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.limit().sample(shape, generator, device)

    def rate(self, t: Time) -> Tensor:
        sigma = self.schedule.sigma(t).double()[..., None, None]
        check_dense(self.vocab_size, sigma.numel())
        eye = torch.eye(self.vocab_size, dtype=torch.float64, device=sigma.device)
        rate = sigma * (self.redraws_from(t).on(sigma.device)[..., None, :] - eye)
        rate[..., list(self.kept), :] = 0
        return rate

    def rate_columns(self, x: Tensor, t: Time) -> Tensor:
        # Q[y, x] = π_x for y ≠ x: one number per position.
        return self._entered(x, t).expand(x.shape)[..., None]

    def rate_coefficients(self, x_t: Tensor, t: Time) -> ReverseCoefficients:
        whole = self.kernel(0.0, t)
        return reverse_coefficients(self._entered(x_t, t), whole, whole, x_t)

    def rates_by_ratios(self, x_t: Tensor, t: Time) -> RatioCoefficients:
        law = self.redraws_from(as_time(t, x_t.device))
        scale = self._entered(x_t, t)
        return RatioCoefficients(scale, torch.zeros_like(scale), law, self.kept)

    def _entered(self, x: Tensor, t: Time) -> Tensor:
        """The rate σ·π_x at which a redrawn position shows what it shows."""
        sigma = expand_time(self.schedule.sigma(as_time(t, x.device)).double(), x)
        return sigma * self.redraws_from(as_time(t, x.device)).at(x)
