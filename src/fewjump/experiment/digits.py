"""Digits: a masked teacher and its students, at 1 to 64 evaluations, with several seeds.

Run as ``python -m fewjump.experiment.digits``; each training resumes where it was stopped, and a
model that is finished is loaded. ``--seed`` is the first of the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fewjump.api import distill, train_teacher
from fewjump.data import Dataset, load_data
from fewjump.denoiser.base import Denoiser
from fewjump.experiment.demo_parts import made_once
from fewjump.objective import JointConditionalMatching
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear

STEPS = (1, 2, 4, 8, 16, 64)


@dataclass(frozen=True)
class Sizes:
    """Budget of one seed; the defaults are those of the committed result."""

    hidden: int = 64
    blocks: int = 4
    teacher_steps: int = 2000
    product_steps: int = 400
    joint_steps: int = 1200
    components: int = 48
    batch_size: int = 64
    samples: int = 450

    def network(self) -> dict[str, object]:
        """Options of the transformer for 8×8 images."""
        return {
            "hidden": self.hidden,
            "blocks": self.blocks,
            "heads": 4,
            "positions": "2d",
            "grid": (8, 8),
            "conv_kernel": 3,
        }


def process_for(data: Dataset) -> Absorbing:
    """Masking over the data's tokens and one mask."""
    return Absorbing(data.vocab_size + 1, LogLinear())


def teacher_for(data: Dataset, sizes: Sizes, seed: int, out: Path) -> Denoiser:
    """The teacher of one seed, trained or, if it is finished, loaded."""

    def make(folder: Path) -> Denoiser:
        return train_teacher(
            data,
            process_for(data),
            network=sizes.network(),
            steps=sizes.teacher_steps,
            batch_size=sizes.batch_size,
            lr=2e-3,
            weight_decay=0.01,
            ema=0.998,
            seed=seed,
            out=folder,
            save_every=200,
        )

    return made_once(out, make)


def product_student_for(
    teacher: Denoiser, data: Dataset, sizes: Sizes, seed: int, out: Path
) -> Denoiser:
    """The paper's student: one table per position, Algorithm 1, warm-started from the teacher."""

    def make(folder: Path) -> Denoiser:
        return distill(
            teacher,
            data,
            student="product",
            objective="student-euler",
            steps=sizes.product_steps,
            batch_size=sizes.batch_size,
            lr=5e-4,
            ema=0.99,
            seed=seed,
            out=folder,
            save_every=200,
        )

    return made_once(out, make)


def joint_student_for(
    teacher: Denoiser, data: Dataset, sizes: Sizes, seed: int, out: Path
) -> Denoiser:
    """A mixture of product laws over whole pictures, matched to the teacher's joint conditional."""

    def make(folder: Path) -> Denoiser:
        return distill(
            teacher,
            data,
            student="mixture",
            objective=JointConditionalMatching(near=0.1, steps=4),
            head={"components": sizes.components, "rank": 24, "length": data.length},
            steps=sizes.joint_steps,
            batch_size=sizes.batch_size,
            lr=2e-3,
            ema=0.99,
            seed=seed,
            out=folder,
            save_every=200,
        )

    return made_once(out, make)


def train_all(sizes: Sizes, seeds: tuple[int, ...], runs: Path) -> None:
    """Every model of the experiment, seed by seed."""
    data = load_data("digits")
    for seed in seeds:
        teacher = teacher_for(data, sizes, seed, runs / f"digits-teacher-{seed}")
        product_student_for(teacher, data, sizes, seed, runs / f"digits-product-{seed}")
        joint_student_for(teacher, data, sizes, seed, runs / f"digits-joint-{seed}")
