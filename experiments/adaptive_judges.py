"""Names, running text and digits as the adaptive experiment needs them: teachers and judges.

Two kinds of judgement. ``bound`` is :func:`fewjump.evaluate.likelihood.path_bound` on unseen data,
in nats per token: a proper score of the sampler with its grid, compared on the same sequences and
nearly the same noise. The others look at samples: judge NLL at matched trigram entropy and trigram
total variation for names and text; Fréchet distance, and what precision and recall lack of 1, for
digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments import text_sizes
from experiments.digits import folders
from experiments.harness import Rows
from experiments.text_quality import measure_text, reference_row
from experiments.text_students import Workshop
from fewjump.api import train_teacher
from fewjump.data import Dataset
from fewjump.demo import digits
from fewjump.demo.parts import TEACHER, Clock, made_once, teacher_for
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.image import ImageClassifier, ImageMeter
from fewjump.evaluate.likelihood import one_evaluation_nlls, path_bound
from fewjump.evaluate.meter import quality
from fewjump.evaluate.text import TextMeter
from fewjump.process import Process, Uniform
from fewjump.schedule import LogLinear

#: A metric's value, and the ends of its interval.
Score = tuple[float, float, float]


@dataclass
class TextBench:
    """Names, or running text, with its teachers and its judge.

    Attributes:
        name: of the corpus.
        data: its sequences.
        sizes: of its teachers and sets of samples.
        teacher_steps: of the uniform-noise teachers, which are trained here; 0 for none.
        meter: judge of samples.
        target: the trigram entropy of real sequences, in nats.
    """

    name: str
    data: Dataset
    sizes: text_sizes.Sizes
    teacher_steps: int = 0
    meter: TextMeter = field(init=False)
    target: float = field(init=False)

    def __post_init__(self) -> None:
        self.meter = TextMeter(self.data)
        self.target = reference_row(self.data, self.meter, self.sizes.samples)["entropy"]

    @property
    def teachers(self) -> int:
        """How many masked teachers there are; more seeds take them in turn."""
        return self.sizes.seeds

    def masked_teacher(self, seed: int, runs: Path) -> Denoiser:
        """The teacher of the corpus's own experiment, loaded (trained if it is not there)."""
        own = seed % self.teachers
        return Workshop(self.name, self.data, self.sizes, own, runs, Clock()).teacher()

    def network(self) -> dict[str, Any]:
        """Options of a uniform-noise teacher's transformer."""
        return {**self.sizes.network(), "time_conditioned": True}

    def sampled(self, model: Denoiser, steps: int, grid: Tensor, seed: int) -> dict[str, Score]:
        """What is measured on samples, less being better."""
        sizes = self.sizes
        found = measure_text(
            model, self.meter, steps, sizes.samples, seed, self.target, sizes.replicates, grid
        )
        names = [n for n in ("matched_nll", "trigram_tv") if found[n] is not None]
        return {n: (found[n], found[f"{n}_low"], found[f"{n}_high"]) for n in names}


@dataclass
class DigitsBench:
    """Digits of 8×8 pixels with the same, and the classifier whose features are compared."""

    data: Dataset
    judge: ImageClassifier
    sizes: digits.Sizes = field(default_factory=digits.Sizes)
    teachers: int = 3
    teacher_steps: int = 0
    name: str = "digits"
    meter: ImageMeter = field(init=False)

    def __post_init__(self) -> None:
        self.meter = ImageMeter(self.data, self.judge)

    def masked_teacher(self, seed: int, runs: Path) -> Denoiser:
        own = seed % self.teachers
        places = folders(self.sizes, own, runs)
        return teacher_for(self.data, self.sizes, own, places[TEACHER])

    def network(self) -> dict[str, Any]:
        return dict(self.sizes.network())

    def sampled(self, model: Denoiser, steps: int, grid: Tensor, seed: int) -> dict[str, Score]:
        rows = quality(
            model,
            self.meter,
            [steps],
            num_samples=self.sizes.samples,
            seeds=(seed,),
            grid=grid,
        )
        out: dict[str, Score] = {}
        for row in rows:
            low = row.value if row.low is None else row.low
            high = row.value if row.high is None else row.high
            if row.metric == "frechet":
                out[row.metric] = (row.value, low, high)
            elif row.metric in ("precision", "recall"):
                out[f"1 − {row.metric}"] = (1 - row.value, 1 - high, 1 - low)
        return out


Bench = TextBench | DigitsBench


def uniform_teacher(bench: Bench, seed: int, out: Path) -> Denoiser:
    """A teacher under uniform noise, of the masked one's size: trained, or loaded."""

    def make(folder: Path) -> Denoiser:
        process: Process = Uniform(bench.data.vocab_size, LogLinear())
        return train_teacher(
            bench.data,
            process,
            network=bench.network(),
            steps=bench.teacher_steps,
            batch_size=128,
            lr=3e-3,
            weight_decay=0.01,
            ema=0.99,
            seed=seed,
            out=folder,
            save_every=200,
            monitor=False,
        )

    return made_once(out, make)


@dataclass
class Judged:
    """Rows of one model: every choice beside the uniform one.

    Attributes:
        about: what all rows have in common.
        unseen: sequences that the bound is of.
        seed: of all draws.
        joint: whether the laws are joint: at one step their likelihood is exact, and at more
            steps there is none.
        rows: what was found.
    """

    about: dict[str, Any]
    unseen: Tensor
    seed: int
    joint: bool = False
    rows: Rows = field(default_factory=list)
    _first: dict[int, Tensor] = field(default_factory=dict)

    def add(
        self, bench: Bench, model: Denoiser, choice: str, grid: Tensor, sampled: bool = True
    ) -> None:
        """Judge a model at the times of a grid; the first of each number of steps is the standard.

        The interval of a bound is that of its difference from the standard's, sequence by
        sequence; the standard itself has none.
        """
        steps = len(grid) - 1
        each = self._nats(model, grid)
        scores: dict[str, Score] = {}
        if each is not None:
            difference = each - self._first.setdefault(steps, each)
            half = 1.96 * float(difference.std()) / len(each) ** 0.5
            value = float(each.mean())
            scores["bound"] = (value, value - half, value + half)
        if sampled:
            scores |= bench.sampled(model, steps, grid, self.seed)
        for metric, (mean, low, high) in scores.items():
            self.rows.append(
                {
                    **self.about,
                    "process": metric,
                    "student": choice,
                    "steps": steps,
                    "seed": self.seed,
                    "loss": mean,
                    "loss_low": low,
                    "loss_high": high,
                }
            )

    def _nats(self, model: Denoiser, grid: Tensor) -> Tensor | None:
        """A bound on −log p of each unseen sequence, nats per token; None where there is none."""
        if not self.joint:
            return path_bound(model, self.unseen, None, grid, self.seed) / self.unseen.shape[1]
        return one_evaluation_nlls(model, self.unseen) if len(grid) == 2 else None
