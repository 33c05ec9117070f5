"""Every student on names and on running text: few-step quality at matched entropy.

A masked teacher is trained until its samples at L steps are good, students of every kind are
distilled from it, and all are drawn from at 1 to L steps. Quality is the judge's NLL at the trigram
entropy of real text. Run as

    python -m experiments.text_students --corpus names --names names.txt
    python -m experiments.text_students --corpus text --text shakespeare.txt
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from experiments.harness import LEFT, Content, Options, Rows, digest, kept, main, place
from experiments.text_quality import measure_text, reference_row
from experiments.text_sizes import (
    PARALLEL,
    SIZES,
    STUDENTS,
    Sizes,
    load_corpus,
)
from experiments.verdicts import Verdict, best_at, compare
from fewjump.api import distill, train_teacher
from fewjump.checkpoint import read_config
from fewjump.data import Dataset
from fewjump.demo.parts import TEACHER, Clock, made_once
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import parameter_counts
from fewjump.evaluate.text import TextMeter
from fewjump.objective import JointConditionalMatching, LatentMatching, Objective
from fewjump.process import Absorbing
from fewjump.sampler import Ancestral
from fewjump.schedule import LogLinear

#: Of the way rows are measured: another number leaves the rows of earlier versions aside.
MEASURED = 2


def joint_objective(kind: str, sizes: Sizes) -> Objective:
    """What a joint student is trained by, on a grid that begins at pure noise."""
    if kind == "latent":
        return LatentMatching(
            near=sizes.near,
            steps=sizes.grid_steps,
            kl_warmup=sizes.joint_steps_of(kind) // 2,
        )
    return JointConditionalMatching(near=sizes.near, steps=sizes.grid_steps)


@dataclass(frozen=True)
class Workshop:
    """Where the models and rows of one corpus and seed are made, or found finished.

    A folder's name holds a digest of all that its content depends on: other data, other sizes and
    other budgets never meet the files of an earlier run.

    Attributes:
        corpus: its name.
        data: its sequences.
        sizes: its budget.
        seed: of training and drawing.
        runs: parent of all folders.
        clock: says on the terminal what is going on.
    """

    corpus: str
    data: Dataset
    sizes: Sizes
    seed: int
    runs: Path
    clock: Clock

    @cached_property
    def _checksum(self) -> int:
        return zlib.crc32(self.data.all("train").numpy().tobytes())

    def folder(self, model: str) -> Path:
        """Run folder of a model."""
        sizes = self.sizes
        parts: list[Any] = [self._checksum, sizes.network(), sizes.batch_size]
        parts.append(sizes.teacher_steps)
        if model == "product":
            parts.append(sizes.product_steps)
        elif model != TEACHER:
            steps = sizes.joint_steps_of(model)
            parts += [sizes.heads[model], steps, sizes.near, sizes.grid_steps]
        label = f"{self.corpus}-{model}-{self.seed}"
        return place(self.runs / "text-students", label, *parts)

    def teacher(self) -> Denoiser:
        """The masked teacher, trained or loaded."""
        sizes = self.sizes

        def make(folder: Path) -> Denoiser:
            return train_teacher(
                self.data,
                Absorbing(self.data.vocab_size + 1, LogLinear()),
                network=sizes.network(),
                steps=sizes.teacher_steps,
                batch_size=sizes.batch_size,
                lr=3e-3,
                weight_decay=0.01,
                ema=0.995,
                seed=self.seed,
                out=folder,
                save_every=200,
            )

        with self.clock.part(f"{self.corpus}: training the teacher"):
            return made_once(self.folder(TEACHER), make)

    def student(self, kind: str, teacher: Denoiser) -> Denoiser:
        """A student of the teacher, distilled or loaded.

        The product student is the paper's (Algorithm 1); the others match the joint conditional.
        """
        sizes = self.sizes
        joint = kind != "product"
        head, options = sizes.head_of(kind)

        def make(folder: Path) -> Denoiser:
            return distill(
                teacher,
                self.data,
                student=head,
                head=options,
                objective=joint_objective(kind, sizes) if joint else "student-euler",
                steps=sizes.joint_steps_of(kind) if joint else sizes.product_steps,
                batch_size=sizes.batch_size,
                lr=3e-3 if joint else 5e-4,
                ema=0.99,
                seed=self.seed,
                out=folder,
                save_every=200,
            )

        with self.clock.part(f"{self.corpus}: distilling {kind}"):
            return made_once(self.folder(kind), make).for_sampling()

    def rows(
        self, name: str, model: Denoiser, meter: TextMeter, target: float, left: bool = False
    ) -> Rows:
        """One row for each number of steps of a model.

        Args:
            name: of the model.
            model: the model.
            meter: the judge.
            target: entropy in nats that quality is matched at.
            left: reveal positions from left to right, in several steps; by chance otherwise.
        """
        sizes, out = self.sizes, []
        sampler = Ancestral(block=1 if left else None)
        said = f"{name}{LEFT}" if left else name
        for steps in [k for k in sizes.steps_of(name) if k > 1 or not left]:
            parts = [sizes.samples, sizes.replicates, target, MEASURED]
            key = digest(*parts, *([sampler.label] if left else []))

            def compute(steps: int = steps) -> dict[str, Any]:
                begin = time.perf_counter()
                measured = measure_text(
                    model,
                    meter,
                    steps,
                    sizes.samples,
                    self.seed,
                    target,
                    sizes.replicates,
                    sampler=sampler,
                )
                about = {
                    "corpus": self.corpus,
                    "student": said,
                    "seed": self.seed,
                    "parameters": parameter_counts(model)["total"],
                    # The same model is counted once.
                    "training_seconds": 0.0 if left else training_seconds(self.folder(name)),
                    "measuring_seconds": round(time.perf_counter() - begin, 3),
                }
                return {**about, **measured}

            with self.clock.part(f"{self.corpus}: sampling {said} at {steps} steps"):
                out.append(kept(self.folder(name) / f"row-{steps}-{key}.json", compute))
        return out


def training_seconds(folder: Path) -> float:
    """Seconds that the finished model in a run folder was trained for, interruptions left out."""
    return round(read_config(folder / "model")["training"]["seconds"], 3)


def seconds_of_parts(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Training and measuring seconds of each student, over seeds: also of what was taken up."""
    out: dict[str, float] = {}
    trained = {(r["student"], r["seed"]): r["training_seconds"] for r in rows}
    for (student, _), seconds in trained.items():
        out[f"training {student}"] = out.get(f"training {student}", 0.0) + seconds
    for row in rows:
        part = f"measuring {row['student']}"
        out[part] = out.get(part, 0.0) + row["measuring_seconds"]
    return {part: round(seconds, 1) for part, seconds in out.items()}


def verdicts(rows: Sequence[dict[str, Any]], length: int) -> list[Verdict]:
    """The three questions, each asked of NLL at matched trigram entropy.

    A question is left out where one side has no value: not measured, or no temperature reached
    the entropy of the data.
    """
    metric, out = "matched_nll", []
    questions = [(("autoregressive",), 1, length), (PARALLEL, 1, 16), (PARALLEL, 4, length)]
    for students, steps, standard in questions:
        best = best_at(rows, students, steps, metric)
        if best is None or best_at(rows, (TEACHER,), standard, metric) is None:
            continue
        who = "the best parallel student" if students == PARALLEL else f"the {best} student"
        question = f"{who} at {steps} against the teacher at {standard}"
        out.append(compare(rows, (best, steps), (TEACHER, standard), metric, question))
    return out


@dataclass(kw_only=True)
class Config(Options):
    """Every student of names, or of running text.

    Attributes:
        corpus: which of the two.
        names: file with one name of a–z per line.
        text: text file, reduced to a–z and space; without it the documentation that Python ships.
        students: kinds that are made.
    """

    corpus: Literal["names", "text"]
    names: Path | None = None
    text: Path | None = None
    students: tuple[str, ...] = STUDENTS


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """Reference, rows, verdicts, and the seconds of each part."""
    corpus, clock = config.corpus, Clock()
    sizes = SIZES[corpus] if sizes is None else sizes
    data = load_corpus(corpus, sizes, config.names, config.text)
    plan = ", ".join(f"{part} {seconds} s" for part, seconds in sizes.seconds.items())
    print(f"{corpus}: {data.description}; {sizes.seeds} seed(s); each: {plan or 'unknown'}")
    rows: Rows = []
    meter = TextMeter(data)
    reference = reference_row(data, meter, sizes.samples)
    target = reference["entropy"]
    for seed in range(config.seed, config.seed + sizes.seeds):
        workshop = Workshop(corpus, data, sizes, seed, config.runs, clock)
        teacher = workshop.teacher()
        rows += workshop.rows(TEACHER, teacher, meter, target)
        for kind in [k for k in sizes.kinds(seed == config.seed) if k in config.students]:
            rows += workshop.rows(kind, workshop.student(kind, teacher), meter, target)
    return {
        "data": data.description,
        "sizes": asdict(sizes),
        "matched_entropy": target,
        "reference": reference,
        "verdicts": [asdict(v) for v in verdicts(rows, sizes.length)],
        "seconds_of_parts": seconds_of_parts(rows),
        "rows": rows,
    }


if __name__ == "__main__":
    main("text_students_{corpus}", Config, measure)
