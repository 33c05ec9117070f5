"""How a chain of states goes from one position to the next: by one table, or by several in turn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewjump.law.batched import Batched
from fewjump.law.log_weights import exponentiated, safe_logsumexp


@dataclass(eq=False)
class Transition(Batched):
    """Log-weights, or logits of conditionals, of the steps from a position to the next.

    A **dense** one is a table (r, r). A **block** one is two tables of blocks, used one after the
    other, as in a Monarch matrix (Dao et al., arXiv 2204.00595) with non-negative entries. A state
    is a pair (b, a), number b·A + a of r = A·B states. The first table, (B, A, A), moves a within
    the block b; the second, (A, B, B), moves b within the block of the new a:

        w((b, a), (b', a')) = exp(first[b, a, a'] + second[a', b, b']).

    So a step costs r·(A + B) instead of r², between all pairs of states, and the matrix has full
    rank in general. The pair (b, a') between the two tables counts as a position of its own, with
    no token: a chain of L positions and K tables has K·(L−1) + 1 of them.

    Args:
        tables: each (G, S, T), the weight of t given s in block g, for all rows and positions; or
            (B, L−1, G, S, T). Before a table the number of a state is g·S + s, after it t·G + g.

    Raises:
        ValueError: for tables of different numbers of states, or of which only some are shared.
    """

    tables: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        shapes = [tuple(table.shape[-3:]) for table in self.tables]
        sizes = {groups * size for groups, size, _ in shapes}
        if len(sizes | {groups * after for groups, _, after in shapes}) != 1:
            raise ValueError(
                f"tables (G, S, T) of a transition must have as many states G*S as G*T, all the "
                f"same, got {shapes}"
            )
        if len({table.shape[:-3] for table in self.tables}) != 1:
            raise ValueError(
                "tables of a transition must be all (G, S, T) or all (B, L-1, G, S, T)"
            )
        self.shared = self.tables[0].dim() == 3
        self.states = shapes[0][0] * shapes[0][1]
        if not self.shared:
            self.batch_size = self.tables[0].shape[0]

    @classmethod
    def of(cls, value: Tensor | Transition) -> Transition:
        """A dense one from (r, r) or (B, L−1, r, r); one that is made already as it is."""
        return cls((value.unsqueeze(-3),)) if isinstance(value, Tensor) else value

    @property
    def turns(self) -> int:
        """K, how many tables lead to the next position."""
        return len(self.tables)

    @property
    def dtype(self) -> torch.dtype:
        return self.tables[0].dtype

    @property
    def device(self) -> torch.device:
        return self.tables[0].device

    def _batched(self) -> dict[str, Tensor | Batched]:
        return {} if self.shared else {str(i): table for i, table in enumerate(self.tables)}

    def _with(self, **changes: Tensor) -> Transition:
        return Transition(tuple(changes.values())) if changes else self

    def to(self, dtype: torch.dtype) -> Transition:
        return Transition(tuple(table.to(dtype) for table in self.tables))

    def detach(self) -> Transition:
        return Transition(tuple(table.detach() for table in self.tables))

    def log_softmax(self) -> Transition:
        """Logits of conditionals as log-weights."""
        return Transition(tuple(table.log_softmax(-1) for table in self.tables))

    def for_each(self, batch: int, steps: int) -> Transition:
        """Tables (B, L−1, G, S, T), views where they are shared."""
        if not self.shared:
            return self
        return Transition(tuple(t.expand(batch, steps, *t.shape) for t in self.tables))

    def matrix(self) -> Tensor:
        """The one table of a dense transition, (r, r) or (B, L−1, r, r)."""
        (table,) = self.tables
        return table.squeeze(-3)


def table_at(table: Tensor, step: int) -> Tensor:
    """The table of one step: (G, S, T), or (B, G, S, T)."""
    return table if table.dim() == 3 else table[:, step]


# Messages of the two functions below hold states first and rows last, (r, B) or the same in blocks:
# exchanging block and member then moves whole rows, and no product has to copy what it reads.


def advance(message: Tensor, weight: Tensor) -> Tensor:
    """Σ_s message(g, s)·weight[g, s, t]: (G·S, B) → (T, G, B), a view in the order of states."""
    parts = message.reshape(*weight.shape[-3:-1], message.shape[-1])
    if weight.dim() == 3:
        return torch.bmm(weight.mT, parts).transpose(0, 1)
    return (parts.permute(2, 0, 1)[..., None, :] @ weight)[..., 0, :].permute(2, 1, 0)


def retreat(vector: Tensor, weight: Tensor) -> Tensor:
    """Σ_t weight[g, s, t]·vector(t, g): (T·G, B) → (G, S, B)."""
    parts = arrived(vector, weight)
    if weight.dim() == 3:
        return torch.bmm(weight, parts)
    return (weight @ parts.permute(2, 0, 1)[..., None])[..., 0].permute(1, 2, 0)


def arrived(vector: Tensor, table: Tensor) -> Tensor:
    """:func:`landing` of states first and rows last: (T·G, B) → (G, T, B)."""
    return vector.reshape(table.shape[-1], table.shape[-3], vector.shape[-1]).transpose(0, 1)


def landing(vector: Tensor, table: Tensor) -> Tensor:
    """Numbers of the states that a table leads to, by block: (..., T·G) → (..., G, T)."""
    return vector.unflatten(-1, (table.shape[-1], table.shape[-3])).transpose(-1, -2)


def log_advance(table: Tensor, weights: tuple[Tensor, Tensor], message: Tensor) -> Tensor:
    """:func:`advance` of logarithms, less the largest entry of each row: (B, r) → (B, r).

    Args:
        table: of logarithms, with source and target exchanged: (G, T, S) or (B, G, T, S).
        weights: the exponentials of ``table``.
        message: (B, G·S).
    """
    parts = message.unflatten(-1, (table.shape[-3], table.shape[-1]))
    return _log_product(table, weights, parts)[0].transpose(1, 2).flatten(1)


def log_retreat(table: Tensor, weights: tuple[Tensor, Tensor], vector: Tensor) -> Tensor:
    """:func:`retreat` of logarithms, less the largest entry of each row: (B, r) → (B, r)."""
    return _log_product(table, weights, landing(vector, table))[0].flatten(1)


def log_vector_product(table: Tensor, vector: Tensor) -> Tensor:
    """log Σ_t exp(table[g, s, t] + vector(t, g)) of one table (G, S, T): (..., r) → (..., r)."""
    rows = vector.reshape(-1, vector.shape[-1])
    value, top = _log_product(table, exponentiated(table), landing(rows, table))
    return (value.flatten(1) + top).reshape(vector.shape)


def _log_product(
    table: Tensor, weights: tuple[Tensor, Tensor], parts: Tensor
) -> tuple[Tensor, Tensor]:
    """log Σ_t exp(table[g, s, t] + parts[g, t]) less the row's largest part, and that.

    Sums that underflow are computed again in log space.

    Args:
        table: (G, S, T) or (B, G, S, T).
        weights: its exponentials.
        parts: (B, G, T).

    Returns:
        (B, G, S) and (B, 1).
    """
    matrix, height = weights
    share, top = exponentiated(parts.flatten(1))
    share = share.unflatten(-1, parts.shape[1:])
    if matrix.dim() == 3:
        total = torch.bmm(share.transpose(0, 1), matrix.mT).transpose(0, 1)
    else:
        total = (matrix @ share[..., None])[..., 0]
    lost = total < torch.finfo(total.dtype).tiny
    if not bool(lost.any()):
        return total.log() + height[..., 0], top
    value = total.masked_fill(lost, 1.0).log() + height[..., 0]
    row, group, state = where = lost.nonzero(as_tuple=True)
    steps = table[group, state] if table.dim() == 3 else table[where]
    again = safe_logsumexp(steps + (parts - top[..., None])[row, group])
    return value.index_put(where, again), top
