"""What the trained demos share: three models, each trained once, and rows turned into a report."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from fewjump.api import distill, train_teacher
from fewjump.checkpoint import load
from fewjump.data import Dataset
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import parameter_counts
from fewjump.evaluate.meter import DataMeter, quality
from fewjump.objective import JointConditionalMatching
from fewjump.process import Absorbing
from fewjump.report import (
    ImageSamples,
    Role,
    SampleGroup,
    TextSamples,
    from_results,
    monitor_charts,
    monitor_table,
    training_charts,
    write,
)
from fewjump.results import Row, machine_facts, write_results
from fewjump.sampler import sample
from fewjump.schedule import LogLinear

TEACHER, PRODUCT, JOINT = "teacher", "product student", "joint student"
FEW = 8  # students are not sampled with more evaluations
ROLES: dict[str, Role] = {TEACHER: "teacher", PRODUCT: "other", JOINT: "student"}


@dataclass
class Clock:
    """Seconds that each part of a demo took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block, and say on the terminal what it is."""
        print(f"— {name}", flush=True)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


@dataclass(frozen=True)
class Sizes(ABC):
    """Budget of a demo: a masked teacher and its two students.

    Attributes:
        hidden, blocks: of the transformer.
        teacher_steps, product_steps, joint_steps, batch_size: of the trainings.
        near: the joint student's teacher is asked at s = ``near``·t.
        samples: that are judged at each number of evaluations.
    """

    hidden: int
    blocks: int
    teacher_steps: int
    product_steps: int
    joint_steps: int
    samples: int
    near: float
    batch_size: int = 64
    #: Learning rate and averaging of the teacher, and the kind of the joint student.
    lr: ClassVar[float]
    ema: ClassVar[float]
    joint: ClassVar[str]

    def network(self) -> dict[str, Any]:
        """Options of the transformer."""
        return {"hidden": self.hidden, "blocks": self.blocks, "heads": 4}

    @abstractmethod
    def head(self, length: int) -> dict[str, Any]:
        """Options of the joint student's head, for sequences of ``length``."""


def made_once(folder: Path, make: Callable[[Path], Denoiser]) -> Denoiser:
    """The model in ``folder/model`` if its training is finished, else ``make(folder)``."""
    if (folder / "model" / "config.json").is_file():
        return load(folder / "model")
    return make(folder)


def teacher_for(data: Dataset, sizes: Sizes, seed: int, out: Path) -> Denoiser:
    """The masked teacher of one seed, trained or, if it is finished, loaded."""
    return made_once(
        out,
        lambda folder: train_teacher(
            data,
            Absorbing(data.vocab_size + 1, LogLinear()),
            network=sizes.network(),
            steps=sizes.teacher_steps,
            batch_size=sizes.batch_size,
            lr=sizes.lr,
            weight_decay=0.01,
            ema=sizes.ema,
            seed=seed,
            out=folder,
            save_every=200,
        ),
    )


def train_models(
    data: Dataset, sizes: Sizes, seed: int, folders: Mapping[str, Path], clock: Clock
) -> dict[str, Denoiser]:
    """The teacher, the student of the paper's Algorithm 1, and a student of a joint law.

    Args:
        folders: of each model's run; finished ones are loaded.
    """
    common: dict[str, Any] = {"batch_size": sizes.batch_size, "seed": seed, "save_every": 200}
    with clock.part("training the teacher"):
        teacher = teacher_for(data, sizes, seed, folders[TEACHER])
    with clock.part("distilling the product student (the paper's objective)"):
        product = made_once(
            folders[PRODUCT],
            lambda folder: distill(
                teacher,
                data,
                student="product",
                objective="student-euler",
                steps=sizes.product_steps,
                lr=5e-4,
                ema=0.99,
                out=folder,
                **common,
            ),
        )
    with clock.part(f"distilling the joint student ({sizes.joint})"):
        joint = made_once(
            folders[JOINT],
            lambda folder: distill(
                teacher,
                data,
                student=sizes.joint,
                objective=JointConditionalMatching(near=sizes.near, steps=4),
                head=sizes.head(data.length),
                steps=sizes.joint_steps,
                lr=3e-3,
                ema=0.99,
                out=folder,
                **common,
            ),
        )
    return {TEACHER: teacher, PRODUCT: product, JOINT: joint}


def value_of(rows: Sequence[Row], model: str, steps: int | None, metric: str) -> float:
    """The value of one row.

    Raises:
        KeyError: if there is none.
    """
    for row in rows:
        if (row.model, row.steps, row.metric) == (model, steps, metric):
            return row.value
    raise KeyError(f"no {metric} of {model} at {steps} steps")


def evaluations(k: int) -> str:
    """``1 evaluation``, ``2 evaluations``."""
    return f"{k} evaluation{'s' * (k > 1)}"


class TrainedDemo:
    """The three models of a demo, what they score, and what they draw.

    Args:
        out: folder for the models, results.json, samples and report.html. What it already holds of
            a demo that was stopped is taken up.
        data: to learn from.
        sizes: the budget.
        steps: numbers of evaluations; the teacher takes all, students those up to 8.
        seed: of every draw.
        metrics: those that get a chart, the most important first; results.json holds all.
    """

    def __init__(
        self,
        out: Path,
        data: Dataset,
        sizes: Sizes,
        steps: Sequence[int],
        seed: int,
        metrics: Sequence[str],
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.data, self.sizes, self.seed = out, data, sizes, seed
        self.steps, self.last, self.metrics = steps, steps[-1], metrics
        self.clock = Clock()
        self.folders = {name: out / name.replace(" ", "-") for name in ROLES}
        self.models = train_models(data, sizes, seed, self.folders, self.clock)
        self.rows: list[Row] = []

    def judge(self, make: Callable[[], DataMeter]) -> None:
        """Measure the data's test part and every model with the meter that ``make`` makes."""
        with self.clock.part("training the judge"):
            meter = make()
            self.rows += meter.reference()
        with self.clock.part("sampling and judging"):
            for name, model in self.models.items():
                self.rows += quality(
                    model,
                    meter,
                    [k for k in self.steps if name == TEACHER or k <= FEW],
                    num_samples=self.sizes.samples,
                    seeds=(self.seed,),
                    model=name,
                    progress=lambda text: print(f"  {text}", flush=True),
                )

    def draws(self, count: int) -> dict[tuple[str, int], Tensor]:
        """Tokens to show, of each model at 1 and 4 evaluations and the teacher at its most."""
        return {
            (name, k): sample(model, count, k, generator=self.seed + 1)
            for name, model in self.models.items()
            for k in dict.fromkeys((1, 4, self.last) if name == TEACHER else (1, 4))
        }

    def value(self, model: str, steps: int | None, metric: str) -> float:
        """What was measured; see :func:`value_of`."""
        return value_of(self.rows, model, steps, metric)

    def write(
        self,
        panel: Callable[[str, int], ImageSamples | TextSamples],
        real: ImageSamples | TextSamples,
        judged: str,
        **page: Any,
    ) -> Path:
        """Write results.json and report.html; returns the report's path.

        Args:
            panel: (model, evaluations) → its samples.
            real: data to compare them with.
            judged: what the samples are, among the facts.
            page: title and so on, of :func:`fewjump.report.from_results`.
        """
        totals = {n: parameter_counts(model)["total"] for n, model in self.models.items()}
        facts = {
            "seed": self.seed,
            "data": self.data.description,
            f"{judged} judged": self.sizes.samples,
            **{f"parameters, {name}": total for name, total in totals.items()},
            **{f"seconds, {name}": round(s, 1) for name, s in self.clock.seconds.items()},
            **machine_facts(),
        }
        write_results(self.out, self.rows, facts)
        few = [SampleGroup(evaluations(k), [panel(name, k) for name in ROLES]) for k in (1, 4)]
        compared = SampleGroup("What to compare with", [panel(TEACHER, self.last), real])
        watched = [monitor_table(folder, name) for name, folder in self.folders.items()]
        report = from_results(
            [row for row in self.rows if row.metric in self.metrics],
            training=[
                chart
                for charts in (training_charts, monitor_charts)
                for name, folder in self.folders.items()
                for chart in charts(folder, name)
            ],
            tables=[table for table in watched if table is not None],
            samples=[*few, compared],
            facts=facts,
            headline=self.metrics[0],
            **page,
        )
        return write(report, self.out / "report.html")
