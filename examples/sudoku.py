"""Solve puzzles in one evaluation: 4×4 Sudoku, where the exact posterior of all boards teaches.

Run: python examples/sudoku.py   (under a minute on one core)
"""

import torch

import fewjump
from fewjump.objective import JointConditionalMatching
from fewjump.problem.sudoku import is_board, random_clues, sudoku
from fewjump.process import Absorbing

problem = sudoku()  # all 288 boards; FiniteSupport(sequences) takes any list
process = Absorbing(problem.vocab_size + 1, fewjump.LogLinear())
cell = torch.arange(16)
student = fewjump.distill(
    problem.denoiser(process, joint=True),
    problem.sample(20_000, torch.Generator().manual_seed(0)),
    student="shared-mixture",
    head={"components": 512},  # room for every board
    network={
        "hidden": 64,
        "blocks": 2,
        "positions": "2d",
        "grid": (4, 4),
        "conv_kernel": 0,
        "time_conditioned": False,
        # What a cell is told of its place: row, column, box.
        "position_groups": [cell // 4, cell % 4, cell // 8 * 2 + cell % 4 // 2],
    },
    # At the times 1, 3/4, 1/2, 1/4 that share of the cells is hidden: each board is a puzzle.
    objective=JointConditionalMatching(near=0.1, steps=4),
    steps=300,
    batch_size=64,
    lr=3e-3,
    ema=0.98,
)

puzzle = "1 . . 4 | . . 1 . | . 1 . . | 4 . . 1"
marks = puzzle.replace("|", "").split()
shown = torch.tensor([mark != "." for mark in marks])
clues = torch.tensor([0 if mark == "." else int(mark) - 1 for mark in marks])
(solved,) = fewjump.sample(student, 1, steps=1, generator=0, prompt=clues[None], fixed=shown)
print("solved:" if is_board(solved[None]) else "no board:")
print(*(" ".join(str(int(s) + 1) for s in row) for row in solved.view(4, 4)), sep="\n")

teacher = problem.denoiser(process)  # position by position, as networks are
fresh = problem.sample(1000, torch.Generator().manual_seed(1))
for number in (0, 4):
    fixed = random_clues(fresh, number, torch.Generator().manual_seed(2))
    for name, model in (("teacher, per position", teacher), ("student", student)):
        boards = fewjump.sample(model, len(fresh), steps=1, generator=1, prompt=fresh, fixed=fixed)
        right = is_board(boards).double().mean()
        print(f"{number} clues, one evaluation, {name:22s} {right:.1%} valid")
