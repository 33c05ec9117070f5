"""From concrete scores to posteriors (paper Eq. 8), with the damage reported.

r = P_{t|0}ᵀ w and p(a) = P_{t|0}[a, x]·w(a). Inverting P_{t|0}ᵀ amplifies an error of the scores by
about 1/α(t). With V = 1000, uniform noise and 1% error of the scores the L1 error of p is about
0.016 at α = 0.5 and 0.8 at α = 0.01. Of the 0.8 clipping and the multiplicative iterations leave
about 0.55; the projection leaves 0.17 where the posterior is peaked.

When not to trust it:

* ``exact`` with a trained score below α ≈ 0.05: its entries are then mostly noise, and
  :attr:`Recovery.clipped_mass` says how much of it fell below zero (a tenth is a reason to stop);
* a ``condition_number`` c with scores of relative error e where c·e approaches 1;
* any method at positions where α is so small that x_t says nothing about x₀: the ratios carry the
  posterior in their last digits only.

The methods that keep p ≥ 0 always return a distribution, not always the right one. Prefer a
teacher that gives posteriors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from fewjump.inversion import row_chunks
from fewjump.process.kernel import Kernel, SingularKernelError
from fewjump.schedule import Time, as_time

RecoveryMethod = Literal["exact", "clip", "project", "multiplicative"]
MULTIPLICATIVE_ITERATIONS = 200
CHUNK_ELEMENTS = 1 << 24
# Of a process with Process.rows_apart: float64 temporaries of 2 MiB stay near the processor, where
# larger ones are mapped, and their pages cleared, anew in every operation.
NEAR_ELEMENTS = 1 << 18


class Recovery(NamedTuple):
    """Result of :meth:`~fewjump.process.Process.recover`.

    Attributes:
        posterior: (B, L, V). Method ``exact`` returns the closed form as it is: it sums to 1 for
            exact scores, and may hold negative entries otherwise.
        clipped_mass: (B, L) probability that the closed form put below zero.
        condition_number: () or (B,) condition number of P_{t|0}.
    """

    posterior: Tensor
    clipped_mass: Tensor
    condition_number: Tensor


class HasKernels(Protocol):
    """What recovery asks of a :class:`~fewjump.process.Process`."""

    vocab_size: int
    rows_apart: bool

    def kernel(self, s: Time, t: Time) -> Kernel:
        """P_{t|s}."""
        ...


def invert_kernel(kernel: Kernel, ratios: Tensor, t: Time) -> Tensor:
    """w = P_{t|0}⁻ᵀ r, the inversion of Eq. 8, in float64: (B, L, V).

    Args:
        kernel: P_{t|0}.
        ratios: (B, L, V).
        t: float or (B,), for the message.

    Raises:
        ValueError: if the kernel is singular in float64.
    """
    try:
        return kernel.solve(ratios)
    except SingularKernelError as error:
        raise ValueError(
            f"the kernel at t = {t} {error}, so ratios there do not determine a posterior; use a "
            "smaller t, or a denoiser that gives posteriors"
        ) from None


def posterior_by_inversion(
    process: HasKernels, ratios: Tensor, x_t: Tensor, t: Time, method: RecoveryMethod = "exact"
) -> tuple[Tensor, Tensor]:
    """p(x₀|x_t) from concrete scores, and what its closed form put below zero.

    Args:
        process: the forward process.
        ratios: (B, L, V) concrete scores, 1 at the current token.
        x_t: (B, L) int64.
        t: float or (B,).
        method: ``exact`` (closed form), ``clip`` (negative entries to 0, renormalised),
            ``project`` (Euclidean projection on the simplex), ``multiplicative``
            (Richardson–Lucy iterations, w ≥ 0 throughout).

    Returns:
        The posterior (B, L, V) in the dtype of ``ratios``, computed in float64, and the clipped
        mass (B, L), as in :class:`Recovery`.

    Raises:
        ValueError: for an unknown method, for ratios of the wrong shape, and where P_{t|0} is
            singular in float64.
    """
    if method not in get_args(RecoveryMethod):
        raise ValueError(f"unknown method {method!r}; known: {', '.join(get_args(RecoveryMethod))}")
    if ratios.shape != (*x_t.shape, process.vocab_size):
        raise ValueError(
            f"ratios must have shape {(*x_t.shape, process.vocab_size)} "
            f"(the state's shape and the vocabulary), got {tuple(ratios.shape)}"
        )
    t = as_time(t)
    # One kernel for all parts where they share a time.
    shared = process.kernel(0.0, t) if t.dim() == 0 else None

    def part_of(r: Tensor, x: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        kernel = process.kernel(0.0, now) if shared is None else shared
        return _recover_part(kernel, r, x, now, method)

    parts = list(_parts(process, ratios, x_t, t))
    if len(parts) == 1:
        posterior, clipped = part_of(*parts[0])
        return posterior.to(ratios.dtype).reshape(ratios.shape), clipped.reshape(x_t.shape)
    if torch.is_grad_enabled() and ratios.requires_grad:
        found = [part_of(*part) for part in parts]
        posterior = torch.cat([p.to(ratios.dtype) for p, _ in found])
        return posterior.reshape(ratios.shape), torch.cat([c for _, c in found]).reshape(x_t.shape)
    out = torch.empty(x_t.numel(), ratios.shape[-1], dtype=ratios.dtype, device=ratios.device)
    mass = torch.empty(x_t.numel(), dtype=torch.float64, device=ratios.device)
    done = 0
    for part in parts:
        rows = slice(done, done + part[1].numel())
        out[rows], mass[rows] = part_of(*part)
        done = rows.stop
    return out.reshape(ratios.shape), mass.reshape(x_t.shape)


def _parts(
    process: HasKernels, ratios: Tensor, x_t: Tensor, t: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Cut a batch so that float64 temporaries stay small: whole elements of it, with their times,
    where several fit; else some positions of one, (1, n, V) and (1, n), at a scalar time."""
    apart = process.rows_apart and ratios.device.type == "cpu"
    elements = NEAR_ELEMENTS if apart else CHUNK_ELEMENTS
    if ratios.numel() <= elements or x_t.dim() == 0:
        yield ratios, x_t, t
        return
    # A dense kernel for each of several times may not fit where one does.
    together = elements // ratios[0].numel() if apart else 0
    if together > 1:
        for part in row_chunks(x_t.shape[0], 1, together):
            yield ratios[part], x_t[part], t[part] if t.dim() else t
        return
    for row in range(x_t.shape[0]):
        r, x = ratios[row].reshape(-1, ratios.shape[-1]), x_t[row].reshape(-1)
        for part in row_chunks(x.shape[0], ratios.shape[-1], elements):
            yield r[None, part], x[None, part], t[row] if t.dim() else t


def _recover_part(
    kernel: Kernel, ratios: Tensor, x_t: Tensor, t: Tensor, method: RecoveryMethod
) -> tuple[Tensor, Tensor]:
    """Posterior and clipped mass in float64, flattened over positions: (N, V) and (N,)."""
    closed = kernel.times_columns(invert_kernel(kernel, ratios, t), x_t)
    clipped = -closed.clamp(max=0).sum(-1)
    if method != "exact":
        likelihood = kernel.columns(x_t)
        if method == "clip":
            closed = normalise(closed.clamp(min=0), likelihood)
        elif method == "project":
            # Tokens that x_t excludes must not receive a share of the missing mass.
            closed = project_to_simplex(closed.masked_fill(likelihood == 0, -torch.inf))
        else:
            start = normalise(closed.clamp(min=0), likelihood)
            closed = _richardson_lucy(kernel, ratios.double(), start, likelihood)
    return closed.flatten(0, -2), clipped.reshape(-1)


def normalise(weights: Tensor, fallback: Tensor) -> Tensor:
    """Rows of ``weights`` divided by their sum; rows of zeros become the normalised fallback."""
    total = weights.sum(-1, keepdim=True)
    empty = total <= 0
    other = fallback / fallback.sum(-1, keepdim=True)
    return torch.where(empty, other, weights / torch.where(empty, 1.0, total))


def project_to_simplex(values: Tensor) -> Tensor:
    """Euclidean projection of the last axis on the probability simplex (Duchi et al. 2008)."""
    ordered = values.sort(-1, descending=True).values
    rank = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    excess = ordered.cumsum(-1) - 1
    support = (ordered * rank > excess).sum(-1, keepdim=True)
    shift = excess.gather(-1, support - 1) / support
    return (values - shift).clamp(min=0)


def _richardson_lucy(kernel: Kernel, ratios: Tensor, start: Tensor, likelihood: Tensor) -> Tensor:
    """Maximise Σ r·log(Pᵀw) − Σ Pᵀw over w ≥ 0; rows of P sum to 1, so no further divisor."""
    possible = likelihood > 0
    # A touch of mass everywhere: a zero could never grow again.
    share = possible / possible.sum(-1, keepdim=True)
    start = 0.99 * start + 0.01 * share
    weights = torch.where(possible, start / torch.where(possible, likelihood, 1.0), 0.0)
    for _ in range(MULTIPLICATIVE_ITERATIONS):
        fitted = kernel.push(weights)
        quotient = torch.where(fitted > 0, ratios.clamp(min=0) / fitted.clamp(min=1e-300), 0.0)
        weights = weights * kernel.pull(quotient)
    return normalise(weights * likelihood, likelihood)
