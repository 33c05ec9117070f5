"""Sudoku boards: sequences whose validity needs no judge.

A board of base b has b² symbols 0..b²−1 and L = b⁴ cells in row order; every row, column and b×b
box holds every symbol once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fewjump.problem.finite_support import FiniteSupport
from fewjump.random import Generator, draw_seed, fold_seed, generator_for, uniform


def sudoku(base: int = 2) -> FiniteSupport:
    """Every board with the same probability: the 288 boards of 4×4 cells.

    Raises:
        ValueError: for a base other than 2: larger boards (6.7·10²¹ of 9×9) do not fit a list;
            ``FiniteSupport(random_boards(n))`` is the law of a sample of them.
    """
    if base != 2:
        raise ValueError(
            f"all boards can be listed for base 2 alone, got {base}; "
            "use FiniteSupport(random_boards(n))"
        )
    return FiniteSupport(torch.tensor(list(_completions(_Board(base)))))


def random_boards(n: int, generator: torch.Generator | int = 0, base: int = 3) -> Tensor:
    """``n`` boards, each by a random search of its own: (n, b⁴) int64.

    Board i depends on the seed and on i only. Every board can come up, not all with the same
    probability.

    Args:
        n: at least 1.
        generator: a seed, or a generator that one is drawn from.
        base: b ≥ 2.
    """
    if n < 1 or base < 2:
        raise ValueError(f"n must be at least 1 and base 2, got {n} and {base}")
    seed = draw_seed(generator)
    out = torch.empty(n, base**4, dtype=torch.int64)
    for i in range(n):
        source = generator_for(fold_seed(seed, i))
        # Priorities of all symbols in all cells, enough for a whole search.
        order = uniform((base**4, base**2), source).argsort(-1).tolist()
        out[i] = torch.tensor(next(_completions(_Board(base, order))))
    return out


def is_board(x: Tensor) -> Tensor:
    """Whether each sequence is a valid board: (N, L) → (N,) boolean.

    Raises:
        ValueError: unless L is a fourth power.
    """
    base = round(x.shape[-1] ** 0.25)
    if x.dim() != 2 or base**4 != x.shape[-1]:
        raise ValueError(f"boards must be (N, b⁴), got {tuple(x.shape)}")
    wanted = torch.arange(base**2, device=x.device)
    return (units(x).sort(-1).values == wanted).flatten(1).all(-1)


def units(x: Tensor) -> Tensor:
    """The rows, columns and boxes of boards: (N, b⁴) → (N, 3b², b²)."""
    base = round(x.shape[-1] ** 0.25)
    rows = x.reshape(-1, base**2, base**2)
    boxes = x.reshape(-1, base, base, base, base).transpose(2, 3).reshape(rows.shape)
    return torch.cat([rows, rows.mT, boxes], 1)


def random_clues(boards: Tensor, clues: int, generator: Generator = None) -> Tensor:
    """Which cells of each board are shown: (N, L) boolean, ``clues`` of each row at random.

    A puzzle made so may have several solutions; each is right.

    Raises:
        ValueError: unless 0 ≤ clues ≤ L.
    """
    if not 0 <= clues <= boards.shape[1]:
        raise ValueError(f"clues must lie in 0..{boards.shape[1]}, got {clues}")
    order = uniform(boards.shape, generator, boards.device).argsort(-1).argsort(-1)
    return order < clues


class _Board:
    """Cells, and the symbols that are left for each row, column and box, as bits."""

    def __init__(self, base: int, order: list[list[int]] | None = None) -> None:
        size = base**2
        self.cells = [-1] * size**2
        self.left = [(1 << size) - 1] * (3 * size)
        self.order = order or [list(range(size))] * size**2
        self.units = [
            (r, size + c, 2 * size + r // base * base + c // base)
            for r in range(size)
            for c in range(size)
        ]

    def narrowest(self) -> tuple[int, int]:
        """The empty cell with the fewest symbols left, and these symbols; (−1, 0) if full."""
        best, found, fewest = -1, 0, len(self.left)
        for cell, (row, column, box) in enumerate(self.units):
            if self.cells[cell] < 0:
                symbols = self.left[row] & self.left[column] & self.left[box]
                if symbols.bit_count() < fewest:
                    best, found, fewest = cell, symbols, symbols.bit_count()
                    if fewest < 2:
                        break
        return best, found


def _completions(board: _Board) -> Iterator[list[int]]:
    """Every way to fill the empty cells, as lists of symbols."""
    cell, symbols = board.narrowest()
    if cell < 0:
        yield list(board.cells)
        return
    for symbol in board.order[cell]:
        if symbols >> symbol & 1:
            for unit in board.units[cell]:
                board.left[unit] ^= 1 << symbol
            board.cells[cell] = symbol
            yield from _completions(board)
            board.cells[cell] = -1
            for unit in board.units[cell]:
                board.left[unit] ^= 1 << symbol
