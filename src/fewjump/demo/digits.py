"""``fewjump demo digits``: train a teacher on pictures, distil it, compare at few evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from fewjump.config import optional
from fewjump.data import load_data
from fewjump.data.vocabulary import ImageLevels
from fewjump.demo import parts
from fewjump.demo.parts import JOINT, PRODUCT, ROLES, TEACHER, TrainedDemo, evaluations
from fewjump.evaluate.image import ImageMeter, classifier_for
from fewjump.evaluate.meter import TEST_DATA
from fewjump.random import generator_for
from fewjump.report import ImageSamples, KeyNumber, contact_sheet, encode_png, short


@dataclass(frozen=True)
class Sizes(parts.Sizes):
    """Budget of one seed; the defaults are those of ``experiments/digits.py``.

    The joint student is a mixture of product laws over whole pictures. Its teacher is asked at
    s = 0.3·t, where it fills in a third of each picture: with 1,200 pictures to learn from, almost
    a component for each needs the variety.
    """

    hidden: int = 64
    blocks: int = 4
    teacher_steps: int = 2000
    product_steps: int = 400
    joint_steps: int = 250
    samples: int = 450
    near: float = 0.3
    components: int = 1024
    lr: ClassVar[float] = 2e-3
    ema: ClassVar[float] = 0.998
    joint: ClassVar[str] = "shared-mixture"

    def network(self) -> dict[str, Any]:
        return {**super().network(), "positions": "2d", "grid": (8, 8), "conv_kernel": 3}

    def head(self, length: int) -> dict[str, Any]:
        return {"components": self.components, "rank": 24, "length": length}


DEMO = Sizes(teacher_steps=1200, product_steps=150)
QUICK = Sizes(
    hidden=32, blocks=2, teacher_steps=20, product_steps=5, joint_steps=5, samples=64, components=4
)


def run_demo(out: Path, seed: int = 0, quick: bool = False) -> Path:
    """Train, distil, sample, judge and report; returns the report's path.

    Args:
        out: folder for the models, results.json, pictures and report.html. What it already holds
            of a demo that was stopped is taken up.
        seed: of every draw.
        quick: tiny sizes that only show that everything works.
    """
    optional("PIL.Image", "this demo, which saves pictures,", "report")
    sizes = QUICK if quick else DEMO
    steps = (1, 2, 4, 8) if quick else (1, 2, 4, 8, 16, 64)
    data = load_data("digits")
    metrics = ("frechet", "precision", "recall")
    demo = TrainedDemo(out, data, sizes, steps, seed, metrics)
    demo.judge(lambda: ImageMeter(data, classifier_for(data, out / "judge.safetensors")))
    vocabulary = data.vocabulary
    assert isinstance(vocabulary, ImageLevels)
    drawn = {key: 1 - vocabulary.images(tokens) for key, tokens in demo.draws(32).items()}
    index = torch.randperm(len(data.test), generator=generator_for(seed, 7))[:32]
    real = 1 - vocabulary.images(torch.as_tensor(data.test)[index])
    (out / "samples").mkdir(exist_ok=True)
    files = {f"{name.replace(' ', '-')}-{k}": images for (name, k), images in drawn.items()}
    for stem, images in {**files, "real": real}.items():
        sheet = encode_png(contact_sheet(images.numpy(), 8))
        (out / "samples" / f"{stem}.png").write_bytes(sheet)

    def panel(name: str, k: int) -> ImageSamples:
        return ImageSamples(f"{name}, {evaluations(k)}", drawn[name, k].numpy(), ROLES[name], 8)

    at_one = {name: demo.value(name, 1, "frechet") for name in ROLES}
    best = demo.value(TEACHER, demo.last, "frechet")
    reference = demo.value(TEST_DATA, None, "frechet")
    return demo.write(
        panel,
        ImageSamples("real pictures", real.numpy(), "data"),
        "pictures",
        title="Handwritten digits in one evaluation",
        subtitle=f"A masked diffusion teacher that needs {demo.last} evaluations, and two "
        "students.",
        summary=(
            f"Fréchet distance from the training set: teacher {short(best)} with {demo.last} "
            f"evaluations (fresh real pictures {short(reference)}). With **one**: teacher "
            f"{short(at_one[TEACHER])}, product student {short(at_one[PRODUCT])}, joint student "
            f"{short(at_one[JOINT])}.",
            "The first two draw every pixel on its own; the joint student draws a whole picture.",
        ),
        key_numbers=(
            KeyNumber(short(at_one[TEACHER]), "Fréchet distance of the teacher, 1 evaluation"),
            KeyNumber(short(at_one[JOINT]), "of the joint student, 1 evaluation"),
            KeyNumber(short(best), f"of the teacher, {demo.last} evaluations"),
        ),
    )
