"""Rate matrices, dense and sparse: checks, the stationary law, constructors for ordinal data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewjump.process.kernel import check_dense, check_states

# Rows may miss 0 by this share of the largest rate: the rounding of float32.
_ROW_SLACK = 1e-5


def check_rate(rate_matrix: Tensor) -> Tensor:
    """A generator in float64 on the CPU with rows that sum to 0 to the last bit.

    Args:
        rate_matrix: (V, V), ``[a, b]`` the rate a → b.

    Raises:
        ValueError: if it is not square, not finite, has a negative rate, has rows that do not
            sum to 0 (to 1e-5 of the largest rate), or has no positive rate at all.
    """
    rate = torch.as_tensor(rate_matrix, dtype=torch.float64).detach().cpu().clone()
    if rate.dim() != 2 or rate.shape[0] != rate.shape[1] or rate.shape[0] < 2:
        raise ValueError(
            f"a rate matrix is (V, V) with V at least 2, got shape {tuple(rate.shape)}"
        )
    check_dense(rate.shape[0])
    if not bool(rate.isfinite().all()):
        raise ValueError("the rate matrix holds NaN or infinite entries")
    scale = float(rate.abs().max())
    rows = rate.sum(-1)
    worst = int(rows.abs().argmax())
    rate.fill_diagonal_(0)
    if bool((rate < 0).any()):
        a, b = (int(i) for i in (rate < 0).nonzero()[0])
        raise ValueError(
            f"rates between different states must not be negative, but entry [{a}, {b}] is "
            f"{float(rate[a, b]):.6g}; a rate matrix has Q[a, b] = rate from a to b"
        )
    if abs(float(rows[worst])) > _ROW_SLACK * scale:
        raise ValueError(
            f"rows of a rate matrix sum to 0, but row {worst} sums to {float(rows[worst]):.6g}; "
            "set each diagonal entry to minus the sum of the rest of its row "
            "(if the columns sum to 0 instead, transpose the matrix)"
        )
    if not bool((rate > 0).any()):
        raise ValueError("the rate matrix has no positive rate: nothing would ever be noised")
    return close_rows(rate)


def check_sparse_rate(matrix: Tensor) -> Tensor:
    """A sparse generator as float64 CSR on the CPU, its diagonal set so that rows sum to 0.

    Raises:
        ValueError: as :func:`check_rate`.
    """
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 2:
        raise ValueError(
            f"a rate matrix is (V, V) with V at least 2, got shape {tuple(matrix.shape)}"
        )
    coo = matrix.detach().cpu().to_sparse_coo().coalesce()
    (a, b), values = coo.indices(), coo.values().double()
    if not bool(values.isfinite().all()):
        raise ValueError("the rate matrix holds NaN or infinite entries")
    off = a != b
    negative = (off & (values < 0)).nonzero()[:, 0]
    if negative.numel():
        k = int(negative[0])
        raise ValueError(
            f"rates between different states must not be negative, but entry "
            f"[{int(a[k])}, {int(b[k])}] is {float(values[k]):.6g}"
        )
    if not bool((values[off] > 0).any()):
        raise ValueError("the rate matrix has no positive rate: nothing would ever be noised")
    size = matrix.shape[0]
    rows = torch.zeros(size, dtype=torch.float64).index_add(0, a, values)
    worst = int(rows.abs().argmax())
    if abs(float(rows[worst])) > _ROW_SLACK * float(values.abs().max()):
        raise ValueError(
            f"rows of a rate matrix sum to 0, but row {worst} sums to {float(rows[worst]):.6g}; "
            "set each diagonal entry to minus the sum of the rest of its row"
        )
    exits = torch.zeros(size, dtype=torch.float64).index_add(0, a[off], values[off])
    state = torch.arange(size)
    indices = torch.cat([torch.stack([a[off], b[off]]), torch.stack([state, state])], 1)
    closed = torch.sparse_coo_tensor(indices, torch.cat([values[off], -exits]), (size, size))
    return closed.coalesce().to_sparse_csr()


def close_rows(rate: Tensor) -> Tensor:
    """Set the diagonal of (V, V) rates to minus the sum of the rest of each row."""
    rate = rate.clone().fill_diagonal_(0)
    return rate - torch.diag(rate.sum(-1))


def stationary_law(rate: Tensor) -> Tensor:
    """The limit law of a generator: (V, V) float64 → (V,) float64, states left for good get 0.

    By the elimination of Grassmann, Taksar and Heyman (1985), which never subtracts, so that
    small probabilities keep their relative precision.

    Raises:
        ValueError: if there are two closed classes of states: where the chain ends then depends
            on where it starts, and no law to start generation from exists.
    """
    reach = (rate > 0) | torch.eye(rate.shape[0], dtype=torch.bool)
    for _ in range(max(1, (rate.shape[0] - 1).bit_length())):
        step = reach.float()
        reach = (step @ step) > 0
    closed = (reach <= reach.mT).all(-1)
    members = closed & reach[int(closed.nonzero()[0])]
    if bool((closed & ~members).any()):
        other = int((closed & ~members).nonzero()[0])
        raise ValueError(
            f"the rate matrix is reducible: states {int(members.nonzero()[0])} and {other} lie in "
            "different closed classes, so the limit law depends on the start; add a rate that "
            "connects them"
        )
    index = members.nonzero()[:, 0]
    flow = rate[index][:, index].clone()
    size = index.numel()
    for n in range(size - 1, 0, -1):
        flow[:n, n] /= flow[n, :n].sum()
        flow[:n, :n] += flow[:n, n, None] * flow[n, :n]
    weights = torch.zeros(size, dtype=torch.float64)
    weights[0] = 1
    for n in range(1, size):
        weights[n] = weights[:n] @ flow[:n, n]
    law = torch.zeros(rate.shape[0], dtype=torch.float64)
    law[index] = weights / weights.sum()
    return law


def birth_death_rate(
    vocab_size: int, up: float | Sequence[float] = 1.0, down: float | Sequence[float] = 1.0
) -> Tensor:
    """A walk on ordered levels that moves one level at a time: (V, V) float64.

    Args:
        vocab_size: number of levels V.
        up: rate k → k+1, one number or V−1 of them (for k = 0 … V−2).
        down: rate k+1 → k, likewise.

    Its slowest mode decays at about (π/V)² for unit rates: use a schedule with σ̄(1) of several
    times V²/π², or :func:`rescale_to_gap`.

    Raises:
        ValueError: for rates that are not positive, or a list of the wrong length.
    """
    check_states(vocab_size)
    check_dense(vocab_size)
    rate = torch.zeros(vocab_size, vocab_size, dtype=torch.float64)
    for name, value, offset in (("up", up, 1), ("down", down, -1)):
        values = torch.as_tensor(value, dtype=torch.float64)
        if values.dim() > 1 or (values.dim() == 1 and values.numel() != vocab_size - 1):
            raise ValueError(f"{name} must be one number or {vocab_size - 1} of them")
        if not bool((values > 0).all()):
            raise ValueError(f"{name} must be positive, got {value}")
        rate.diagonal(offset).copy_(values.expand(vocab_size - 1))
    return close_rows(rate)


def discretised_gaussian_rate(vocab_size: int, width: float = 1.0) -> Tensor:
    """Jumps between ordered levels with Gaussian weights of their distance: (V, V) float64.

    Q[a, b] = exp(−(a−b)²/(2·width²)) / Σ_{0<|n|<V} exp(−n²/(2·width²)), after D3PM's discretised
    Gaussian (arXiv 2107.03006, appendix A.2.3; its β is 8·width²/(V−1)²). Symmetric, so the limit
    law is uniform; a level far from the edges is left at rate about 1.

    Args:
        vocab_size: number of levels V.
        width: standard deviation of a jump, in levels.

    Raises:
        ValueError: if ``width`` is not positive, or so small that neighbours get no rate.
    """
    check_states(vocab_size)
    if not 0 < width < math.inf:
        raise ValueError(f"width must be positive, got {width}")
    check_dense(vocab_size)
    level = torch.arange(vocab_size, dtype=torch.float64)
    # Relative to the nearest neighbour, so that a narrow width does not underflow.
    exponent = (1 - (level[:, None] - level) ** 2) / (2 * width**2)
    rate = torch.exp(exponent.clamp(max=0)).fill_diagonal_(0)
    total = 2 * torch.exp((1 - level[1:] ** 2) / (2 * width**2)).sum()
    return close_rows(rate / total)


def rescale_to_gap(rate_matrix: Tensor, gap: float = 1.0) -> Tensor:
    """The generator times the constant that makes its slowest mode decay as exp(−gap·σ̄).

    With ``gap`` 1 a schedule forgets the start as fast as it does with uniform noise.

    Raises:
        ValueError: if the matrix is not a generator, or its limit law is not unique.
    """
    if not 0 < gap < math.inf:
        raise ValueError(f"gap must be positive, got {gap}")
    rate = check_rate(rate_matrix)
    stationary_law(rate)
    return close_rows(rate * (gap / spectral_gap(rate)))


def spectral_gap(rate: Tensor) -> float:
    """Decay rate of the slowest mode: the smallest −Re λ over the eigenvalues but the zero one."""
    decay = -torch.linalg.eigvals(rate).real
    return float(decay.sort().values[1])


def warn_if_unmixed(left: float, instead: str = "") -> None:
    """Warn where the slowest mode still has a weight above 0.05 at t = 1: the end of noising and
    the start of generation disagree by about that much in total variation."""
    if left > 0.05:
        advice = f"use a schedule with more total noise{instead and ', ' + instead}"
        warnings.warn(
            f"at t = 1 the slowest mode of this chain still has weight {left:.2g}, so its limit "
            f"law is a poor start for generation; {advice}",
            stacklevel=3,
        )


# -- sparse matrices: products with rows that never make them dense -----------------------------


def is_sparse(matrix: Tensor) -> bool:
    return matrix.layout != torch.strided


def rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows (N, V) @ matrix for a dense one; rows @ matrixᵀ for a sparse one, stored by rows.

    With a sparse matrix, rows that :func:`beside_sparse` laid out are not copied.
    """
    if not is_sparse(matrix):
        return rows @ matrix
    if rows.requires_grad or rows.dtype != matrix.dtype:
        return torch.sparse.mm(matrix, rows.mT).mT
    # torch.sparse.mm adds to a copy of zeros; here they are what is added to.
    out = rows.new_zeros(matrix.shape[0], rows.shape[0])
    return torch.addmm(out, matrix, rows.mT, out=out).mT


def beside_sparse(rows: Tensor) -> Tensor:
    """The same rows (N, V), with the N entries of a state beside each other in memory."""
    return rows.mT.contiguous().mT


def for_left(matrix: Tensor) -> Tensor:
    """The form with which :func:`rows_times` gives rows @ matrix."""
    if not is_sparse(matrix):
        return matrix
    return _short_indices(matrix.to_sparse_coo().t().coalesce().to_sparse_csr())


def for_right(matrix: Tensor) -> Tensor:
    """The form with which :func:`rows_times` gives rows @ matrixᵀ."""
    return _short_indices(matrix) if is_sparse(matrix) else matrix.mT


def _short_indices(matrix: Tensor) -> Tensor:
    """CSR with int32 indices: the product would otherwise convert them at every call."""
    matrix = matrix if matrix.layout == torch.sparse_csr else matrix.to_sparse_csr()
    if matrix.values().numel() >= 2**31:
        return matrix
    crow, column = matrix.crow_indices().int(), matrix.col_indices().int()
    return torch.sparse_csr_tensor(crow, column, matrix.values(), matrix.shape)


def exit_rates(matrix: Tensor) -> Tensor:
    """Total rate out of every state of a generator: (V,)."""
    if not is_sparse(matrix):
        return -matrix.diagonal()
    coo = matrix.to_sparse_coo().coalesce()
    a, b = coo.indices()
    out = torch.zeros(matrix.shape[0], dtype=torch.float64)
    return out.index_add(0, a, torch.where(a != b, coo.values(), 0.0))


def to_plain(matrix: Tensor) -> Any:
    """A matrix as JSON can hold it; :func:`from_plain` reads it back."""
    if not is_sparse(matrix):
        return matrix.tolist()
    coo = matrix.to_sparse_coo().coalesce()
    return {
        "size": matrix.shape[0],
        "indices": coo.indices().tolist(),
        "values": coo.values().tolist(),
    }


def from_plain(matrix: Any) -> Tensor:
    if not isinstance(matrix, dict):
        return torch.tensor(matrix, dtype=torch.float64)
    size = matrix["size"]
    values = torch.tensor(matrix["values"], dtype=torch.float64)
    return torch.sparse_coo_tensor(torch.tensor(matrix["indices"]), values, (size, size))
