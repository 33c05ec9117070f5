"""Boards by the rule alone: students of 4×4 Sudoku, refined by whether a board is valid.

Students of all 288 boards are distilled as in :mod:`experiments.finite_supports`, and then refined
on their own samples with the rule as the reward, held to where they start by several weights. What
one evaluation produces is known exactly: validity, and KL and TV from the uniform law of boards,
which say what became of variety. Run as ``python -m experiments.rule_refinement``; it goes on where
it was stopped.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from experiments.finite_supports import (
    BOARDS,
    STEPS,
    SUDOKU,
    Sizes,
    board_trunk,
    boards_rows,
    train_student,
)
from experiments.harness import Content, Options, Rows, kept, main, place
from fewjump import refine
from fewjump.demo.parts import made_once
from fewjump.denoiser.base import Denoiser
from fewjump.problem.sudoku import is_board, sudoku
from fewjump.random import fold_seed, generator_for

#: What a student is refined on: whole boards, or boards of which a part is shown.
WHOLE, PUZZLES = "whole boards", "puzzles"


@dataclass(frozen=True)
class Budget:
    """Budget of a refinement.

    Attributes:
        anchors: weights of the divergence from the start.
        puzzle_anchor: the one that puzzles are refined with.
        shown: largest share of a board that a puzzle shows.
    """

    steps: int = 150
    batch_size: int = 64
    draws: int = 4
    lr: float = 2e-3
    warmup: int = 10
    anchors: tuple[float, ...] = (0.05, 0.5)
    puzzle_anchor: float = 0.05
    shown: float = 0.6


@dataclass
class Config(Options):
    """Students of 4×4 boards, refined by the rule.

    Attributes:
        seeds: trainings of every student.
        kinds: of students.
    """

    seeds: int = 3
    kinds: tuple[str, ...] = ("any-order", "autoregressive", "shared-mixture", "product")


def measure(config: Config, sizes: Sizes = BOARDS, budget: Budget | None = None) -> Content:
    """Every student before and after."""
    budget = Budget() if budget is None else budget
    rows: Rows = []
    for seed in range(config.seed, config.seed + config.seeds):
        for kind in config.kinds:
            rows += _of_student(kind, seed, config, sizes, budget)
    return {"sizes": asdict(sizes), "budget": asdict(budget), "rows": rows}


def _of_student(kind: str, seed: int, config: Config, sizes: Sizes, budget: Budget) -> Rows:
    problem, trunk = sudoku(), board_trunk(2)
    # The students of finite_supports, taken up where that has trained them.
    parent = config.runs / "finite-supports"
    start = place(parent, f"{SUDOKU}-{kind}-{seed}", vars(sizes), trunk)
    student = train_student(kind, problem, sizes, trunk, seed, start)
    about: dict[str, Any] = {"student": kind, "seed": seed}

    def judged(model: Denoiser, on: str | None, anchor: float | None, seconds: float) -> Rows:
        told = {**about, "refined": on, "anchor": anchor, "training_seconds": round(seconds, 1)}
        found = boards_rows(model, problem, STEPS, seed, sizes.samples, sizes.puzzles)
        return [{**told, **row} for row in found]

    folder = place(config.runs / "rule-refinement", f"{kind}-{seed}", vars(sizes), asdict(budget))
    rows = kept(folder / "before.json", lambda: judged(student, None, None, 0.0))
    plans = [(WHOLE, anchor) for anchor in budget.anchors] + [(PUZZLES, budget.puzzle_anchor)]
    for on, anchor in plans:
        name = f"{on}-{anchor}"

        def compute(on: str = on, anchor: float = anchor, name: str = name) -> Rows:
            begin = time.perf_counter()
            more: dict[str, Any] = {}
            if on == PUZZLES:
                boards = problem.sample(budget.steps * budget.batch_size, generator_for(seed, 5))
                more = {"data": boards, "known": "scattered", "known_share": budget.shown}
            made = made_once(
                folder / name,
                lambda out: refine(
                    student,
                    source="student",
                    reward=is_board,
                    anchor=anchor,
                    draws=budget.draws,
                    steps=budget.steps,
                    batch_size=budget.batch_size,
                    lr=budget.lr,
                    warmup=budget.warmup,
                    seed=fold_seed(seed, 4),
                    guard=False,
                    device="cpu",
                    out=out,
                    **more,
                ),
            )
            return judged(made, on, anchor, time.perf_counter() - begin)

        rows += kept(folder / f"{name}.json", compute)
    return rows


if __name__ == "__main__":
    main("rule_refinement", Config, measure)
