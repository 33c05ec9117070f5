"""What matters in a joint student of names: its kind, its size, where x_s comes from, and s.

Every variant is distilled from the same masked teacher of
:mod:`experiments.text_students` (which is trained first where it is not there) with the same
short budget. Judged by the exact log-likelihood that one evaluation gives to unseen names (for the
latent student a bound), and by how far the trigrams of 1- and 4-step samples are from the data's.
Run as

    python -m experiments.text_ablation --names names.txt

It goes on where it was stopped; ``--seeds`` says how many trainings of every variant.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.harness import Content, Options, Rows, digest, kept, main, place
from experiments.text_sizes import SIZES, Sizes, load_corpus
from experiments.text_students import Workshop, training_seconds
from fewjump.api import distill
from fewjump.demo.parts import Clock, made_once
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import parameter_counts
from fewjump.evaluate.likelihood import one_evaluation_nll
from fewjump.evaluate.text import TextMeter
from fewjump.objective import (
    ConditionalMatching,
    JointConditionalMatching,
    LatentMatching,
    Objective,
)
from fewjump.options.matching import JointIntermediate, Near
from fewjump.sampler import run as draw

STEPS = (1, 4)


@dataclass(frozen=True)
class Trial:
    """One variant.

    Attributes:
        student: kind of head.
        size: in words.
        head: options of the head that go with it.
        source: how x_s is drawn.
        near: where s lies.
    """

    student: str
    size: str
    head: dict[str, Any]
    source: JointIntermediate = "forward"
    near: Near = 0.1

    def objective(self, sizes: Sizes, steps: int) -> Objective:
        """What the variant is trained by."""
        if self.student == "product":
            return ConditionalMatching("forward", steps=sizes.grid_steps)
        options: dict[str, Any] = {"near": self.near, "steps": sizes.grid_steps}
        if self.student == "latent":
            return LatentMatching(self.source, kl_warmup=steps // 2, **options)
        return JointConditionalMatching(self.source, **options)


def trials(length: int) -> list[Trial]:
    """Kinds and sizes; then sources and nearness for one kind that is strong and one that is fast.

    Args:
        length: of the templates: names begin where they begin.
    """
    at = {"length": length}
    shared = {"states": 128, **at}
    return [
        Trial("product", "–", {}),
        *(Trial("mixture", f"K={k}", {"components": k, **at}) for k in (16, 64)),
        Trial("shared-mixture", "K=256", {"components": 256, **at}),
        *(Trial("chain", f"r={r}", {"states": r, **at}) for r in (8, 32)),
        *(Trial("shared-chain", f"r={r}", {"states": r, **at}) for r in (32, 128, 256)),
        *(Trial("latent", f"size {n}", {"categories": 0, "size": n, **at}) for n in (8, 32)),
        *(Trial("autoregressive", f"width {w}", {"width": w}) for w in (32, 128)),
        *(Trial("shared-chain", "r=128", shared, near=near) for near in ("zero", 0.3, "uniform")),
        Trial("shared-chain", "r=128", shared, near="adaptive"),
        Trial("shared-chain", "r=128", shared, source="teacher-rollout"),
        Trial("shared-chain", "r=128", shared, source="student"),
        *(
            Trial("autoregressive", "width 128", {"width": 128}, near=near)
            for near in ("zero", "uniform")
        ),
        Trial("autoregressive", "width 128", {"width": 128}, source="teacher-rollout"),
    ]


def rows_of(
    trial: Trial,
    shop: Workshop,
    teacher: Denoiser,
    meter: TextMeter,
    steps: int,
) -> Rows:
    """The variant's rows, one a number of sampling steps; trained, loaded or remembered."""
    sizes = shop.sizes
    settings = (asdict(trial), steps, sizes.network(), sizes.batch_size, sizes.teacher_steps)
    label = f"{shop.corpus}-{trial.student}-{shop.seed}"
    folder = place(shop.runs / "text-ablation", label, *settings)

    def make(out: Path) -> Denoiser:
        return distill(
            teacher,
            shop.data,
            student=trial.student,
            head=trial.head,
            objective=trial.objective(sizes, steps),
            steps=steps,
            batch_size=sizes.batch_size,
            lr=3e-3 if trial.student != "product" else 5e-4,
            ema=0.99,
            seed=shop.seed,
            out=out,
            save_every=200,
        )

    def compute() -> dict[str, Any]:
        student = made_once(folder, make).for_sampling()
        begin = time.perf_counter()
        nll, half = one_evaluation_nll(student, shop.data.all("test", sizes.samples))
        about = {
            "student": trial.student,
            "size": trial.size,
            "source": trial.source,
            "near": trial.near,
            "seed": shop.seed,
            "parameters": parameter_counts(student)["total"],
            "training_seconds": training_seconds(folder),
            "data_nll": nll,
            "data_nll_half_width": half,
        }
        rows = []
        for count in STEPS:
            samples = draw(student, sizes.samples, count, "ancestral", generator=shop.seed).samples
            scores = meter.measure(samples, shop.seed, sizes.replicates)
            values = {name: scores[name].value for name in ("trigram_tv", "nll", "entropy")}
            rows.append({**about, "steps": count, **values})
        return {"rows": rows, "measuring_seconds": round(time.perf_counter() - begin, 3)}

    with shop.clock.part(f"{trial.student} {trial.size}, {trial.source}, s {trial.near}"):
        return kept(folder / f"rows-{digest(sizes.samples)}.json", compute)["rows"]


@dataclass(kw_only=True)
class Config(Options):
    """Kinds and sizes of students of names, sources of x_s, and s.

    Attributes:
        names: file with one name of a–z per line.
        steps: optimiser steps of a variant.
        seeds: trainings of every variant.
    """

    names: Path
    steps: int = 400
    seeds: int = 1


def measure(
    config: Config, sizes: Sizes = SIZES["names"], chosen: Sequence[Trial] | None = None
) -> Content:
    """Every variant of every seed; of :func:`trials` unless others are chosen."""
    data = load_corpus("names", sizes, config.names, None)
    meter, rows = TextMeter(data), []
    for seed in range(config.seed, config.seed + config.seeds):
        shop = Workshop("names", data, sizes, seed, config.runs, Clock())
        teacher = shop.teacher()
        for trial in trials(data.length) if chosen is None else chosen:
            rows += rows_of(trial, shop, teacher, meter, config.steps)
    return {"data": data.description, "steps": config.steps, "rows": rows}


if __name__ == "__main__":
    main("text_ablation", Config, measure)
