"""``fewjump demo digits``: train a teacher on pictures, distil it, compare at few evaluations."""

from __future__ import annotations

from pathlib import Path

import torch

from fewjump.data import load_data
from fewjump.data.vocabulary import ImageLevels
from fewjump.demo.digits_models import (
    Sizes,
    joint_student_for,
    product_student_for,
    teacher_for,
)
from fewjump.demo.parts import Clock, draw_samples, value_of, write_demo
from fewjump.evaluate.classifier import classifier_for
from fewjump.evaluate.run import TEST_DATA, evaluate_images, image_reference
from fewjump.random import generator_for
from fewjump.report import ImageSamples, KeyNumber, SampleGroup, contact_sheet, encode_png, short
from fewjump.tokenizing import require

TEACHER, PRODUCT, JOINT = "teacher", "product student", "joint student"
DEMO = Sizes(teacher_steps=1200, product_steps=150, samples=450)
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

    Raises:
        ModuleNotFoundError: without Pillow, naming the extra, before anything is trained.
    """
    require("PIL.Image", "this demo, which saves pictures,", "report")
    sizes = QUICK if quick else DEMO
    steps = (1, 2, 4, 8) if quick else (1, 2, 4, 8, 16, 64)
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock({})
    data = load_data("digits")
    folders = {name: out / name.replace(" ", "-") for name in (TEACHER, PRODUCT, JOINT)}
    with clock.part("training the teacher on 1,200 pictures"):
        teacher = teacher_for(data, sizes, seed, folders[TEACHER])
    with clock.part("distilling the product student (the paper's objective)"):
        product = product_student_for(teacher, data, sizes, seed, folders[PRODUCT])
    with clock.part("distilling the joint student"):
        joint = joint_student_for(teacher, data, sizes, seed, folders[JOINT])
    models = {TEACHER: teacher, PRODUCT: product, JOINT: joint}
    with clock.part("training the judge"):
        judge = classifier_for(data, out / "judge.safetensors")
    rows = []
    with clock.part("sampling and judging"):
        rows += image_reference(data, judge)
        for name, model in models.items():
            # The joint student is for few steps; its long runs would only cost time.
            budget = steps if name == TEACHER else tuple(k for k in steps if k <= 8)
            rows += evaluate_images(
                model,
                data,
                budget,
                num_samples=sizes.samples,
                seeds=(seed,),
                model=name,
                classifier=judge,
                progress=lambda text: print(f"  {text}", flush=True),
            )
    vocabulary = data.vocabulary
    assert isinstance(vocabulary, ImageLevels)
    pictures: dict[str, torch.Tensor] = {}
    last = steps[-1]
    for name, model in models.items():
        for k in (1, 4, last) if name == TEACHER else (1, 4):
            tokens = draw_samples(model, 32, k, seed + 1)
            pictures[f"{name}, {k}"] = 1 - vocabulary.images(tokens)
    index = torch.randperm(len(data.test), generator=generator_for(seed, 7))[:32]
    real = 1 - vocabulary.images(torch.as_tensor(data.test)[index])
    for title, images in {**pictures, "real": real}.items():
        file = out / "samples" / f"{title.replace(', ', '-').replace(' ', '-')}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encode_png(contact_sheet(images.numpy(), 8)))

    def panel(name: str, k: int, role: str) -> ImageSamples:
        title = f"{name}, {k} evaluation{'s' * (k > 1)}"
        return ImageSamples(title, pictures[f"{name}, {k}"].numpy(), role, 8)  # type: ignore[arg-type]

    groups = [
        SampleGroup(
            f"{k} evaluation{'s' * (k > 1)} per picture",
            [panel(TEACHER, k, "teacher"), panel(PRODUCT, k, "other"), panel(JOINT, k, "student")],
        )
        for k in (1, 4)
    ]
    groups.append(
        SampleGroup(
            "What to compare with",
            [panel(TEACHER, last, "teacher"), ImageSamples("real pictures", real.numpy(), "data")],
        )
    )
    best_teacher = value_of(rows, TEACHER, last, "frechet")
    at_one = {name: value_of(rows, name, 1, "frechet") for name in models}
    reference = value_of(rows, TEST_DATA, None, "frechet")
    return write_demo(
        out,
        rows,
        clock,
        models,
        title="Handwritten digits in one evaluation",
        subtitle=f"A masked diffusion teacher that needs {last} evaluations, and two students "
        "distilled from it.",
        summary=(
            f"With {last} evaluations per picture the teacher's pictures lie at a Fréchet "
            f"distance of {short(best_teacher)} from the training set (fresh real pictures: "
            f"{short(reference)}). With **one** evaluation it is at {short(at_one[TEACHER])}, and "
            f"the product student, distilled by the paper's objective, at "
            f"{short(at_one[PRODUCT])}: both draw every pixel on its own, and no training can "
            "change what that costs.",
            f"The joint student, from the same teacher, reaches {short(at_one[JOINT])} in one "
            "evaluation. It may pass its teacher: it learns from lightly noised real pictures, "
            "whose missing pixels the teacher fills in, and there the teacher makes few mistakes.",
        ),
        key_numbers=(
            KeyNumber(short(at_one[TEACHER]), "Fréchet distance of the teacher, 1 evaluation"),
            KeyNumber(short(at_one[JOINT]), "of the joint student, 1 evaluation"),
            KeyNumber(short(best_teacher), f"of the teacher, {last} evaluations"),
        ),
        samples=groups,
        headline="frechet",
        facts={"seed": seed, "data": data.description, "pictures judged": sizes.samples},
        curves=folders,
        metrics=("frechet", "precision", "recall"),
    )
