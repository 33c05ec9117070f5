"""Sudoku boards: all of 4×4, samples of 9×9, and what counts as a board."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch

from fewjump.problem import FiniteSupport
from fewjump.problem.sudoku import is_board, random_boards, random_clues, sudoku, units
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.sampler import sample
from fewjump.schedule import LogLinear
from sampler.oracle import chi_square_p


def test_all_small_boards() -> None:
    """Against every 4×4 table whose rows are permutations, checked cell by cell."""
    rows = list(permutations(range(4)))
    found = set()
    for board in product(rows, repeat=4):
        cells = [c for row in board for c in row]
        columns = all(len({board[r][c] for r in range(4)}) == 4 for c in range(4))
        if columns and all(
            len({board[r][c] for r in (a, a + 1) for c in (b, b + 1)}) == 4
            for a in (0, 2)
            for b in (0, 2)
        ):
            found.add(tuple(cells))
    assert {tuple(x) for x in sudoku().support.sequences.tolist()} == found
    assert len(found) == 288


def test_large_boards_are_valid_different_and_the_same_for_a_seed() -> None:
    boards = random_boards(40, 1)
    assert bool(is_board(boards).all())
    assert len(boards.unique(dim=0)) == 40
    assert torch.equal(random_boards(10, 1), boards[:10])
    assert not torch.equal(random_boards(10, 2), boards[:10])
    assert not torch.equal(random_boards(2, generator_for(1)), random_boards(2, generator_for(2)))
    cell = random_boards(400, 3)[:, 44:45]
    assert chi_square_p(cell, torch.full((9,), 1 / 9), 9) > 1e-3


def test_one_wrong_cell_is_no_board() -> None:
    board = random_boards(1, 0)
    for cell in range(81):
        wrong = board.clone()
        wrong[0, cell] = (wrong[0, cell] + 1) % 9
        assert not bool(is_board(wrong))
    # Rows and columns alone are not enough: a Latin square whose boxes repeat symbols.
    latin = (torch.arange(9)[:, None] + torch.arange(9)) % 9
    assert not bool(is_board(latin.reshape(1, 81)))
    assert bool((units(latin.reshape(1, 81))[:, :18].sort(-1).values == torch.arange(9)).all())
    with pytest.raises(ValueError, match="b⁴"):
        is_board(torch.zeros(2, 80).long())


def test_clues() -> None:
    shown = random_clues(random_boards(50, 0, base=2), 5, generator_for(1))
    assert bool((shown.sum(1) == 5).all())
    assert len(shown.unique(dim=0)) > 40
    with pytest.raises(ValueError, match=r"0\.\.16"):
        random_clues(random_boards(2, 0, base=2), 17)


@pytest.mark.parametrize("arguments", [(0,), (3, 0, 1)])
def test_impossible_requests(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="at least"):
        random_boards(*arguments)
    with pytest.raises(ValueError, match="base 2 alone"):
        sudoku(3)


def test_the_exact_joint_teacher_draws_all_boards_in_one_evaluation() -> None:
    problem = sudoku()
    process = Absorbing(5, LogLinear())
    x = sample(problem.denoiser(process, joint=True), 6000, 1, generator=1)
    at, found = problem.support.find(x)
    assert bool(found.all())
    assert chi_square_p(at[:, None], problem.probs, 288) > 1e-3
    product_samples = sample(problem.denoiser(process), 2000, 1, generator=1)
    assert float(is_board(product_samples).double().mean()) < 0.01


def test_a_list_of_large_boards_is_a_teacher() -> None:
    """Puzzles with enough clues have one board of the list that agrees."""
    boards = random_boards(200, 5)
    problem = FiniteSupport(boards, vocab_size=9)
    process = Absorbing(10, LogLinear())
    fixed = random_clues(boards, 20, generator_for(2))
    denoiser = problem.denoiser(process)
    x = sample(denoiser, 200, 2, generator=1, prompt=boards, fixed=fixed)
    assert torch.equal(x, boards)
