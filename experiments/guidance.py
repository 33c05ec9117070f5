"""Digits by class: what guidance does to class accuracy and Fréchet distance, and its students.

Run as ``python -m experiments.guidance``; each training resumes where it was stopped, and what is
finished is loaded. A masked teacher is told the class of a digit, or nothing. Guided rollouts, each
with a scale of its own, then teach two students that take the scale as an input: a product student,
and a mixture of product laws over whole pictures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.harness import Content, Options, Rows, kept, main, place
from fewjump.api import distill, train_teacher
from fewjump.data import Dataset, load_data
from fewjump.demo.digits import Sizes as DigitSizes
from fewjump.demo.parts import JOINT, PRODUCT, TEACHER, made_once
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.image import ImageMeter
from fewjump.evaluate.meter import quality
from fewjump.objective import JointConditionalMatching
from fewjump.process import Absorbing
from fewjump.rollouts import rollouts
from fewjump.schedule import LogLinear

CLASSES = 10
SHOWN = ("class_accuracy", "frechet", "precision", "recall")


@dataclass(frozen=True)
class Sizes:
    """Budget of one seed.

    Attributes:
        hidden, blocks: of the transformer.
        teacher_steps, product_steps, joint_steps, batch_size: of the trainings.
        rollouts, rollout_steps: guided samples to learn from, and the teacher's steps for each.
        scales: least and largest scale of the students.
        components: of the joint student's mixture.
        samples: that are judged at each scale.
    """

    hidden: int = 64
    blocks: int = 2
    teacher_steps: int = 1200
    product_steps: int = 400
    joint_steps: int = 300
    batch_size: int = 64
    rollouts: int = 1500
    rollout_steps: int = 32
    scales: tuple[float, float] = (0.0, 4.0)
    components: int = 512
    samples: int = 300


@dataclass
class Config(Options):
    """Digits by class: guidance, and students that take its scale as an input."""

    seeds: int = 1
    """How many trainings of everything."""

    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    """Guidance scales that are judged."""

    sizes: Sizes = field(default_factory=Sizes)


def settings_of(sizes: Sizes) -> dict[str, list[Any]]:
    """What each model, and the rollouts, depend on."""
    settings = asdict(sizes)
    taught = [settings[k] for k in ("hidden", "blocks", "teacher_steps", "batch_size")]
    drawn = [*taught, *(settings[k] for k in ("rollouts", "rollout_steps", "scales"))]
    return {
        TEACHER: taught,
        "rollouts": drawn,
        PRODUCT: [*drawn, sizes.product_steps],
        JOINT: [*drawn, sizes.joint_steps, sizes.components],
    }


def trained(data: Dataset, sizes: Sizes, seed: int, runs: Path) -> dict[str, Denoiser]:
    """The teacher and its two students, trained where they are not yet."""
    settings = settings_of(sizes)

    def folder(name: str) -> Path:
        return place(runs, f"guidance-{name}-{seed}", settings[name])

    common: dict[str, Any] = {"batch_size": sizes.batch_size, "seed": seed, "save_every": 100}
    network = DigitSizes(hidden=sizes.hidden, blocks=sizes.blocks).network()
    teacher = made_once(
        folder(TEACHER),
        lambda out: train_teacher(
            data,
            Absorbing(data.vocab_size + 1, LogLinear()),
            network={**network, "time_conditioned": False},
            classes=CLASSES,
            steps=sizes.teacher_steps,
            lr=2e-3,
            weight_decay=0.01,
            ema=0.998,
            out=out,
            **common,
        ),
    )
    samples = folder("rollouts").with_suffix(".npz")
    samples.parent.mkdir(parents=True, exist_ok=True)
    rollouts(
        teacher,
        samples,
        sizes.rollouts,
        sizes.rollout_steps,
        guidance=sizes.scales,
        seed=seed,
        batch_size=200,
    )
    guided = load_data(samples, vocab_size=data.vocab_size, image_shape=(8, 8), test_fraction=0.0)
    product = made_once(
        folder(PRODUCT),
        lambda out: distill(
            teacher,
            guided,
            guidance=sizes.scales,
            steps=sizes.product_steps,
            lr=2e-3,
            ema=0.99,
            out=out,
            **common,
        ),
    )
    joint = made_once(
        folder(JOINT),
        lambda out: distill(
            teacher,
            guided,
            student="shared-mixture",
            objective=JointConditionalMatching(near=0.3, steps=4),
            head={"components": sizes.components, "rank": 24, "length": data.length},
            guidance=sizes.scales,
            steps=sizes.joint_steps,
            lr=3e-3,
            ema=0.99,
            out=out,
            **common,
        ),
    )
    return {TEACHER: teacher, PRODUCT: product, JOINT: joint}


def measure(config: Config) -> Content:
    """Rows of each model at each scale: the teacher at 64 steps, students at 1 and 4."""
    data, sizes = load_data("digits"), config.sizes
    meter = ImageMeter(data)
    rows = [{**vars(row), "scale": None, "seed": None} for row in meter.reference()]
    for seed in range(config.seed, config.seed + config.seeds):
        for name, model in trained(data, sizes, seed, config.runs).items():
            for scale in config.scales:
                rows += judged(name, model, meter, sizes, seed, scale, config.runs)
    shown = [row for row in rows if row["metric"] in SHOWN]
    return {"rows": shown, "sizes": asdict(sizes), "scales": list(config.scales)}


def judged(
    name: str,
    model: Denoiser,
    meter: ImageMeter,
    sizes: Sizes,
    seed: int,
    scale: float,
    runs: Path,
) -> Rows:
    """The rows of one model, seed and scale, computed once."""

    def compute() -> Rows:
        found = quality(
            model,
            meter,
            [64] if name == TEACHER else [1, 4],
            num_samples=sizes.samples,
            seeds=(seed,),
            model=name,
            guidance=scale,
            progress=print,
        )
        return [{**vars(row), "scale": scale, "seed": seed} for row in found]

    label = f"guidance-{name}-{seed}-at-{scale:g}"
    settings = [*settings_of(sizes)[name], sizes.samples]
    return kept(place(runs, label, settings) / "rows.json", compute)


if __name__ == "__main__":
    main("guidance", Config, measure)
