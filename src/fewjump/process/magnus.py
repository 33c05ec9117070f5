"""One step of the time-ordered exponential: fourth-order Magnus, as a matrix or as an action.

For K' = K·R over a step of width h, with R₁, R₂ at the two Gauss points, the step is

    exp(h·(a·R₁ + b·R₂)) · exp(h·(b·R₁ + a·R₂)),   a, b = 1/4 ± √3/6,

of local error h⁵: the commutator-free form of the Magnus series (Blanes & Moan, "Fourth- and
sixth-order commutator-free Magnus integrators", Appl. Numer. Math. 56, 2006). With b ≈ −0.04 both
exponents are generators unless a rate grows fourteenfold within a step, so that uniformization
subtracts nothing. The classic form with one exponent holds a commutator, whose entries have no
sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fewjump.process.exponential import exponential_from_series, stochastic
from fewjump.process.generators import beside_sparse
from fewjump.process.rate_path import RateOperator, RatePath

ORDER = 4
_GAUSS = (0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6)
_NEAR, _FAR = 0.25 + math.sqrt(3) / 6, 0.25 - math.sqrt(3) / 6
# As an action: jumps expected in one run of the series, and the weight of the first term left out.
_JUMPS, _SMALL = 8.0, 1e-17

Clock = Callable[[Tensor], Tensor]


def step_matrices(path: RatePath, clock: Clock, start: Tensor, end: Tensor) -> Tensor:
    """The step as a matrix: (N,), (N,) noise levels → (N, V, V) float64 stochastic.

    Args:
        path: R as a function of time.
        clock: noise levels → times.
        start, end: (N,) float64.
    """
    h = (end - start)[:, None, None]
    first, second = (h * path.dense(clock(start + c * (end - start))) for c in _GAUSS)
    # Each is a generator, or is one but for rounding.
    once = torch.ones(1, dtype=torch.float64)
    early = exponential_from_series(_NEAR * first + _FAR * second, once)
    return stochastic(early @ exponential_from_series(_FAR * first + _NEAR * second, once))


def step_action(
    path: RatePath,
    clock: Clock,
    rows: Tensor,
    start: Tensor,
    end: Tensor,
    *,
    transpose: bool = False,
    inverse: bool = False,
) -> Tensor:
    """Rows times the step, without the matrix: (N, V) → (N, V).

    Uniformization, once for both factors where R is constant; for the inverse, whose entries
    alternate, the plain series in runs short enough that nothing cancels.

    Args:
        path, clock: as above.
        rows: (N, V) float64, one for each step.
        start, end: (N,) float64 noise levels.
        transpose: multiply by the step's transpose instead.
        inverse: multiply by the step's inverse (or its transpose) instead.
    """
    width = end - start
    if path.sparse:
        rows = beside_sparse(rows)
    if path.constant:
        operator = path.operator((clock(start),), (1.0,), width)
        return _act(rows, operator, transpose=transpose, inverse=inverse)
    times = tuple(clock(start + c * width) for c in _GAUSS)
    factors = [(_NEAR, _FAR), (_FAR, _NEAR)]
    # The earlier factor acts on a row first; transposing and inverting each turn that around.
    for weights in reversed(factors) if transpose != inverse else factors:
        operator = path.operator(times, weights, width)
        rows = _act(rows, operator, transpose=transpose, inverse=inverse)
    return rows


def _act(rows: Tensor, operator: RateOperator, *, transpose: bool, inverse: bool) -> Tensor:
    """Rows times the exponential of an operator, its transpose or its inverse."""
    multiply = operator.right if transpose else operator.left
    return (_inverse_action if inverse else _action)(rows, multiply, operator.speed)


def _action(rows: Tensor, multiply: Callable[[Tensor], Tensor], speed: Tensor) -> Tensor:
    """rows·exp(A): e^{−q}·Σ_j rows·(A + q)ʲ/j!, q the speed (N,) of each row's A."""
    runs = max(1, math.ceil(float(speed.max()) / _JUMPS))
    shift = (speed / runs)[:, None]
    norm = float(shift.max())
    for _ in range(runs):
        moved = _series(rows, multiply, 1 / runs, norm, shift)
        rows = torch.exp(-shift) * moved
    return rows


def _inverse_action(rows: Tensor, multiply: Callable[[Tensor], Tensor], speed: Tensor) -> Tensor:
    runs = max(1, math.ceil(2 * float(speed.max())))
    for _ in range(runs):
        rows = _series(rows, multiply, -1 / runs, 1.0)
    return rows


def _series(
    rows: Tensor,
    multiply: Callable[[Tensor], Tensor],
    factor: float,
    norm: float,
    shift: Tensor | None = None,
) -> Tensor:
    """Σ_j rows·Aʲ/j! for A = factor·M + shift, of about the given norm.

    ``multiply``, by M, must return a tensor of its own, which is overwritten.
    """
    out, term, weight, j = rows.clone(), rows, 1.0, 0
    while weight > _SMALL or j < norm:
        j += 1
        moved = multiply(term).mul_(factor / j)
        term = moved if shift is None else moved.addcmul_(shift, term, value=1 / j)
        out += term
        weight *= norm / j
    return out
