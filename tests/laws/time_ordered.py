"""Kernels from the rate alone: the time-ordered exponential, by Gauss–Legendre collocation."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from fewjump.process import Process

STAGES = 6  # of order 12


@cache
def tableau() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (S,), weights (S,) and matrix (S, S) of the collocation method on [0, 1].

    By Legendre polynomials: the inverse of a Vandermonde matrix would be off by 4e-14.
    """
    x, weights = np.polynomial.legendre.leggauss(STAGES)
    values = np.polynomial.legendre.legvander(x, STAGES)
    degree = np.arange(1, STAGES)
    # ∫ P_k from −1 to x = (P_{k+1} − P_{k−1}) / (2k + 1); ℓ_j = Σ_k (2k + 1)/2·w_j·P_k(x_j)·P_k.
    integrals = (values[:, 2:] - values[:, :-2]) / (2 * degree + 1)
    integrals = np.concatenate([x[:, None] + 1, integrals], 1)
    basis = (np.arange(STAGES) + 0.5) * weights[:, None] * values[:, :-1]
    matrix = integrals @ basis.T / 2
    return torch.tensor((x + 1) / 2), torch.tensor(weights / 2), torch.tensor(matrix)


def time_ordered(process: Process, s: float, t: float, through: tuple[float, ...] = ()) -> Tensor:
    """P_{t|s} from ``process.rate`` and the schedule: (V, V) float64.

    Steps are short both in time and in noise. ``through``: times the steps must not cross.
    """
    schedule = process.schedule
    jump = float(schedule.sigma_bar(0.0)) if s == 0 < t else 0.0
    start = float(schedule.sigma_bar(s))
    gap = float(schedule.sigma_bar(t)) - start
    levels = start + torch.linspace(0, 1, 2 + int(8 * gap), dtype=torch.float64) * gap
    times = torch.linspace(s, t, 24, dtype=torch.float64)
    inner = torch.cat([schedule.time_of_sigma_bar(levels), times, torch.tensor(through).double()])
    edges = torch.cat([times[:1], inner[(inner > s) & (inner < t)].sort().values, times[-1:]])
    edges = torch.cat([edges[:1], edges[1:][edges.diff() > 1e-9]])
    if s == t or edges.numel() < 2:
        return torch.eye(process.vocab_size, dtype=torch.float64)
    # A schedule that starts above zero noises clean data at once, along a stretch of which only
    # the ends are seen as times. Their mean is right to the square of the jump times the change.
    ends = torch.tensor([0.0, 1e-12], dtype=torch.float64)
    mean = (process.rate(ends) / schedule.sigma(ends)[:, None, None]).mean(0)
    first = torch.linalg.matrix_exp(jump * mean)
    out = first if jump else torch.eye(process.vocab_size, dtype=torch.float64)
    for step in _steps(process, edges):
        out = out @ step
    return out


def _steps(process: Process, edges: Tensor) -> Tensor:
    nodes, weights, matrix = tableau()
    h = edges.diff()
    rates = process.rate((edges[:-1, None] + h[:, None] * nodes).reshape(-1))
    v = process.vocab_size
    rates = rates.reshape(-1, STAGES, v, v)
    # Stage i of K' = K·A: k_i = (K + h·Σ_j a_ij k_j)·A_i; transposed, and solved for K = 1.
    blocks = torch.einsum("n,ij,nivw->niwjv", h, matrix, rates).reshape(-1, STAGES * v, STAGES * v)
    right = rates.mT.reshape(-1, STAGES * v, v)
    stages = torch.linalg.solve(torch.eye(STAGES * v, dtype=torch.float64) - blocks, right)
    stages = stages.reshape(-1, STAGES, v, v)
    total = torch.einsum("n,i,niwv->nvw", h, weights, stages)
    return torch.eye(v, dtype=torch.float64) + total
