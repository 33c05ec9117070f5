"""Boards and points whose law is a list, at toy size."""

from __future__ import annotations

import math

import pytest
import torch

from experiments import finite_supports as supports
from fewjump.problem import FiniteSupport
from fewjump.problem.sudoku import sudoku
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.schedule import LogLinear

TINY = supports.Sizes(
    30, 16, hidden=16, blocks=1, width=16, states=8, components=8, samples=16, puzzles=4
)


def test_one_evaluation_of_the_exact_posterior_solves_everything_and_a_product_does_not() -> None:
    problem, process = sudoku(), Absorbing(5, LogLinear())
    for clues in (0, 6):
        x0, shown = supports.puzzles(problem, clues, 20, 0)
        assert (shown.sum(1) == clues).all()
        found = supports.one_evaluation(problem.denoiser(process, joint=True), problem, x0, shown)
        torch.testing.assert_close(found["solved"], torch.ones(len(x0), dtype=torch.float64))
        assert max(found["kl"].abs().max(), found["tv"].abs().max()) < 1e-9
    x0, shown = supports.puzzles(problem, 0, 20, 0)
    found = supports.one_evaluation(problem.denoiser(process), problem, x0, shown)
    # Flat marginals: every board has probability 4^−16.
    assert float(found["solved"]) == pytest.approx(288 / 4**16)
    assert float(found["kl"]) == pytest.approx(16 * math.log(4) - math.log(288))
    assert float(found["tv"]) == pytest.approx(1 - 288 / 4**16)


def test_the_effective_number_of_boards_has_no_bias() -> None:
    problem = sudoku()
    assert supports.effective_number(problem, problem.sample(4000, generator_for(1))) == (
        pytest.approx(288, rel=0.05)
    )
    few = problem.support.sequences[:4].repeat(50, 1)
    assert supports.effective_number(problem, few) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("make", [supports.eight_modes, supports.swiss_roll])
def test_points_follow_their_law_and_the_exact_posterior_has_theirs(make) -> None:
    points, law = make(0)
    assert points.shape == (20_000, 2)
    assert float(law.sum()) == pytest.approx(1)
    seen = supports.table_of(points)
    # What frequencies of N exact draws miss: Σ sqrt(2p(1 − p)/(πN))/2.
    expected = 0.5 * float((2 * law * (1 - law) / math.pi / len(points)).sqrt().sum())
    assert float((seen - law).abs().sum()) / 2 == pytest.approx(expected, rel=0.1)
    problem = FiniteSupport(points, vocab_size=supports.CELLS)
    process = Absorbing(supports.CELLS + 1, LogLinear())
    for row in supports.points_rows(problem.denoiser(process, joint=True), points, law, (1, 2)):
        assert max(row["tv"], row["kl"]) < 1e-9
        assert row["valid"] == pytest.approx(
            float(seen[supports.table_of(points[:3000]) > 0].sum())
        )
        assert row["valid"] > 0.98
    one, four = supports.points_rows(problem.denoiser(process), points, law, (1, 4))
    assert one["tv"] > four["tv"] > 0.05
    assert one["valid"] < four["valid"] < 0.95


@pytest.mark.parametrize("kind", supports.KINDS)
def test_a_student_of_boards_learns_and_is_remembered(kind, tmp_path) -> None:
    problem, trunk = sudoku(), supports.board_trunk(2)

    def judge(model):
        return supports.boards_rows(model, problem, (1, 2), 0, TINY.samples, TINY.puzzles)

    rows = supports.student_rows("4×4", kind, problem, TINY, trunk, judge, 0, tmp_path)
    assert [(r["clues"], r["steps"]) for r in rows] == [
        (clues, steps) for clues in supports.CLUES for steps in (1, 2)
    ]
    assert all(r["solved_low"] <= r["solved"] <= r["solved_high"] for r in rows)
    again = supports.student_rows("4×4", kind, problem, TINY, trunk, judge, 0, tmp_path)
    assert again == rows
    if kind != "product":
        assert rows[0]["kl"] < 16 * math.log(4) - math.log(288)
