"""Digits: a masked teacher and its students, at 1 to 64 evaluations, with several seeds.

Run as ``python -m fewjump.demo.digits_models``; each training resumes where it was stopped, and a
model that is finished is loaded. ``--seed`` is the first of the three seeds. About 35 minutes on
one idle core, estimated from single steps; ``--threads 2`` makes it shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fewjump.api import distill, train_teacher
from fewjump.data import Dataset, load_data
from fewjump.demo.parts import made_once
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.classifier import ImageClassifier, classifier_for
from fewjump.evaluate.frontier import Row
from fewjump.evaluate.likelihood import one_evaluation_nll
from fewjump.evaluate.run import evaluate_images, image_reference
from fewjump.objective import JointConditionalMatching
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from fewjump.verify.results import Experiment, remembered
from fewjump.verify.verdicts import over_seeds

STEPS = (1, 2, 4, 8, 16, 64)
JOINT_STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Sizes:
    """Budget of one seed; the defaults are those of the committed result."""

    hidden: int = 64
    blocks: int = 4
    teacher_steps: int = 2000
    product_steps: int = 400
    joint_steps: int = 250
    components: int = 1024
    near: float = 0.3
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
    """A mixture of product laws over whole pictures, matched to the teacher's joint conditional.

    The teacher is asked at s = 0.3 t, where it fills in a third of each picture: with 1,200
    pictures to learn from, almost a component for each needs the variety.
    """

    def make(folder: Path) -> Denoiser:
        return distill(
            teacher,
            data,
            student="shared-mixture",
            objective=JointConditionalMatching(near=sizes.near, steps=4),
            head={"components": sizes.components, "rank": 24, "length": data.length},
            steps=sizes.joint_steps,
            batch_size=sizes.batch_size,
            lr=3e-3,
            ema=0.99,
            seed=seed,
            out=folder,
            save_every=200,
        )

    return made_once(out, make)


def models_for(data: Dataset, sizes: Sizes, seed: int, runs: Path) -> dict[str, Denoiser]:
    """The models of one seed."""
    teacher = teacher_for(data, sizes, seed, runs / f"digits-teacher-{seed}")
    product = product_student_for(teacher, data, sizes, seed, runs / f"digits-product-{seed}")
    joint = joint_student_for(teacher, data, sizes, seed, runs / f"digits-joint-{seed}")
    return {"teacher": teacher, "product student": product, "joint student": joint}


def experiment(sizes: Sizes, seeds: tuple[int, ...], runs: Path) -> dict[str, Any]:
    """Train what is not trained yet, then judge every model: the joint student at 1 to 16 steps.

    ``one_evaluation_nll`` has for each model and seed what one evaluation gives to unseen pictures
    and to those of the training, in nats per pixel.
    """
    data = load_data("digits")
    judge = classifier_for(data)
    rows = [vars(row) for row in image_reference(data, judge)]
    per_model: dict[str, list[list[Row]]] = {}
    likelihood = []
    parts = {part: data.all(part) for part in ("test", "train")}
    for seed in seeds:
        for name, model in models_for(data, sizes, seed, runs).items():
            found = judged(name, model, data, judge, sizes, seed, runs)
            per_model.setdefault(name, []).append(found)
            nll = {part: one_evaluation_nll(model, x0)[0] for part, x0 in parts.items()}
            likelihood.append({"model": name, "seed": seed, **nll})
    for runs_of_model in per_model.values():
        for same in zip(*runs_of_model, strict=True):
            rows.append(vars(mean_row(same)))
    return {
        "rows": rows,
        "one_evaluation_nll": likelihood,
        "seeds": list(seeds),
        "sizes": asdict(sizes),
    }


def judged(
    name: str,
    model: Denoiser,
    data: Dataset,
    judge: ImageClassifier,
    sizes: Sizes,
    seed: int,
    runs: Path,
) -> list[Row]:
    """The rows of one model and seed, computed once."""
    steps = JOINT_STEPS if name == "joint student" else STEPS

    def compute() -> list[dict[str, Any]]:
        found = evaluate_images(
            model,
            data,
            steps,
            num_samples=sizes.samples,
            seeds=(seed,),
            model=name,
            classifier=judge,
            progress=print,
        )
        return [vars(row) for row in found]

    path = runs / "digits-rows" / f"{name.replace(' ', '-')}-{seed}.json"
    return [Row(**row) for row in remembered(path, asdict(sizes), compute)]


def mean_row(rows: Sequence[Row]) -> Row:
    """Mean over seeds with its interval; see :func:`fewjump.verify.verdicts.over_seeds`."""
    found = [
        {"value": r.value, "value_low": r.low or r.value, "value_high": r.high or r.value}
        for r in rows
    ]
    mean, low, high = over_seeds(found, "value")
    seconds = [row.seconds for row in rows if row.seconds is not None]
    return replace(
        rows[0],
        value=mean,
        low=low,
        high=high,
        seconds=sum(seconds) / len(seconds) if seconds else None,
    )


def main() -> None:
    run = Experiment("digits")
    seeds = tuple(range(run.seed, run.seed + 3))
    run.save(experiment(Sizes(), seeds, Path("runs")))


if __name__ == "__main__":
    main()
