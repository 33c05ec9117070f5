"""What the teacher adds: the same student from data, from teacher and data, from the teacher alone.

One student, one optimiser, as many steps; what changes is what it learns from, and how many
sequences of that there are. Judged without a judge: exact −log p of unseen sequences in one
evaluation, and the bound of four-step paths. Run as

    python -m experiments.teacher_adds --corpus names --names names.txt
    python -m experiments.teacher_adds --corpus text --text shakespeare.txt
    python -m experiments.teacher_adds --corpus digits

The masked teacher has seen all the data; a student sees all, a tenth or a hundredth. Where the
teacher is alone, its own samples of 64 steps take the place of the data, as many or as few.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.harness import Content, Options, Rows, digest, kept, main, place
from experiments.text_sizes import SIZES, Sizes, load_corpus
from experiments.text_students import Workshop, training_seconds
from fewjump.api import distill
from fewjump.data import Dataset, load_data
from fewjump.data.dataset import as_tokens
from fewjump.demo import digits
from fewjump.demo.parts import TEACHER, Clock, teacher_for
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.likelihood import one_evaluation_nlls, path_bound
from fewjump.objective import JointConditionalMatching
from fewjump.random import generator_for
from fewjump.rollouts import rollouts
from fewjump.sampler import run

Corpus = Literal["names", "text", "digits"]

SHARES = (1.0, 0.1, 0.01)
#: Steps of the bound, and of the teacher's samples.
FEW, ROLLOUT_STEPS = 4, 64


@dataclass(frozen=True)
class Source:
    """What a student learns from.

    Attributes:
        name: in words.
        near: whether the teacher is asked, at a cleaner state; else it is data alone, s = 0.
        warm: whether the student begins at the teacher's weights.
        drawn: whether the sequences are the teacher's samples, and not data.
    """

    name: str
    near: bool
    warm: bool
    drawn: bool = False


SOURCES = (
    Source("data alone", near=False, warm=False),
    Source("data, from the teacher's weights", near=False, warm=True),
    Source("teacher and data", near=True, warm=True),
    Source("teacher alone", near=True, warm=True, drawn=True),
)


@dataclass(frozen=True)
class Budget:
    """Of one corpus.

    Attributes:
        student, head: kind of student, and options of its head: one whose law conditions exactly.
        near: share s/t at which the teacher is asked.
        steps: optimiser steps after which a student is judged; it is trained to the last.
        batch_size: of the students.
        rollouts: samples of the teacher that are drawn, as a share of the number of sequences.
        judged: unseen sequences behind each number, at most; a quarter are behind the bound.
    """

    student: str
    head: dict[str, Any]
    near: float = 0.1
    steps: tuple[int, ...] = (100, 300)
    batch_size: int = 32
    rollouts: float = 0.1
    judged: int = 1000


BUDGETS: dict[Corpus, Budget] = {
    "names": Budget("shared-chain", {"states": 128, "length": 16}),
    "text": Budget(
        "shared-chain", {"states": 128, "table_rate": 100.0}, steps=(50, 150), judged=400
    ),
    "digits": Budget(
        "shared-mixture",
        {"components": 256, "rank": 24, "length": 64},
        near=0.3,
        steps=(50, 100),
        rollouts=1.0,
        judged=450,
    ),
}
#: Of the teachers: that of names is the one of the students' experiment, the others are smaller.
TEACHERS: dict[Corpus, Sizes | digits.Sizes] = {
    "names": SIZES["names"],
    "text": replace(SIZES["text"], hidden=64, blocks=2, teacher_steps=1000, batch_size=32),
    "digits": digits.Sizes(hidden=64, blocks=2, teacher_steps=1000, batch_size=32),
}


@dataclass(kw_only=True)
class Config(Options):
    """What the teacher adds to a student.

    Attributes:
        corpus: which of the three.
        names: file with one name of a–z per line.
        text: text file, reduced to a–z and space; without it the documentation that Python ships.
        seeds: trainings of every student, each on sequences of its own; of one teacher.
        shares: of the training sequences.
    """

    corpus: Corpus = "names"
    names: Path | None = None
    text: Path | None = None
    seeds: int = 3
    shares: tuple[float, ...] = SHARES


def corpus_and_teacher(
    config: Config, sizes: Sizes | digits.Sizes, clock: Clock
) -> tuple[Dataset, Denoiser, Path]:
    """The data, the teacher that has seen all of them, and the folder of its training."""
    if isinstance(sizes, digits.Sizes):
        data = load_data("digits")
        folder = place(config.runs, f"digits-{TEACHER}-{config.seed}", asdict(sizes))
        with clock.part("digits: training the teacher"):
            return data, teacher_for(data, sizes, config.seed, folder), folder
    data = load_corpus(config.corpus, sizes, config.names, config.text)
    shop = Workshop(config.corpus, data, sizes, config.seed, config.runs, clock)
    return data, shop.teacher(), shop.folder(TEACHER)


def subset(tokens: Tensor, count: int, seed: int) -> Tensor:
    """``count`` of the rows; those of a smaller count are among those of a larger."""
    return tokens[torch.randperm(len(tokens), generator=generator_for(seed, 9))[:count]]


def judged(model: Denoiser, data: Dataset, budget: Budget) -> dict[str, float]:
    """Exact −log p in one evaluation, and the bound in four, in nats per token."""
    unseen = data.all("test", budget.judged)
    values = {
        "valid_nll": one_evaluation_nlls(model, data.all("valid", budget.judged // 2)),
        "nll": one_evaluation_nlls(model, unseen),
        "bound": path_bound(model, unseen[::4], FEW) / data.length,
    }
    out = {}
    for name, each in values.items():
        out[name] = float(each.mean())
        half = 1.96 * float(each.std()) / len(each) ** 0.5
        out |= {f"{name}_low": out[name] - half, f"{name}_high": out[name] + half}
    return out


@dataclass(frozen=True)
class Bench:
    """What all students of one corpus have in common.

    Attributes:
        config, budget: what was asked for.
        data: real sequences; ``drawn`` are the teacher's.
        teacher: whose weights ``folder`` holds.
        clock: says on the terminal what is going on.
    """

    config: Config
    budget: Budget
    data: Dataset
    drawn: Tensor
    teacher: Denoiser
    folder: Path
    clock: Clock

    def rows(self, source: Source, share: float, seed: int) -> Rows:
        """A student's rows, one for each number of optimiser steps."""
        budget, corpus = self.budget, self.config.corpus
        tokens = self.drawn if source.drawn else self.data.all("train")
        count = round(share * len(self.data))
        settings = (self.folder.name, asdict(source), asdict(budget), count)
        label = f"{corpus}-{source.name.replace(chr(39), '')}-{share:g}-{seed}"
        folder = place(self.config.runs / "teacher-adds", label, *settings)
        chosen = subset(tokens, count, seed)

        def compute(steps: int) -> dict[str, Any]:
            # At a constant rate, a longer training passes through the shorter one.
            student = distill(
                self.teacher,
                chosen,
                student=budget.student,
                head=budget.head,
                warm_start=source.warm,
                objective=JointConditionalMatching(
                    near=budget.near if source.near else "zero", steps=FEW
                ),
                steps=steps,
                batch_size=budget.batch_size,
                lr=3e-3,
                decay="constant",
                warmup=20,
                ema=0.98,
                seed=seed,
                out=folder,
                save_every=200,
                monitor=False,
            )
            with self.clock.part("judging"):
                found = judged(student.for_sampling(), self.data, budget)
            seen = float(one_evaluation_nlls(student, chosen[: budget.judged // 2]).mean())
            return {
                "source": source.name,
                "share": share,
                "sequences": count,
                "seed": seed,
                "optimiser_steps": steps,
                "training_seconds": training_seconds(folder),
                **found,
                "seen_nll": seen,
            }

        out = []
        for steps in budget.steps:
            with self.clock.part(f"{corpus}: {source.name}, {share:g} of it, {seed}: {steps}"):
                out.append(kept(folder / f"row-{steps}.json", lambda n=steps: compute(n)))
        return out


def samples_of(
    teacher: Denoiser, folder: Path, data: Dataset, count: int, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """The teacher's samples, drawn once, and what they cost."""
    file = folder / f"rollouts-{count}.npy"
    if not file.is_file():
        rollouts(teacher, file, count, ROLLOUT_STEPS, seed=seed, length=data.length)

    def cost() -> dict[str, Any]:
        # Of one batch: the file may have been drawn with interruptions.
        some = min(count, 128)
        begin = time.process_time()
        run(teacher, some, ROLLOUT_STEPS, generator=seed, length=data.length)
        return {
            "sequences": count,
            "steps": ROLLOUT_STEPS,
            "evaluations": count * ROLLOUT_STEPS,
            "cpu_seconds": round((time.process_time() - begin) * count / some, 1),
        }

    return as_tokens(np.load(file)), kept(file.with_suffix(".cost.json"), cost)


def last_and_best(rows: Sequence[dict[str, Any]]) -> Rows:
    """Of one student the row of its last step, and that of the step that validation likes best."""
    last = {**max(rows, key=lambda r: r["optimiser_steps"]), "stopped": "last"}
    best = {**min(rows, key=lambda r: r["valid_nll"]), "stopped": "validation"}
    return [last, best]


def measure(
    config: Config, sizes: Sizes | digits.Sizes | None = None, budget: Budget | None = None
) -> Content:
    """The teacher's own row, and two of every student: at its last step, and where it is best."""
    clock = Clock()
    sizes = TEACHERS[config.corpus] if sizes is None else sizes
    budget = BUDGETS[config.corpus] if budget is None else budget
    data, teacher, folder = corpus_and_teacher(config, sizes, clock)
    print(f"{config.corpus}: {data.description}")
    with clock.part(f"{config.corpus}: the teacher's samples"):
        count = round(budget.rollouts * len(data))
        drawn, cost = samples_of(teacher, folder, data, count, config.seed)

    def alone() -> dict[str, Any]:
        unseen = data.all("test", budget.judged)[::4]
        many = path_bound(teacher, unseen, ROLLOUT_STEPS) / data.length
        return {
            "source": "the teacher itself",
            "many_steps": float(many.mean()),
            **judged(teacher, data, budget),
        }

    own = kept(folder / f"judged-{digest(asdict(budget), ROLLOUT_STEPS)}.json", alone)
    bench = Bench(config, budget, data, drawn, teacher, folder, clock)
    rows: Rows = []
    for seed in range(config.seed, config.seed + config.seeds):
        for share in config.shares:
            for source in SOURCES:
                if source.drawn and share > budget.rollouts:
                    continue
                rows += last_and_best(bench.rows(source, share, seed))
    return {
        "data": data.description,
        "training_sequences": len(data),
        "teacher_steps": sizes.teacher_steps,
        "budget": asdict(budget),
        "rollouts": cost,
        "teacher": own,
        "rows": rows,
    }


if __name__ == "__main__":
    main("teacher_adds_{corpus}", Config, measure)
