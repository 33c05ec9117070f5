"""Time-ordered kernels over any interval of noise levels, dense or as an action on vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewjump.inversion import invert_cdf, row_chunks
from fewjump.process.adaptive import panel_of, refine
from fewjump.process.exponential import stochastic
from fewjump.process.kernel import (
    DENSE_LIMIT,
    ActionKernel,
    DenseKernel,
    Kernel,
    check_dense,
)
from fewjump.process.magnus import ORDER, Clock, step_action, step_matrices
from fewjump.process.rate_path import RatePath
from fewjump.random import Generator, uniform

_MOST_PANELS = 1 << 14
_PROBES = 8
CHUNK_ELEMENTS = 1 << 23
# A sparse product reads its rows at random: 4 MiB of them stay near the processor, where 16 rows of
# 131,072 states do not. Fewer than 4 at once would read the indices too often.
_SPARSE_ELEMENTS, _SPARSE_ROWS = 1 << 19, 4


class Flow(ABC):
    """K(a, b) for noise levels a ≤ b, as products of Magnus steps on panels found once.

    Attributes:
        edges: (N + 1,) float64 noise levels of the panels.
        error: what step doubling estimated for the whole interval.
    """

    edges: Tensor
    error: float
    vocab_size: int

    @abstractmethod
    def matrices(self, start: Tensor, end: Tensor) -> Tensor:
        """K for each pair of levels: (N,), (N,) → (N, V, V)."""

    def kernel(self, start: Tensor, end: Tensor) -> Kernel:
        """K as a kernel, for levels () or (B,) on the CPU."""
        return DenseKernel(partial(self.dense, start, end))

    def dense(self, start: Tensor, end: Tensor) -> Tensor:
        """K for levels () or (B,) on the CPU: (V, V) or (B, V, V)."""
        check_dense(self.vocab_size, end.numel())
        pairs = torch.stack([start.reshape(-1), end.reshape(-1)])
        pairs, index = pairs.unique(dim=1, return_inverse=True)
        # Kept for later, perhaps for a backward pass.
        with torch.inference_mode(False):
            return self.matrices(*pairs)[index].reshape(*end.shape, *[self.vocab_size] * 2)


class DenseFlow(Flow):
    """Steps as matrices, and products of 2, 4, 8, … of them: any interval in O(log N) products.

    Args:
        path: R as a function of time.
        clock: noise levels → times.
        edges: levels that no step may cross, from 0 to the last.
        tolerance: of the kernel, in the largest row sum of absolute differences.

    Raises:
        ValueError: if the steps would not fit in memory.
    """

    def __init__(self, path: RatePath, clock: Clock, edges: Tensor, tolerance: float) -> None:
        self.path, self.clock = path, clock
        size = self.vocab_size = path.vocab_size
        # Steps, their products, and what refining them takes.
        fits = DENSE_LIMIT // (4 * size**2)
        if fits < 2 * edges.numel():
            raise ValueError(
                f"kernels of {size} x {size} entries for {2 * edges.numel()} steps or more are too "
                "large to keep; use route='action', which multiplies vectors and keeps none"
            )
        panels = refine(
            edges, self._steps, lambda a, b, *_: a @ b, tolerance, min(_MOST_PANELS, fits), ORDER
        )
        self.edges, self.error = panels.edges, panels.error
        self._tree = [panels.values]
        while self._tree[-1].shape[0] > 1:
            below = self._tree[-1]
            even = below.shape[0] // 2 * 2
            pairs = stochastic(below[0:even:2] @ below[1:even:2])
            self._tree.append(torch.cat([pairs, below[even:]]))

    def _steps(self, start: Tensor, end: Tensor) -> Tensor:
        return step_matrices(self.path, self.clock, start, end)

    def matrices(self, start: Tensor, end: Tensor) -> Tensor:
        check_dense(self.path.vocab_size, start.numel())
        first, last = panel_of(self.edges, start), panel_of(self.edges, end)
        head = self._steps(start, torch.minimum(end, self.edges[first + 1]))
        apart = (last > first).nonzero()[:, 0]
        if not apart.numel():
            return head
        middle = self._product(first[apart] + 1, last[apart])
        tail = self._steps(self.edges[last[apart]], end[apart])
        head[apart] = stochastic(head[apart] @ middle @ tail)
        return head

    def _product(self, start: Tensor, end: Tensor) -> Tensor:
        """Product of the steps start … end − 1: (N, V, V); the identity where there are none."""
        size = self.path.vocab_size
        eye = torch.eye(size, dtype=torch.float64).expand(start.numel(), size, size)
        left, right = eye.clone(), eye.clone()
        for level in self._tree:
            odd = ((start < end) & (start % 2 == 1)).nonzero()[:, 0]
            left[odd] = left[odd] @ level[start[odd]]
            start = start + ((start < end) & (start % 2 == 1)).long()
            odd = ((start < end) & (end % 2 == 1)).nonzero()[:, 0]
            right[odd] = level[end[odd] - 1] @ right[odd]
            end = end - ((start < end) & (end % 2 == 1)).long()
            start, end = start // 2, end // 2
        return left @ right


class ActionFlow(Flow):
    """Steps as actions on vectors: nothing of size V×V, whatever R is stored as.

    The panels are found once, by step doubling on the rows of at most 8 tokens spread evenly over
    the vocabulary. The error is thus controlled on those tokens; states that behave like none of
    them need a smaller tolerance. A rate that is constant needs no panels.

    Args:
        path, clock, edges, tolerance: as for :class:`DenseFlow`.
    """

    def __init__(self, path: RatePath, clock: Clock, edges: Tensor, tolerance: float) -> None:
        self.path, self.clock = path, clock
        size = self.vocab_size = path.vocab_size
        if path.constant:
            # exp(h·R) for any h: one panel, and no error but that of the series.
            self.edges, self.error = edges[[0, -1]], 0.0
            return
        tokens = torch.linspace(0, size - 1, min(size, _PROBES), dtype=torch.float64).long()
        probes = one_hot(tokens, size).double()

        def probe(start: Tensor, end: Tensor) -> Tensor:
            return act(probes.expand(start.numel(), *probes.shape), start, end)

        def act(rows: Tensor, start: Tensor, end: Tensor) -> Tensor:
            out = torch.empty_like(rows)
            for part in row_chunks(len(rows), rows.shape[1:].numel(), CHUNK_ELEMENTS):
                a, b = (v[part].repeat_interleave(rows.shape[1]) for v in (start, end))
                flat = step_action(path, clock, rows[part].reshape(-1, size), a, b)
                out[part] = flat.reshape(rows[part].shape)
            return out

        panels = refine(
            edges, probe, lambda left, _, a, b: act(left, a, b), tolerance, _MOST_PANELS, ORDER
        )
        self.edges, self.error = panels.edges, panels.error

    def matrices(self, start: Tensor, end: Tensor) -> Tensor:
        size = self.path.vocab_size
        check_dense(size, start.numel())
        eye = torch.eye(size, dtype=torch.float64).repeat(start.numel(), 1)
        rows = self.act(eye, start.repeat_interleave(size), end.repeat_interleave(size))
        return stochastic(rows.reshape(start.numel(), size, size))

    def kernel(self, start: Tensor, end: Tensor) -> Kernel:
        return FlowKernel(self, start, end)

    def act(
        self,
        rows: Tensor,
        start: Tensor,
        end: Tensor,
        *,
        transpose: bool = False,
        inverse: bool = False,
    ) -> Tensor:
        """Row n times K(start_n, end_n), or as :meth:`ActionKernel.act`: (N, V) → (N, V)."""
        out = rows.double().clone()
        size = self.path.vocab_size
        chunk = max(1, CHUNK_ELEMENTS // size)
        if self.path.sparse:
            chunk = min(chunk, max(_SPARSE_ROWS, _SPARSE_ELEMENTS // size))
        for part in row_chunks(len(rows), 1, chunk):
            a, b, piece = start[part], end[part], out[part]
            first, last = int(panel_of(self.edges, a).min()), int(panel_of(self.edges, b).max())
            panels = range(first, last + 1)
            # Factors act in turn: the last one first on a column, or where each is undone.
            for k in reversed(panels) if transpose != inverse else panels:
                lower = torch.maximum(a, self.edges[k])
                upper = torch.minimum(b, self.edges[k + 1])
                # The last panel also takes what lies beyond it by rounding.
                inside = (upper > lower).nonzero()[:, 0]
                if inside.numel():
                    piece[inside] = step_action(
                        self.path,
                        self.clock,
                        piece[inside],
                        lower[inside],
                        upper[inside],
                        transpose=transpose,
                        inverse=inverse,
                    )
        return out


class FlowKernel(ActionKernel):
    """K(start, end) by its action on vectors, computed on the CPU; distinct tokens once each.

    Args:
        flow: whose steps act.
        start, end: noise levels, () or (B,) float64 on the CPU.
    """

    def __init__(self, flow: ActionFlow, start: Tensor, end: Tensor) -> None:
        super().__init__(flow.vocab_size, end.shape)
        self.flow, self.start, self.end = flow, start, end

    @cached_property
    def _matrix(self) -> Tensor:
        return self.flow.dense(self.start, self.end)

    def dense(self) -> Tensor:
        return self._matrix

    def act(self, rows: Tensor, *, transpose: bool = False, inverse: bool = False) -> Tensor:
        count = rows.shape[1]
        start, end = (v.reshape(-1).repeat_interleave(count) for v in (self.start, self.end))
        flat = rows.cpu().flatten(0, 1)
        out = self.flow.act(flat, start, end, transpose=transpose, inverse=inverse)
        return out.reshape(rows.shape).to(rows.device)

    def rows(self, x: Tensor) -> Tensor:
        return self._of_tokens(x)

    def columns(self, x: Tensor) -> Tensor:
        return self._of_tokens(x, transpose=True)

    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        u = uniform(x.shape, generator, x.device).reshape(-1).cpu()
        tokens, start, end, index = self._distinct(x)
        out = torch.empty(x.numel(), dtype=torch.int64)
        for part in row_chunks(tokens.numel(), self.vocab_size, CHUNK_ELEMENTS):
            rows = self.flow.act(self._one_hot(tokens[part]), start[part], end[part])
            mine = ((index >= part.start) & (index < part.stop)).nonzero()[:, 0]
            for some in row_chunks(mine.numel(), self.vocab_size, CHUNK_ELEMENTS):
                chosen = rows.clamp(min=0)[index[mine[some]] - part.start]
                out[mine[some]] = invert_cdf(chosen, u[mine[some]])
        return out.reshape(x.shape).to(x.device)

    def _of_tokens(self, x: Tensor, transpose: bool = False) -> Tensor:
        """Rows of K, or of its transpose, for tokens ``x``: (..., V); each distinct one once."""
        tokens, start, end, index = self._distinct(x)
        rows = self.flow.act(self._one_hot(tokens), start, end, transpose=transpose)
        return rows.clamp(min=0)[index].reshape(*x.shape, -1).to(x.device)

    def _distinct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Distinct (token, start, end), each (K,), and which each position has (numel(x),)."""
        flat = x.reshape(-1).cpu()
        pairs = torch.stack([self.start.reshape(-1), self.end.reshape(-1)])
        pairs, which = pairs.unique(dim=1, return_inverse=True)
        keys = flat + self.vocab_size * which.repeat_interleave(flat.numel() // which.numel())
        values, index = keys.unique(return_inverse=True)
        start, end = pairs[:, values // self.vocab_size]
        return values % self.vocab_size, start, end, index

    def _one_hot(self, tokens: Tensor) -> Tensor:
        return one_hot(tokens, self.vocab_size).double()
