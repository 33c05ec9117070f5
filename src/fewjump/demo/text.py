"""``fewjump demo text``: the same on characters: teacher, students, few evaluations, a judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewjump.api import distill, train_teacher
from fewjump.data import Dataset, load_data
from fewjump.demo.parts import Clock, draw_samples, made_once, value_of, write_demo
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.run import TEST_DATA, evaluate_text, text_reference
from fewjump.evaluate.text import TextMeter
from fewjump.objective import JointConditionalMatching
from fewjump.process import Absorbing
from fewjump.report import KeyNumber, SampleGroup, TextSamples, short
from fewjump.schedule import LogLinear

TEACHER, PRODUCT, JOINT = "teacher", "product student", "joint student"


@dataclass(frozen=True)
class Sizes:
    """Budget of the text demo."""

    length: int = 64
    hidden: int = 96
    blocks: int = 4
    teacher_steps: int = 800
    product_steps: int = 120
    joint_steps: int = 400
    batch_size: int = 64
    samples: int = 500
    width: int = 192


QUICK = Sizes(
    length=16,
    hidden=32,
    blocks=2,
    teacher_steps=20,
    product_steps=5,
    joint_steps=5,
    samples=64,
    width=32,
)


def train_models(
    data: Dataset, sizes: Sizes, seed: int, out: Path, clock: Clock
) -> dict[str, Denoiser]:
    """The teacher, the paper's student and the autoregressive-head student."""
    process = Absorbing(data.vocab_size + 1, LogLinear())
    network: dict[str, Any] = {"hidden": sizes.hidden, "blocks": sizes.blocks, "heads": 4}
    common: dict[str, Any] = {"batch_size": sizes.batch_size, "seed": seed, "save_every": 200}
    with clock.part("training the teacher"):
        teacher = made_once(
            out / "teacher",
            lambda folder: train_teacher(
                data,
                process,
                network=network,
                steps=sizes.teacher_steps,
                lr=3e-3,
                weight_decay=0.01,
                ema=0.995,
                out=folder,
                **common,
            ),
        )
    with clock.part("distilling the product student (the paper's objective)"):
        product = made_once(
            out / "product-student",
            lambda folder: distill(
                teacher,
                data,
                objective="student-euler",
                steps=sizes.product_steps,
                lr=5e-4,
                ema=0.99,
                out=folder,
                **common,
            ),
        )
    with clock.part("distilling the joint student (autoregressive head)"):
        joint = made_once(
            out / "joint-student",
            lambda folder: distill(
                teacher,
                data,
                student="autoregressive",
                objective=JointConditionalMatching(near=0.1, steps=4),
                head={"width": sizes.width},
                steps=sizes.joint_steps,
                lr=3e-3,
                ema=0.99,
                out=folder,
                **common,
            ),
        )
    return {TEACHER: teacher, PRODUCT: product, JOINT: joint}


def run_demo(out: Path, data: Path | None = None, seed: int = 0, quick: bool = False) -> Path:
    """Train, distil, sample, judge and report; returns the report's path.

    Args:
        out: folder for the models, results.json, samples and report.html. What it already holds
            of a demo that was stopped is taken up.
        data: a text file; by default the documentation that Python ships.
        seed: of every draw.
        quick: tiny sizes that only show that everything works.
    """
    sizes = QUICK if quick else Sizes()
    steps = (1, 2, 4) if quick else (1, 2, 4, 8, 16, 64)
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock({})
    if data is None:
        dataset = load_data("text", sizes.length)
    else:
        dataset = load_data(data, sizes.length, normalise=True)
    models = train_models(dataset, sizes, seed, out, clock)
    with clock.part("training the judge"):
        meter = TextMeter(dataset)
        rows = text_reference(dataset, meter)
    with clock.part("sampling and judging"):
        for name, model in models.items():
            rows += evaluate_text(
                model,
                dataset,
                steps if name == TEACHER else [k for k in steps if k <= 8],
                num_samples=sizes.samples,
                seeds=(seed,),
                model=name,
                meter=meter,
                progress=lambda text: print(f"  {text}", flush=True),
            )
    last = steps[-1]
    decode = dataset.vocabulary.decode
    texts = {
        (name, k): decode(draw_samples(model, 6, k, seed + 1))
        for name, model in models.items()
        for k in ((1, 4, last) if name == TEACHER else (1, 4))
    }
    lines = [f"# {name}, {k} evaluations\n" + "\n".join(t) for (name, k), t in texts.items()]
    (out / "samples.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    real = decode(torch.as_tensor(dataset.test[:6]))

    def group(k: int) -> SampleGroup:
        return SampleGroup(
            f"{k} evaluation{'s' * (k > 1)}",
            [
                TextSamples(TEACHER, texts[TEACHER, k], "teacher"),
                TextSamples(PRODUCT, texts[PRODUCT, k], "other"),
                TextSamples(JOINT, texts[JOINT, k], "student"),
            ],
        )

    compare = SampleGroup(
        "What to compare with",
        [
            TextSamples(f"{TEACHER}, {last} evaluations", texts[TEACHER, last], "teacher"),
            TextSamples("real text", real, "data"),
        ],
    )

    def words(name: str, k: int | None) -> str:
        return f"{100 * value_of(rows, name, k, 'dictionary_words'):.0f}%"

    return write_demo(
        out,
        rows,
        clock,
        models,
        title="Text in one evaluation",
        subtitle=f"A masked diffusion teacher of {sizes.length} characters that needs {last} "
        "evaluations, and two students distilled from it.",
        summary=(
            f"With {last} evaluations {words(TEACHER, last)} of the teacher's words (of three "
            f"letters or more) are words of the training text; of real unseen text it is "
            f"{words(TEST_DATA, None)}. With **one** evaluation the teacher makes "
            f"{words(TEACHER, 1)} and the product student {words(PRODUCT, 1)}, because both draw "
            "every letter on its own.",
            f"The joint student, from the same teacher, makes {words(JOINT, 1)} in one evaluation "
            "of the network: a light layer draws the letters one after the other, so that each "
            "knows those before it.",
        ),
        key_numbers=(
            KeyNumber(words(TEACHER, 1), "real words, teacher, 1 evaluation"),
            KeyNumber(words(JOINT, 1), "real words, joint student, 1 evaluation"),
            KeyNumber(
                short(value_of(rows, JOINT, 1, "nll")),
                "nats per letter under the judge, joint student, 1 evaluation; real text: "
                + short(value_of(rows, TEST_DATA, None, "nll")),
            ),
        ),
        samples=[group(1), group(4), compare],
        headline="nll",
        facts={"seed": seed, "data": dataset.description, "texts judged": sizes.samples},
        curves={
            TEACHER: out / "teacher",
            PRODUCT: out / "product-student",
            JOINT: out / "joint-student",
        },
        metrics=("nll", "entropy", "dictionary_words", "distinct_4"),
    )
