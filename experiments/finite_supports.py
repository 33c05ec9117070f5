"""Data that are a list: all 4×4 Sudoku boards, and points of the plane on a 50×50 grid.

The exact posterior of the list is the teacher; students of every kind are distilled from it on the
four-step grid. Whether a sample is in the list needs no judge. What one evaluation produces is
known exactly for boards, with and without clues, and what any number of steps produces for points.
Points follow the protocol of VADD (arXiv 2505.17384): 20,000 of them, V = 50, L = 2. Run as
``python -m experiments.finite_supports``; it goes on where it was stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.harness import LEFT, Content, Options, Rows, kept, main, place, with_ends
from experiments.masked_law import MaskedTables, masked_output_law
from experiments.training import distilled, network
from fewjump import sample
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.evaluate.exact import kl, tv
from fewjump.problem import FiniteSupport, Problem
from fewjump.problem.sudoku import is_board, random_clues, sudoku
from fewjump.process import Absorbing
from fewjump.random import fold_seed, generator_for, integers, uniform
from fewjump.sampler import Ancestral
from fewjump.schedule import LogLinear

SUDOKU, EXACT = "4×4 Sudoku", "exact product teacher"
KINDS = ("product", "shared-mixture", "shared-chain", "any-order", "autoregressive")
STEPS = (1, 2, 4)
TEACHER_STEPS = (1, 2, 4, 8, 16)

# -- points of the plane ---------------------------------------------------------------------------

POINTS, JUDGES, CELLS = 20_000, 3_000, 50
MODES, WIDTH = 8, 0.09
ROLL_NOISE, ROLL_SCALE = 0.45, 7.5


def cells(points: Tensor) -> Tensor:
    """Cell 0..49 of every coordinate: 49 borders from −3 to 3, the outer cells without end."""
    return torch.bucketize(points, torch.linspace(-3, 3, CELLS - 1, dtype=points.dtype))


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal float64 draws."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def eight_modes(seed: int) -> tuple[Tensor, Tensor]:
    """Normal points around 8 centres: cells (20,000, 2), and their true law (50, 50)."""
    generator = generator_for(seed, 1)
    centres = 5 * uniform((MODES, 2), generator) - 2.5
    which = integers(MODES, (POINTS,), generator)
    points = centres[which] + WIDTH * normal((POINTS, 2), generator)
    return cells(points), _smeared(centres, WIDTH)


def swiss_roll(seed: int) -> tuple[Tensor, Tensor]:
    """A noisy spiral: cells (20,000, 2), and their true law (50, 50)."""
    generator = generator_for(seed, 2)
    noise = ROLL_NOISE / ROLL_SCALE
    points = _spiral(uniform((POINTS,), generator)) + noise * normal((POINTS, 2), generator)
    middles = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    return cells(points), _smeared(_spiral(middles), noise)


def _spiral(u: Tensor) -> Tensor:
    """Points (N, 2) of the spiral at u in (0, 1)."""
    angle = 1.5 * math.pi * (1 + 2 * u)
    return torch.stack([angle * angle.cos(), angle * angle.sin()], -1) / ROLL_SCALE


def _smeared(centres: Tensor, width: float) -> Tensor:
    """Law over cells of normal points around equally likely centres (N, 2)."""
    borders = torch.linspace(-3, 3, CELLS - 1, dtype=torch.float64)
    below = torch.special.ndtr((borders - centres[..., None]) / width)
    ends = torch.zeros_like(below[..., :1]), torch.ones_like(below[..., :1])
    each = torch.cat([ends[0], below, ends[1]], -1).diff()
    return each[:, 0].mT @ each[:, 1] / len(centres)


def points_rows(model: Denoiser, points: Tensor, law: Tensor, steps: tuple[int, ...]) -> Rows:
    """Exact numbers of what ``model`` produces in each number of steps.

    TV and KL are from the law of the 20,000 points, which were learned, and TV also from the true
    one. Valid is what falls into a cell that one of the first 3,000 points is in, which is what the
    protocol's validity comes down to.
    """
    tables, rows = MaskedTables(model), []
    seen = table_of(points)
    for count in steps:
        out = masked_output_law(tables, count)
        out = out / out.sum()
        rows.append(
            {
                "steps": count,
                "tv": tv(seen, out),
                "kl": kl(seen, out),
                "true_tv": tv(law, out),
                "valid": float(out[table_of(points[:JUDGES]) > 0].sum()),
            }
        )
    return rows


def table_of(points: Tensor) -> Tensor:
    """Frequencies of cells: (N, 2) → (50, 50) float64."""
    counts = torch.bincount(points[:, 0] * CELLS + points[:, 1], minlength=CELLS**2)
    return (counts.double() / len(points)).reshape(CELLS, CELLS)


# -- 4×4 boards ------------------------------------------------------------------------------------

CLUES = (0, 2, 4, 6, 8)


def puzzles(problem: FiniteSupport, clues: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boards (count, 16) and which cells of them are shown; a single one without clues."""
    generator = generator_for(seed, 3, clues)
    x0 = problem.sample(count if clues else 1, generator)
    return x0, random_clues(x0, clues, generator)


@torch.no_grad()
def one_evaluation(
    model: Denoiser, problem: FiniteSupport, x0: Tensor, shown: Tensor
) -> dict[str, Tensor]:
    """Exact numbers of one evaluation for each puzzle: (N,) float64 each.

    ``solved`` is the probability of a board that fits the clues; KL and TV are from the uniform law
    of those that do.
    """
    assert model.process.mask is not None
    law = model(torch.where(shown, x0, model.process.mask), 1.0)
    boards = problem.support.sequences
    fits = ((boards == x0[:, None]) | ~shown[:, None]).all(-1)
    row, board = fits.nonzero(as_tuple=True)
    found = law.select(row).log_prob(boards[board]).double()
    share = 1 / fits.sum(1).double()
    solved, divergence, distance = torch.zeros(3, len(x0), dtype=torch.float64)
    solved.index_add_(0, row, found.exp())
    divergence.index_add_(0, row, share[row] * (share[row].log() - found))
    distance.index_add_(0, row, (share[row] - found.exp()).abs())
    return {"solved": solved, "kl": divergence, "tv": (distance + 1 - solved) / 2}


def boards_rows(
    model: Denoiser,
    problem: FiniteSupport,
    steps: tuple[int, ...],
    seed: int,
    samples: int,
    count: int,
    left: bool = False,
) -> Rows:
    """One row for each number of clues and steps, with 95% intervals over puzzles or samples.

    ``left`` reveals cells from left to right, in several steps; otherwise by chance.
    """
    rows = []
    for clues in CLUES:
        x0, shown = puzzles(problem, clues, count, seed)
        # Puzzles are solved in one evaluation and in the most.
        asked = steps if not clues else (1, steps[-1])
        for number in [k for k in asked if k > 1 or not left]:
            row: dict[str, Any] = {"clues": clues, "steps": number}
            if number == 1:
                for name, values in one_evaluation(model, problem, x0, shown).items():
                    row |= _with_ends(name, values)
            else:
                many = samples // len(x0)
                prompt, fixed = (part.repeat_interleave(many, 0) for part in (x0, shown))
                drawn = sample(
                    model,
                    len(prompt),
                    number,
                    Ancestral(block=1 if left else None),
                    generator=seed,
                    prompt=prompt,
                    fixed=fixed,
                )
                right = is_board(drawn) & ((drawn == prompt) | ~fixed).all(-1)
                # Draws of one puzzle are no independent items.
                each = right.double() if not clues else right.double().reshape(-1, many).mean(1)
                row |= _with_ends("solved", each)
                if not clues:
                    row["effective_boards"] = effective_number(problem, drawn[right])
            rows.append(row)
    return rows


def effective_number(problem: FiniteSupport, drawn: Tensor) -> float | None:
    """1/Σp² of valid boards, Σp² being the share of pairs that are equal, which has no bias.

    Equal to the number of boards, 288, if all come alike; None if no two were equal.
    """
    at, _ = problem.support.find(drawn)
    counts = torch.bincount(at).double()
    total = float(counts.sum())
    pairs = float((counts * (counts - 1)).sum())
    return total * (total - 1) / pairs if pairs else None


def _with_ends(name: str, values: Tensor) -> dict[str, float | None]:
    """A mean and its interval; of a single value, which is exact, both ends are the value."""
    if len(values) == 1:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float(values))
    return with_ends(name, bootstrap(values, mean, generator_for(0)))


# -- students --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Networks and trainings of one kind of data."""

    steps: int
    batch_size: int
    hidden: int
    blocks: int
    width: int
    states: int
    components: int
    lr: float = 3e-3
    near: float = 0.1
    samples: int = 2_000
    puzzles: int = 200


BOARDS = Sizes(300, 64, hidden=64, blocks=2, width=64, states=256, components=512)
PLANE = Sizes(300, 128, hidden=32, blocks=2, width=64, states=128, components=128, lr=5e-3)


def head_options(kind: str, sizes: Sizes, columns: int | None) -> dict[str, Any]:
    """Options of a head; ``columns`` of a board, for those that look along them."""
    if kind == "product":
        return {}
    if kind == "shared-mixture":
        return {"components": sizes.components}
    if kind == "shared-chain":
        return {"states": sizes.states}
    if columns is None:
        return {"width": sizes.width, "neighbours": (1,)}
    near: dict[str, Any] = {"width": sizes.width, "neighbours": (1, columns)}
    return near | ({"columns": columns} if kind == "any-order" else {"causal": "attention"})


def board_trunk(base: int) -> dict[str, Any]:
    """What a network of boards is told of places: rows, columns and boxes."""
    cell = torch.arange(base**4)
    row, column = cell // base**2, cell % base**2
    box = row // base * base + column // base
    return {
        "positions": "2d",
        "grid": (base**2, base**2),
        "conv_kernel": 0,
        "position_groups": [part.tolist() for part in (row, column, box)],
    }


def train_student(
    kind: str, problem: Problem, sizes: Sizes, trunk: dict[str, Any], seed: int, out: Path | None
) -> Denoiser:
    """Distil the exact joint posterior on the four-step grid; averaged weights."""
    process = Absorbing(problem.vocab_size + 1, LogLinear())
    columns = None if "grid" not in trunk else trunk["grid"][1]
    student = network(
        process,
        problem.length,
        fold_seed(seed, 1),
        {"kind": kind, **head_options(kind, sizes, columns)},
        hidden=sizes.hidden,
        blocks=sizes.blocks,
        heads=4,
        condition_dim=32,
        time_conditioned=False,
        **trunk,
    )
    return distilled(
        student,
        problem,
        sizes.near,
        seed,
        out,
        steps=sizes.steps,
        batch_size=sizes.batch_size,
        lr=sizes.lr,
    )


def student_rows(
    name: str,
    kind: str,
    problem: Problem,
    sizes: Sizes,
    trunk: dict[str, Any],
    judge: Callable[[Denoiser], Rows],
    seed: int,
    runs: Path,
) -> Rows:
    """Train (or go on with) one student and judge it."""
    folder = place(runs / "finite-supports", f"{name}-{kind}-{seed}", vars(sizes), trunk)

    def compute() -> Rows:
        begin = time.perf_counter()
        student = train_student(kind, problem, sizes, trunk, seed, folder)
        about = {
            "problem": name,
            "student": kind,
            "seed": seed,
            "parameters": sum(p.numel() for p in student.parameters()),
            "training_seconds": round(time.perf_counter() - begin, 1),
        }
        return [{**about, **row} for row in judge(student)]

    return kept(folder / "rows.json", compute)


@dataclass
class Config(Options):
    """Students of finite supports: 4×4 boards and points of the plane.

    Attributes:
        seeds: trainings of every student, and sets of points.
        kinds: of students.
    """

    seeds: int = 3
    kinds: tuple[str, ...] = KINDS


def measure(config: Config, boards: Sizes = BOARDS, plane: Sizes = PLANE) -> Content:
    """Teachers and students of boards and of points, seed by seed."""
    found: dict[str, Rows] = {"boards": [], "points": []}
    for seed in range(config.seed, config.seed + config.seeds):
        found["boards"] += _of_boards(boards, seed, config)
        for name, make in {"8 modes": eight_modes, "swiss roll": swiss_roll}.items():
            found["points"] += _of_points(name, make, plane, seed, config)
    return found


def _of_boards(sizes: Sizes, seed: int, config: Config) -> Rows:
    problem, trunk = sudoku(), board_trunk(2)

    def judge(model: Denoiser, steps: tuple[int, ...] = STEPS) -> Rows:
        asked = problem, steps, seed, sizes.samples, sizes.puzzles
        found = boards_rows(model, *asked)
        if model.autoregressive:
            left = boards_rows(model, *asked, left=True)
            found += [{**row, "student": f"{model.kind}{LEFT}"} for row in left]
        return found

    rows: Rows = []
    if seed == config.seed:  # the teacher has no training that another seed could repeat
        teacher = problem.denoiser(Absorbing(problem.vocab_size + 1, LogLinear()))
        folder = place(config.runs / "finite-supports", f"boards-teacher-{seed}", vars(sizes))
        about = {"problem": SUDOKU, "student": EXACT, "seed": seed}
        judged = kept(folder / "rows.json", lambda: judge(teacher, TEACHER_STEPS))
        rows += [{**about, **row} for row in judged]
    for kind in config.kinds:
        rows += student_rows(SUDOKU, kind, problem, sizes, trunk, judge, seed, config.runs)
    return rows


def _of_points(
    name: str,
    make: Callable[[int], tuple[Tensor, Tensor]],
    sizes: Sizes,
    seed: int,
    config: Config,
) -> Rows:
    points, law = make(seed)
    problem = FiniteSupport(points, vocab_size=CELLS)
    about = {"problem": name, "seed": seed}
    seen = table_of(points)
    valid = float(seen[table_of(points[:JUDGES]) > 0].sum())
    rows: Rows = [{**about, "student": "the points", "true_tv": tv(law, seen), "valid": valid}]
    teacher = problem.denoiser(Absorbing(CELLS + 1, LogLinear()))
    for row in points_rows(teacher, points, law, STEPS):
        rows.append({**about, "student": EXACT, **row})
    trunk = {"conv_kernel": 0, "position_groups": [[0, 1]]}
    for kind in config.kinds:
        rows += student_rows(
            name,
            kind,
            problem,
            sizes,
            trunk,
            lambda model: points_rows(model, points, law, STEPS),
            seed,
            config.runs,
        )
    return rows


if __name__ == "__main__":
    main("finite_supports", Config, measure)
