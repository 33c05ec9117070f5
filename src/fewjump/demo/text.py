"""``fewjump demo text``: the same on characters: teacher, students, few evaluations, a judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from fewjump.data import load_data
from fewjump.demo import parts
from fewjump.demo.parts import JOINT, PRODUCT, ROLES, TEACHER, TrainedDemo, evaluations
from fewjump.evaluate.meter import TEST_DATA
from fewjump.evaluate.text import TextMeter
from fewjump.report import KeyNumber, TextSamples, short


@dataclass(frozen=True)
class Sizes(parts.Sizes):
    """Budget of the text demo, whose joint student has an autoregressive head."""

    hidden: int = 96
    blocks: int = 4
    teacher_steps: int = 800
    product_steps: int = 120
    joint_steps: int = 400
    samples: int = 500
    near: float = 0.1
    length: int = 64
    width: int = 192
    lr: ClassVar[float] = 3e-3
    ema: ClassVar[float] = 0.995
    joint: ClassVar[str] = "autoregressive"

    def head(self, length: int) -> dict[str, Any]:
        return {"width": self.width}


QUICK = Sizes(
    hidden=32,
    blocks=2,
    teacher_steps=20,
    product_steps=5,
    joint_steps=5,
    samples=64,
    length=16,
    width=32,
)


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
    dataset = load_data(data or "text", sizes.length, normalise=True)
    metrics = ("nll", "entropy", "dictionary_words", "distinct_4")
    demo = TrainedDemo(out, dataset, sizes, steps, seed, metrics)
    demo.judge(lambda: TextMeter(dataset))
    decode, last = dataset.vocabulary.decode, demo.last
    texts = {key: decode(tokens) for key, tokens in demo.draws(6).items()}
    lines = [f"# {name}, {evaluations(k)}\n" + "\n".join(t) for (name, k), t in texts.items()]
    (out / "samples.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    real = decode(torch.as_tensor(dataset.test[:6]))

    def panel(name: str, k: int) -> TextSamples:
        return TextSamples(f"{name}, {evaluations(k)}", texts[name, k], ROLES[name])

    def words(name: str, k: int | None) -> str:
        return f"{100 * demo.value(name, k, 'dictionary_words'):.0f}%"

    nll, nll_real = demo.value(JOINT, 1, "nll"), demo.value(TEST_DATA, None, "nll")
    return demo.write(
        panel,
        TextSamples("real text", real, "data"),
        "texts",
        title="Text in one evaluation",
        subtitle=f"A masked diffusion teacher of {sizes.length} characters that needs {last} "
        "evaluations, and two students.",
        summary=(
            f"Words (of three letters or more) that are words of the training text: "
            f"{words(TEACHER, last)} of the teacher's with {last} evaluations "
            f"({words(TEST_DATA, None)} of real unseen text). With **one**: teacher "
            f"{words(TEACHER, 1)}, product student {words(PRODUCT, 1)}, joint student "
            f"{words(JOINT, 1)}.",
            "The first two draw every letter on its own; the joint student's light layer draws "
            "each knowing those before it.",
        ),
        key_numbers=(
            KeyNumber(words(TEACHER, 1), "real words, teacher, 1 evaluation"),
            KeyNumber(words(JOINT, 1), "real words, joint student, 1 evaluation"),
            KeyNumber(
                short(nll),
                "nats per letter under the judge, joint student, 1 evaluation; real text: "
                + short(nll_real),
            ),
        ),
    )
