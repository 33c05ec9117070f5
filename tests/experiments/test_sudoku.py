"""9×9 Sudoku, at toy size."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import sudoku
from fewjump.problem import FiniteSupport
from fewjump.problem.sudoku import is_board, random_boards
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.schedule import LogLinear

TINY = sudoku.Sizes(
    boards=12,
    tests=4,
    copies=2,
    hidden=16,
    blocks=1,
    batch_size=4,
    every=2,
    settling=2,
    student_steps=2,
    refining=2,
    refining_batch=2,
    samples=4,
    clues=(40,),
    steps=(1, 2),
    teacher_steps=(1, 4),
    heads={"any-order": {"width": 16, "columns": 9, "neighbours": (1, 9)}},
)


def test_other_forms_are_boards_and_all_differ() -> None:
    x = random_boards(3, 1).repeat(20, 1)
    other = sudoku.other_forms(x, generator_for(1))
    assert is_board(other).all()
    assert len(other.unique(dim=0)) == len(other)
    # The cells of the first row's first symbol leave their rows, columns and boxes.
    place = (other == 0).long().argmax(1)
    assert len(place.unique()) > 5


def test_the_experiment_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sudoku, "_PART", 8)
    config = sudoku.Config(runs=tmp_path, teacher_steps=2, students=("any-order",))
    first = sudoku.measure(config, TINY)
    assert [r["teacher_steps"] for r in first["curve"]] == [2]
    cells = {(r["student"], r["order"], r["steps"]) for r in first["rows"]}
    for name, most in ((sudoku.TEACHER, 4), ("any-order", 2), ("any-order, refined", 2)):
        assert {cell for cell in cells if cell[0] == name} == {
            (name, sudoku.ANY, 1),
            (name, sudoku.ANY, most),
            (name, sudoku.SUREST, most),
        }
    again = sudoku.measure(config, TINY)
    assert again["rows"] == first["rows"]
    further = sudoku.measure(dataclasses.replace(config, teacher_steps=4), TINY)
    assert further["curve"][:1] == first["curve"]
    assert [r["teacher_steps"] for r in further["curve"]] == [2, 4]
    with pytest.raises(ValueError, match="at least 2"):
        sudoku.measure(dataclasses.replace(config, teacher_steps=1), TINY)


def test_students_of_boards_alone_have_no_teacher(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sudoku, "_PART", 8)
    config = sudoku.Config(source="boards", runs=tmp_path, students=("any-order",))
    found = sudoku.measure(config, TINY)
    names = {row["student"] for row in found["rows"]}
    assert names == {"any-order of boards", "any-order of boards, refined"}
    assert found["costs"][0]["teacher_evaluations"] == 0
    assert sudoku.measure(config, TINY)["rows"] == found["rows"]
    # Only the head is deeper, and what is distilled keeps the sizes that its rows were made with.
    deep, plain = sudoku.Sizes.of("boards"), sudoku.Sizes.of("teacher")
    assert deep.heads["any-order"] == {**plain.heads["any-order"], "blocks": 4}
    assert plain == sudoku.Sizes()


def test_clues_stay_and_the_true_board_counts() -> None:
    boards = random_boards(4, 2)

    knowing = FiniteSupport(boards).denoiser(Absorbing(10, LogLinear()), joint=True)
    rows = sudoku.drawn(knowing, 1, TINY, 0, boards, (0, 40))
    assert [(r["clues"], r["valid"]) for r in rows] == [(0, 1.0), (40, 1.0)]
    assert 0 < rows[0]["different"] <= 1
