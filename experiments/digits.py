"""Digits: a masked teacher and its students, at 1 to 64 evaluations, with several seeds.

Run as ``python -m experiments.digits``; each training resumes where it was stopped, and a
model that is finished is loaded. ``--seed`` is the first of the three seeds. About 35 minutes on
one idle core, estimated from single steps; ``--threads 2`` makes it shorter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from experiments.harness import Content, Options, Rows, kept, main, place
from fewjump.data import load_data
from fewjump.demo.digits import Sizes
from fewjump.demo.parts import JOINT, PRODUCT, TEACHER, Clock, train_models
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.image import ImageMeter
from fewjump.evaluate.likelihood import one_evaluation_nll
from fewjump.evaluate.meter import mean_over_seeds, quality
from fewjump.results import Row

STEPS = (1, 2, 4, 8, 16, 64)
JOINT_STEPS = (1, 2, 4, 8, 16)


def folders(sizes: Sizes, seed: int, runs: Path) -> dict[str, Path]:
    """Where the models of one seed are."""
    settings = asdict(sizes)
    return {
        name: place(runs, f"digits-{name}-{seed}", settings) for name in (TEACHER, PRODUCT, JOINT)
    }


@dataclass
class Config(Options):
    """Digits: a masked teacher and its students.

    Attributes:
        seeds: how many trainings of everything.
    """

    seeds: int = 3
    sizes: Sizes = field(default_factory=Sizes)


def measure(config: Config) -> Content:
    """Train what is not trained yet, then judge every model: the joint student at 1 to 16 steps.

    ``one_evaluation_nll`` has for each model and seed what one evaluation gives to unseen pictures
    and to those of the training, in nats per pixel.
    """
    sizes, seeds = config.sizes, range(config.seed, config.seed + config.seeds)
    data = load_data("digits")
    meter = ImageMeter(data)
    rows = [vars(row) for row in meter.reference()]
    per_model: dict[str, list[list[Row]]] = {}
    likelihood = []
    parts = {part: data.all(part) for part in ("test", "train")}
    for seed in seeds:
        places = folders(sizes, seed, config.runs)
        for name, model in train_models(data, sizes, seed, places, Clock()).items():
            found = judged(name, model, meter, sizes, seed, places[name])
            per_model.setdefault(name, []).append(found)
            nll = {part: one_evaluation_nll(model, x0)[0] for part, x0 in parts.items()}
            likelihood.append({"model": name, "seed": seed, **nll})
    for runs_of_model in per_model.values():
        for same in zip(*runs_of_model, strict=True):
            rows.append(vars(mean_over_seeds(same)))
    return {
        "rows": rows,
        "one_evaluation_nll": likelihood,
        "seeds": list(seeds),
        "sizes": asdict(sizes),
    }


def judged(
    name: str,
    model: Denoiser,
    meter: ImageMeter,
    sizes: Sizes,
    seed: int,
    folder: Path,
) -> list[Row]:
    """The rows of one model and seed, computed once."""
    steps = JOINT_STEPS if name == JOINT else STEPS

    def compute() -> Rows:
        found = quality(
            model,
            meter,
            steps,
            num_samples=sizes.samples,
            seeds=(seed,),
            model=name,
            progress=print,
        )
        return [vars(row) for row in found]

    return [Row(**row) for row in kept(folder / "rows.json", compute)]


if __name__ == "__main__":
    main("digits", Config, measure)
