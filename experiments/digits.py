"""Digits: a masked teacher and its students, at 1 to 64 evaluations, with several seeds.

Run as ``python -m experiments.digits``; each training resumes where it was stopped, and a
model that is finished is loaded. ``--seed`` is the first of the three seeds. About 35 minutes on
one idle core, estimated from single steps; ``--threads 2`` makes it shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.harness import Content, Options, kept, main, place
from fewjump.data import Dataset, load_data
from fewjump.demo.digits import Sizes
from fewjump.demo.parts import JOINT, PRODUCT, TEACHER, Clock, train_models
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import over_seeds
from fewjump.evaluate.classifier import ImageClassifier, classifier_for
from fewjump.evaluate.frontier import Row
from fewjump.evaluate.likelihood import one_evaluation_nll
from fewjump.evaluate.run import evaluate_images, image_reference

STEPS = (1, 2, 4, 8, 16, 64)
JOINT_STEPS = (1, 2, 4, 8, 16)


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
        folders = {TEACHER: "teacher", PRODUCT: "product", JOINT: "joint"}
        places = {name: runs / f"digits-{stem}-{seed}" for name, stem in folders.items()}
        for name, model in train_models(data, sizes, seed, places, Clock()).items():
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
    steps = JOINT_STEPS if name == JOINT else STEPS

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

    path = place(runs / "digits-rows", f"{name} {seed}", asdict(sizes)) / "rows.json"
    return [Row(**row) for row in kept(path, compute)]


def mean_row(rows: Sequence[Row]) -> Row:
    """Mean over seeds with its interval; see :func:`fewjump.evaluate.bootstrap.over_seeds`."""
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


@dataclass
class Config(Options):
    """Digits: a masked teacher and its students, at 1 to 64 evaluations."""

    seeds: int = 3
    """Trainings of every model."""


def measure(config: Config) -> Content:
    """Each training resumes where it was stopped, and a finished model is loaded."""
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    return experiment(Sizes(), seeds, config.runs)


if __name__ == "__main__":
    main("digits", Config, measure)
