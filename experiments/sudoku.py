"""9×9 Sudoku: whole boards and puzzles in a few evaluations, judged by the rules.

A masked teacher is trained on boards of our own making, and students are distilled from it by joint
conditional matching. Whether a board is valid needs no judge. Run as ``python -m
experiments.sudoku``; it goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.harness import place
from experiments.training import fitted
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import CrossEntropyELBO
from fewjump.problem.sudoku import random_boards
from fewjump.process import Absorbing
from fewjump.random import Generator, fold_seed, uniform
from fewjump.schedule import LogLinear

#: Boards are made and kept in parts of this many.
_PART = 2_500


@dataclass(frozen=True)
class Sizes:
    """Budget of the experiment.

    Attributes:
        boards: that are made; each is trained on in ``copies`` forms of its own.
        teacher_steps: optimiser steps.
    """

    boards: int = 50_000
    copies: int = 4
    hidden: int = 128
    blocks: int = 5
    batch_size: int = 64
    teacher_steps: int = 6_000
    teacher_lr: float = 2e-3


def boards(count: int, seed: int, runs: Path) -> Tensor:
    """``count`` random boards (count, 81), made once."""
    folder = runs / "sudoku" / f"boards-{seed}"
    parts = []
    for number in range(-(-count // _PART)):
        file = folder / f"{number}.pt"
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            made = random_boards(_PART, fold_seed(seed, number))
            torch.save(made.to(torch.uint8), file.with_suffix(".tmp"))
            file.with_suffix(".tmp").replace(file)
        parts.append(torch.load(file))
    return torch.cat(parts)[:count].long()


def other_forms(x: Tensor, generator: Generator) -> Tensor:
    """Each board (N, 81) in another of the 3·10⁶ × 9! forms that the rules do not tell apart.

    Symbols are renamed; bands of rows change places, and rows within bands; so do columns; and half
    of the boards are transposed.
    """
    n = len(x)
    names = uniform((n, 9), generator).argsort(-1)
    x = names.gather(1, x).reshape(n, 9, 9)
    for _ in range(2):
        bands = uniform((n, 3, 1), generator).argsort(1)
        order = (3 * bands + uniform((n, 3, 3), generator).argsort(-1)).reshape(n, 9, 1)
        x = x.gather(1, order.expand(-1, -1, 9)).mT
    turned = uniform((n, 1, 1), generator) < 0.5
    return torch.where(turned, x.mT, x).reshape(n, 81)


def board_network(sizes: Sizes, seed: int) -> NetworkDenoiser:
    """A masked network that is told rows, columns and boxes."""
    cell = torch.arange(81)
    row, column = cell // 9, cell % 9
    box = row // 3 * 3 + column // 3
    trunk = {
        "hidden": sizes.hidden,
        "blocks": sizes.blocks,
        "positions": "2d",
        "grid": (9, 9),
        "conv_kernel": 0,
        "condition_dim": 32,
        "time_conditioned": False,
        "position_groups": [part.tolist() for part in (row, column, box)],
    }
    torch.manual_seed(seed)
    process = Absorbing(10, LogLinear())
    return NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": 81})


def train_teacher(x: Tensor, sizes: Sizes, seed: int, runs: Path) -> Denoiser:
    """Trained to the end of its steps, from where it was stopped."""
    return fitted(
        board_network(sizes, seed),
        CrossEntropyELBO("elbo"),
        x,
        out=place(runs / "sudoku", f"teacher-{seed}", vars(sizes)),
        steps=sizes.teacher_steps,
        batch_size=sizes.batch_size,
        lr=sizes.teacher_lr,
        weight_decay=0.01,
        ema=0.995,
        seed=seed,
        log_every=50,
        save_every=50,
    )
