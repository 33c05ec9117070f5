"""The factors of low-rank rates with a diagonal: what they must be, and where they lead."""

from __future__ import annotations

import torch
from torch import Tensor

from fewjump.process.generators import stationary_law

_ROW_SLACK = 1e-6


def factor_of(matrix: Tensor, name: str) -> Tensor:
    """A factor in float64 on the CPU; ValueError for entries that are negative or not finite."""
    entries = torch.as_tensor(matrix).detach().cpu().double()
    if entries.dim() != 2 or not bool(entries.isfinite().all()):
        raise ValueError(f"{name} must be a matrix of finite numbers, got {tuple(entries.shape)}")
    if bool((entries < 0).any()):
        row, column = (int(i) for i in (entries < 0).nonzero()[0])
        raise ValueError(
            f"{name} must not be negative, but entry [{row}, {column}] is "
            f"{float(entries[row, column]):.6g}; factor the rates between different states into "
            "non-negative parts and leave what is negative to the diagonal, or use FixedRate (up "
            "to a few thousand states)"
        )
    return entries


def check_diagonal(diagonal: Tensor, exits: Tensor) -> None:
    """Raise ValueError where diag(d) does not close the rows, to 1e-6 of the largest exit rate."""
    given = torch.as_tensor(diagonal).detach().cpu().double()
    if given.shape != exits.shape:
        raise ValueError(f"diagonal must have shape {tuple(exits.shape)}, got {tuple(given.shape)}")
    error = given + exits
    worst = int(error.abs().nan_to_num(torch.inf).argmax())
    if not float(error[worst].abs()) <= _ROW_SLACK * float(exits.max()):
        raise ValueError(
            f"rows of diag(d) + left·right sum to 0, but row {worst} sums to "
            f"{float(error[worst]):.6g}; set diagonal[{worst}] to {-float(exits[worst]):.6g}, or "
            "leave diagonal out, which closes the rows"
        )


def limit_of_clusters(rates: Tensor, priors: Tensor, exits: Tensor) -> Tensor:
    """The law that the chain ends in, from the chain of its clusters: (V,) float64.

    A visit to cluster k draws token b from W, which waits 1/e_b and goes to cluster j with
    probability U[b, j]/e_b; a token that never leaves is where the chain stays.

    Args:
        rates: U, (V, r), in units in which the rows of ``priors`` sum to 1.
        priors: W, (r, V).
        exits: e, (V,).

    Raises:
        ValueError: for more than one closed class of states.
    """
    stuck = (exits <= 0).nonzero()[:, 0]
    if stuck.numel() > 1:
        raise ValueError(
            f"tokens {int(stuck[0])} and {int(stuck[1])} never leave (their rows of left are 0), "
            "so that where the chain ends depends on where it starts; give all but one a rate"
        )
    wait = torch.where(exits > 0, 1 / torch.where(exits > 0, exits, 1.0), 0.0)
    rank, size = priors.shape[0], priors.shape[0] + stuck.numel()
    steps = torch.zeros(size, size, dtype=torch.float64)
    steps[:rank, :rank] = (priors * wait) @ rates
    steps[:rank, rank:] = priors[:, stuck]
    steps.fill_diagonal_(0)
    visits = (
        stationary_law(steps - torch.diag(steps.sum(-1))) if size > 1 else torch.ones(1).double()
    )
    law = (visits[:rank] @ priors) * wait
    law[stuck] += visits[rank:]
    return law / law.sum()
