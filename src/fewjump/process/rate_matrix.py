"""Sparse rate matrices: checks, and products with rows that never make them dense."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROW_SLACK = 1e-5


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


def check_sparse_rate(matrix: Tensor) -> Tensor:
    """A sparse generator as float64 CSR on the CPU, its diagonal set so that rows sum to 0.

    Raises:
        ValueError: as :func:`fewjump.process.generators.check_rate`.
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
