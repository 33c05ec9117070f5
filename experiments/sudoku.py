"""9×9 Sudoku: whole boards and puzzles in a few evaluations, judged by the rules.

A masked teacher is trained on boards of our own making, and students are distilled from it by joint
conditional matching; or, with ``--source boards``, learn from the boards alone. Run as
``python -m experiments.sudoku``; it goes on where it was stopped, and ``--teacher-steps`` may be
raised later: the teacher is then trained further, and new students are distilled from it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from experiments.finite_supports import board_trunk
from experiments.harness import Content, Options, Rows, digest, kept, main, place, with_ends
from experiments.training import fitted
from fewjump import refine
from fewjump.demo.parts import TEACHER, made_once
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.objective import CrossEntropyELBO, JointConditionalMatching
from fewjump.objective.data_only import DataLikelihood
from fewjump.problem.sudoku import is_board, random_boards, random_clues
from fewjump.process import Absorbing
from fewjump.random import Generator, fold_seed, generator_for, uniform
from fewjump.sampler import Ancestral, Confidence, Sampler
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear
from fewjump.train import read_metrics

#: Which cells a step draws. The surest first keeps no law but solves puzzles.
ANY, SUREST = "any", "surest first"
#: Boards are made and kept in parts of this many.
_PART = 2_500


@dataclass(frozen=True)
class Sizes:
    """Budget of the experiment.

    Attributes:
        boards: that are made to train on, each in ``copies`` forms of its own; ``tests`` more are
            made for puzzles.
        every: teacher steps after which it is judged, for its curve.
        settling: teacher steps at the end, at a rate that falls from ``settling_lr`` to 0. They
            begin at the average of what was trained at the constant rate, which can be gone on
            with.
        samples: boards drawn at each number of steps, and puzzles of each number of clues.
        clues: of the puzzles.
        refining: optimiser steps by the rule, on puzzles that show up to the share ``shown``, held
            to the start by ``anchor``.
        grid: times but the last behind which a student of the boards alone learns.
        heads: options of each student's head.
    """

    boards: int = 50_000
    tests: int = 2_500
    copies: int = 4
    hidden: int = 128
    blocks: int = 5
    batch_size: int = 64
    teacher_lr: float = 2e-3
    every: int = 4_000
    settling: int = 1_000
    settling_lr: float = 1e-3
    student_steps: int = 1_200
    student_lr: float = 1e-3
    near: float = 0.1
    samples: int = 200
    clues: tuple[int, ...] = (20, 30, 40)
    steps: tuple[int, ...] = (1, 2, 4, 8)
    teacher_steps: tuple[int, ...] = (1, 4, 16, 81)
    refining: int = 300
    refining_batch: int = 16
    refining_lr: float = 5e-4
    anchor: float = 0.05
    shown: float = 0.6
    grid: tuple[float, ...] = (1.0, 0.875, 0.75, 0.5, 0.0)
    heads: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "any-order": {"width": 128, "columns": 9, "neighbours": (1, 9)},
            "shared-chain": {"states": 256, "length": 81},
            "autoregressive": {"width": 128, "causal": "attention", "neighbours": (1, 9)},
        }
    )

    @classmethod
    def of(cls, source: str) -> Sizes:
        """Those of a student of the boards alone have more blocks in the head than in the trunk."""
        sizes = cls()
        if source == "teacher":
            return sizes
        sizes.heads["any-order"]["blocks"] = 4
        return replace(sizes, blocks=3, student_steps=9_000, student_lr=2e-3, refining_batch=64)


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
    """Each board (N, 81) in another of the 3,359,232 × 9! forms that the rules do not tell apart.

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


def board_network(sizes: Sizes, seed: int, head: dict[str, Any] | None = None) -> NetworkDenoiser:
    """A masked network that is told rows, columns and boxes."""
    trunk = {
        "hidden": sizes.hidden,
        "blocks": sizes.blocks,
        "condition_dim": 32,
        "time_conditioned": False,
        **board_trunk(3),
    }
    torch.manual_seed(seed)
    described = {"process": Absorbing(10, LogLinear()).config(), "trunk": trunk, "length": 81}
    return NetworkDenoiser.from_config(described if head is None else {**described, "head": head})


def _taught(
    model: Denoiser, x: Tensor, sizes: Sizes, seed: int, folder: Path, **options: Any
) -> Denoiser:
    return fitted(
        model,
        CrossEntropyELBO("elbo"),
        x,
        out=folder,
        batch_size=sizes.batch_size,
        weight_decay=0.01,
        ema=0.995,
        seed=seed,
        log_every=50,
        save_every=50,
        **options,
    )


def train_teacher(
    x: Tensor, sizes: Sizes, steps: int, seed: int, folder: Path, **options: Any
) -> Denoiser:
    """Trained up to ``steps``, from where it was stopped. A constant rate lets steps be raised."""
    rate = {"steps": steps, "lr": sizes.teacher_lr, "decay": "constant"}
    return _taught(board_network(sizes, seed), x, sizes, seed, folder, **rate, **options)


def settled(
    teacher: Denoiser, x: Tensor, sizes: Sizes, seed: int, folder: Path, **options: Any
) -> Denoiser:
    """The teacher after steps at a falling rate."""
    rate = {"steps": sizes.settling, "lr": sizes.settling_lr}
    return _taught(deepcopy(teacher), x, sizes, fold_seed(seed, 2), folder, **rate, **options)


def train_student(
    kind: str,
    teacher: NetworkDenoiser,
    x: Tensor,
    sizes: Sizes,
    seed: int,
    folder: Path,
    **options: Any,
) -> Denoiser:
    """Starts at the teacher, and matches its joint conditional at any time."""
    student = board_network(sizes, fold_seed(seed, 1), {"kind": kind, **sizes.heads[kind]})
    student.warm_start(teacher)
    return fitted(
        student,
        JointConditionalMatching("forward", near=sizes.near),
        x,
        teacher,
        folder,
        steps=sizes.student_steps,
        batch_size=sizes.batch_size,
        lr=sizes.student_lr,
        seed=seed,
        log_every=50,
        save_every=50,
        **options,
    )


def train_alone(
    kind: str, x: Tensor, sizes: Sizes, seed: int, folder: Path, **options: Any
) -> Denoiser:
    """Learns whole boards from none and from parts of them, without a teacher."""
    return fitted(
        board_network(sizes, fold_seed(seed, 1), {"kind": kind, **sizes.heads[kind]}),
        DataLikelihood(grid=sizes.grid),
        x,
        None,
        folder,
        steps=sizes.student_steps,
        batch_size=sizes.batch_size,
        lr=sizes.student_lr,
        ema=0.995,
        seed=seed,
        log_every=50,
        save_every=50,
        **options,
    )


def refine_student(
    student: Denoiser, x: Tensor, sizes: Sizes, seed: int, folder: Path, **options: Any
) -> Denoiser:
    """Refined on its own answers to puzzles, with the rule as the reward."""
    return made_once(
        folder,
        lambda out: refine(
            student,
            data=x,
            source="student",
            reward=is_board,
            anchor=sizes.anchor,
            known="scattered",
            known_share=sizes.shown,
            steps=sizes.refining,
            batch_size=sizes.refining_batch,
            lr=sizes.refining_lr,
            warmup=10,
            seed=fold_seed(seed, 4),
            guard=False,
            device="cpu",
            out=out,
            save_every=50,
            **options,
        ),
    )


def drawn(
    model: Denoiser,
    steps: int,
    sizes: Sizes,
    seed: int,
    test: Tensor,
    clues_of_rows: tuple[int, ...],
    sampler: Sampler | str = "ancestral",
) -> Rows:
    """Whole boards and puzzles in so many steps: shares of valid ones, with 95% intervals.

    ``different`` is the share of draws that are valid boards and no two alike.
    """
    rows = []
    for clues in clues_of_rows:
        x0 = test[: sizes.samples]
        shown = random_clues(x0, clues, generator_for(seed, clues))
        made = draw(
            model,
            len(x0),
            steps,
            sampler,
            generator=seed,
            prompt=x0,
            fixed=shown,
            batch_size=sizes.samples,
        )
        right = is_board(made.samples) & ((made.samples == x0) | ~shown).all(-1)
        found = bootstrap(right.double(), mean, generator_for(0))
        row: dict[str, Any] = {"clues": clues, "steps": steps, "samples": len(x0)}
        row |= with_ends("valid", found)
        row["seconds"] = round(made.seconds, 3)
        if not clues:
            row["different"] = len(made.samples[right].unique(dim=0)) / len(x0)
        rows.append(row)
    return rows


@dataclass
class Config(Options):
    """9×9 Sudoku.

    Attributes:
        source: what students learn from: a teacher and boards, or boards alone.
        teacher_steps: optimiser steps of the teacher.
        students: kinds that are distilled from it.
        refined: those of them that are refined by the rule, too.
        precision: of the trainings; bfloat16, by autocast, pays where the processor multiplies in
            it. Boards are drawn in float32.
        compile: compile the networks that are trained, which needs a C++ compiler.
    """

    source: Literal["teacher", "boards"] = "teacher"
    teacher_steps: int = 12_000
    students: tuple[str, ...] = ("any-order", "shared-chain", "autoregressive")
    refined: tuple[str, ...] = ("any-order",)
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def training(self) -> dict[str, Any]:
        """How every network is trained."""
        return {"precision": self.precision, "compile": self.compile}


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """The teacher's curve, then teacher and students at every number of steps."""
    sizes = Sizes.of(config.source) if sizes is None else sizes
    known = boards(sizes.boards + sizes.tests, config.seed, config.runs)
    test = known[sizes.boards :]
    x = other_forms(known[: sizes.boards].repeat(sizes.copies, 1), generator_for(config.seed, 1))
    if config.source == "boards":
        return measure_alone(config, sizes, x, test)
    parent, seed = config.runs / "sudoku", config.seed
    asked = ("boards", "copies", "hidden", "blocks", "batch_size", "teacher_lr")
    parts = [getattr(sizes, name) for name in asked]
    folder = place(parent, f"teacher-{seed}", *parts)
    options = config.training()
    curve, teacher = [], None
    for steps in range(sizes.every, config.teacher_steps + 1, sizes.every):
        file = folder / f"judged-{steps}.json"
        if steps + sizes.every > config.teacher_steps or not file.is_file():
            teacher = train_teacher(x, sizes, steps, seed, folder, **options)
            model = teacher

            def judge(model: Denoiser = model) -> Rows:
                return drawn(model, 81, sizes, seed, test, (0,))

            kept(file, judge)
        curve += [{"teacher_steps": steps, **row} for row in kept(file, list)]
    if not isinstance(teacher, NetworkDenoiser):
        raise ValueError(f"teacher_steps must be at least {sizes.every}")
    at = [config.teacher_steps, sizes.settling, sizes.settling_lr]
    alone, folder = folder, place(parent, f"settled-{seed}", *parts, *at)
    teacher = settled(teacher, x, sizes, seed, folder, **options)
    assert isinstance(teacher, NetworkDenoiser)
    stages = {f"{TEACHER}, constant rate": alone, f"{TEACHER}, falling rate": folder}
    costs = [_cost(name, place, sizes.batch_size) for name, place in stages.items()]
    rows = _rows(TEACHER, teacher, sizes.teacher_steps, sizes, config, test, folder)
    for kind in config.students:
        settings = [*parts, *at, sizes.student_steps, sizes.student_lr]
        place_of = place(parent, f"{kind}-{seed}", *settings, sizes.near, sizes.heads[kind])
        student = train_student(kind, teacher, x, sizes, seed, place_of, **options)
        judged = _judged(kind, kind, student, x, test, sizes, config, place_of)
        costs, rows = costs + judged[0], rows + judged[1]
    return {
        "teacher_steps": config.teacher_steps,
        "precision": config.precision,
        "sizes": asdict(sizes),
        "curve": curve,
        "costs": costs,
        "rows": rows,
    }


def measure_alone(config: Config, sizes: Sizes, x: Tensor, test: Tensor) -> Content:
    """Students of the boards alone at every number of steps."""
    costs, rows = [], []
    asked = ("boards", "copies", "hidden", "blocks", "batch_size", "student_steps", "student_lr")
    about = [*(getattr(sizes, name) for name in asked), sizes.grid]
    for kind in config.students:
        label = f"{kind}-of-boards-{config.seed}"
        folder = place(config.runs / "sudoku", label, *about, sizes.heads[kind])
        student = train_alone(kind, x, sizes, config.seed, folder, **config.training())
        judged = _judged(kind, f"{kind} of boards", student, x, test, sizes, config, folder)
        costs, rows = costs + judged[0], rows + judged[1]
    return {"precision": config.precision, "sizes": asdict(sizes), "costs": costs, "rows": rows}


def _judged(
    kind: str,
    name: str,
    student: Denoiser,
    x: Tensor,
    test: Tensor,
    sizes: Sizes,
    config: Config,
    folder: Path,
) -> tuple[list[dict[str, Any]], Rows]:
    """What a student took and draws; and, if it is asked for, the same refined by the rule."""
    costs = [_cost(name, folder, sizes.batch_size)]
    rows = _rows(name, student, sizes.steps, sizes, config, test, folder)
    if kind in config.refined:
        about = [sizes.refining, sizes.refining_batch, sizes.refining_lr, sizes.anchor]
        refined = folder / f"refined-{digest(*about, sizes.shown)}"
        better = refine_student(student, x, sizes, config.seed, refined, **config.training())
        costs.append(_cost(f"{name}, refined", refined, sizes.refining_batch))
        rows += _rows(f"{name}, refined", better, sizes.steps, sizes, config, test, refined)
    return costs, rows


def _cost(name: str, folder: Path, batch_size: int) -> dict[str, Any]:
    """What a training took; a teacher is asked for single sequences."""
    lines = [line for line in read_metrics(folder) if "loss" in line]
    last = lines[-1]
    asked = sum(line.get("teacher_evaluations", 0.0) for line in lines) / len(lines)
    return {
        "model": name,
        "steps": last["step"],
        "minutes": round(last["seconds"] / 60, 1),
        "teacher_evaluations": round(batch_size * asked * last["step"]),
    }


def _rows(
    name: str,
    model: Denoiser,
    steps: tuple[int, ...],
    sizes: Sizes,
    config: Config,
    test: Tensor,
    folder: Path,
) -> Rows:
    about = {
        "student": name,
        "seed": config.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    out = []
    for order, sampler in {ANY: Ancestral(), SUREST: Confidence()}.items():
        # In one step there is no order.
        for number in steps if order == ANY else steps[1:]:

            def judge(number: int = number, sampler: Sampler = sampler) -> Rows:
                return drawn(model, number, sizes, config.seed, test, (0, *sizes.clues), sampler)

            chosen = "" if order == ANY else "surest-"
            file = folder / f"rows-{chosen}{config.teacher_steps}-{number}.json"
            out += [{**about, "order": order, **row} for row in kept(file, judge)]
    return out


if __name__ == "__main__":
    main("sudoku_{source}", Config, measure)
