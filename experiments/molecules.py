"""Molecules of the MOSES benchmark: a masked teacher and its students, judged by the benchmark.

The data sets and the metrics are those of ``molsets`` 0.3.1, unmodified, in an environment of its
own, of CPython 3.11:

    python3 -m venv moses
    moses/bin/pip install torch==2.13.0 'numpy<2' 'pandas<2' scipy tqdm matplotlib rdkit
    moses/bin/pip install --no-deps molsets==0.3.1 fcd_torch==1.0.7
    moses/bin/pip install selfies==2.2.0    # for --notation selfies

Run as

    python -m experiments.molecules --judge moses/bin/python

With ``--notation selfies`` (arXiv 1905.13741) every sequence is a molecule, and the distances of
the benchmark alone are the judge. Parts of a molecule are no parts of its SELFIES: none are given.

It goes on where it was stopped, and ``--teacher-steps`` may be raised later: the teacher is then
trained further, and new students are distilled from it. Beside them stands a recurrent network of
the teacher's size that was trained for as long, left to right, without a teacher.

Seconds are those of a core (process time), since the machine is never idle while this runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import torch

from experiments.harness import Content, Options, Rows, digest, kept, main, place, with_ends
from experiments.molecule_data import (
    DESIGNS,
    Judge,
    Notation,
    Sizes,
    data_folder,
    given_parts,
    molecules,
)
from fewjump.api import distill, train_teacher
from fewjump.checkpoint import read_config
from fewjump.commands.compare_plan import Network
from fewjump.commands.compare_training import network_alone
from fewjump.data import Dataset
from fewjump.demo.parts import TEACHER, Clock, made_once
from fewjump.denoiser.network import NetworkDenoiser, parameter_counts
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.objective import JointConditionalMatching
from fewjump.options.training import TEACHER_TRAINING
from fewjump.process import Absorbing
from fewjump.random import generator_for
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear
from fewjump.train.setup import compile_network

#: The network that is trained on data alone, of the same size.
ALONE = "autoregressive network"
#: The teacher by first hitting: one symbol an evaluation, as ever more steps would.
ONE_BY_ONE = f"{TEACHER}, one by one"
_BATCH = 256
#: Molecules that are kept of a cell, to look at.
_SHOWN = 8


@dataclass(kw_only=True)
class Config(Options):
    """Molecules: a masked teacher, its students, and the MOSES benchmark.

    Attributes:
        judge: python of an environment with the benchmark.
        data: train.csv.gz of the benchmark, test.csv.gz beside it; by default the judge's.
        longest: tokens, in SMILES, of the molecules that are learned, and that samples are compared
            with; 57 takes all.
        notation: in which they are learned.
        teacher_steps: optimiser steps of the teacher.
        students: kinds that are made.
        samples: of every cell. FCD means something from 10,000 on.
        steps: evaluations of teacher and students; the teacher is drawn at L too.
        walked: evaluations of students that walk from symbol to symbol at every one.
        judged: those of them that the whole benchmark is asked about; the others' validity is.
        network: whether the network without a teacher is trained.
        precision: arithmetic of trainings and draws.
        compile: compile the networks (torch.compile, which needs a C++ compiler); a step of the
            teacher's training takes less than half as long.
        objective: of the teacher. The bound counts every symbol of a sample alike, whichever is
            drawn first; plain cross-entropy counts the first ones more, where most is hidden.
    """

    judge: Path
    data: Path | None = None
    longest: int = 30
    notation: Notation = "smiles"
    teacher_steps: int = 10_000
    students: tuple[str, ...] = ("any-order", "shared-chain", "autoregressive", "product")
    samples: int = 10_000
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    walked: tuple[int, ...] = (1, 4)
    judged: tuple[int, ...] = (1, 4, 16)
    network: bool = True
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = True
    objective: Literal["elbo", "cross-entropy"] = "elbo"


@dataclass(frozen=True)
class Laboratory:
    """Data, judge, and where everything is kept.

    Attributes:
        config, sizes: what is asked for.
        data: the molecules.
        judge: says what samples are worth.
        clock: says on the terminal what is going on.
        compiled: the models that are: compiled once, they stay so for all their draws.
    """

    config: Config
    sizes: Sizes
    data: Dataset
    judge: Judge
    clock: Clock
    compiled: WeakSet[NetworkDenoiser] = field(default_factory=WeakSet)

    @property
    def process(self) -> Absorbing:
        """Atoms become a mask."""
        return Absorbing(self.data.vocab_size + 1, LogLinear())

    @property
    def common(self) -> dict[str, Any]:
        """Options of every training."""
        return {
            "batch_size": self.sizes.batch_size,
            "precision": self.config.precision,
            "compile": self.config.compile,
            "seed": self.config.seed,
            "weight_decay": 0.01,
            "save_every": 100,
        }

    @property
    def alone_steps(self) -> int:
        """Optimiser steps of the network without a teacher."""
        return max(1, round(self.sizes.share * self.config.teacher_steps))

    def folder(self, name: str) -> Path:
        """Of a model and its rows. The teacher's serves every number of its steps."""
        sizes, config = self.sizes, self.config
        parts: list[Any] = [len(self.data), self.data.length, config.precision]
        parts += [sizes.hidden, sizes.blocks, sizes.heads, sizes.batch_size, sizes.teacher_lr]
        parts += [sizes.teacher_ema, self.config.objective]
        if name == ALONE:
            parts += [self.alone_steps]
        elif name != TEACHER:
            parts += [config.teacher_steps, sizes.heads_of[name], sizes.student_lr]
            steps = sizes.product_steps if name == "product" else sizes.student_steps
            parts += [steps, sizes.near, sizes.grid_steps]
        label = f"{name}-{config.longest}-{config.seed}"
        if config.notation != "smiles":
            label, parts = f"{config.notation}-{label}", [*parts, config.notation]
        return place(config.runs / "molecules", label, *parts)

    def teacher(self, steps: int) -> NetworkDenoiser:
        """Trained up to ``steps``, from where it was stopped. A constant rate lets it go on."""
        sizes = self.sizes
        found = train_teacher(
            self.data,
            self.process,
            network={
                "hidden": sizes.hidden,
                "blocks": sizes.blocks,
                "heads": sizes.heads,
                "condition_dim": 32,
                "time_conditioned": False,
            },
            objective=self.config.objective,
            steps=steps,
            lr=sizes.teacher_lr,
            decay="constant",
            ema=sizes.teacher_ema,
            out=self.folder(TEACHER),
            **self.common,
        )
        assert isinstance(found, NetworkDenoiser)
        return found

    def alone(self, teacher: NetworkDenoiser) -> NetworkDenoiser:
        """A recurrent network of the teacher's size, trained for as long, as `compare` does."""
        config = replace(TEACHER_TRAINING, steps=self.alone_steps, lr=1e-3, ema=0.99, **self.common)
        network = Network("recurrent", config)

        def make(folder: Path) -> NetworkDenoiser:
            found, _ = network_alone(teacher, self.data, network, self.config.seed, folder)
            assert isinstance(found, NetworkDenoiser)
            return found

        with self.clock.part(f"training the {ALONE}"):
            found = made_once(self.folder(ALONE), make)
        assert isinstance(found, NetworkDenoiser)
        return found

    def student(self, kind: str, teacher: NetworkDenoiser) -> NetworkDenoiser:
        """A student of the teacher, distilled or loaded.

        The product student is the paper's (Algorithm 1); the others match the joint conditional.
        """
        sizes, joint = self.sizes, kind != "product"
        head = dict(sizes.heads_of[kind])
        if kind == "shared-chain":
            head["length"] = self.data.length
        near = JointConditionalMatching(near=sizes.near, steps=sizes.grid_steps)

        def make(folder: Path) -> NetworkDenoiser:
            found = distill(
                teacher,
                self.data,
                student=kind,
                head=head,
                objective=near if joint else "student-euler",
                steps=sizes.student_steps if joint else sizes.product_steps,
                lr=sizes.student_lr if joint else 5e-4,
                ema=0.99,
                monitor=False,
                out=folder,
                **self.common,
            )
            assert isinstance(found, NetworkDenoiser)
            return found

        with self.clock.part(f"distilling {kind}"):
            found = made_once(self.folder(kind), make)
        assert isinstance(found, NetworkDenoiser)
        return found

    def trained(self, name: str, model: NetworkDenoiser) -> dict[str, Any]:
        """Parameters, steps and seconds (of a clock on the wall) of a training."""
        card = read_config(self.folder(name) / "model")["training"]
        return {
            "parameters": parameter_counts(model)["total"],
            "steps": card["steps"],
            "seconds": card["seconds"],
        }

    def drawn(
        self,
        model: NetworkDenoiser,
        count: int,
        steps: int,
        sampler: str = "ancestral",
        **given: Any,
    ) -> dict[str, Any]:
        """SMILES of samples, and the core's seconds of all."""
        precise = model.autocast
        model.autocast = None if self.config.precision == "float32" else self.config.precision
        if self.config.compile and model not in self.compiled:
            compile_network(model)
            self.compiled.add(model)
        begin = time.process_time()
        found = draw(
            model, count, steps, sampler, generator=self.config.seed, batch_size=_BATCH, **given
        )
        seconds = time.process_time() - begin
        model.autocast = precise
        smiles = self.data.vocabulary.decode(found.samples)
        if self.config.notation != "smiles":
            smiles = [text or "" for text in self.judge.translated(smiles, "smiles")]
        return {"smiles": smiles, "seconds": round(seconds, 3)}

    def validity(self, smiles: Sequence[str]) -> dict[str, Any]:
        """Share of valid molecules, and of valid ones no two of which are alike."""
        names = self.judge.canonical(smiles)
        valid = torch.tensor([float(name is not None) for name in names])
        row: dict[str, Any] = {"n": len(names)}
        row |= with_ends("valid", bootstrap(valid, mean, generator_for(1)))
        different = list(dict.fromkeys(name for name in names if name is not None))
        return {**row, "different": len(different) / len(names), "examples": different[:_SHOWN]}

    def curve(self) -> tuple[NetworkDenoiser, Rows]:
        """The teacher, and the validity of its samples, one by one, while it was trained."""
        sizes, last = self.sizes, self.config.teacher_steps
        rows: Rows = []
        teacher = None
        for steps in range(sizes.every, last + 1, sizes.every):
            file = self.folder(TEACHER) / f"judged-{steps}.json"
            if steps + sizes.every > last or not file.is_file():
                with self.clock.part(f"training the teacher to {steps} steps"):
                    teacher = self.teacher(steps)
                rows.append({"teacher_steps": steps, **kept(file, partial(self._judged, teacher))})
                print({key: rows[-1][key] for key in ("teacher_steps", "valid", "different")})
            else:
                rows.append({"teacher_steps": steps, **kept(file, dict)})
        if teacher is None:
            raise ValueError(f"--teacher-steps must be at least {sizes.every}")
        return teacher, rows

    def _judged(self, teacher: NetworkDenoiser) -> dict[str, Any]:
        count, length = self.sizes.curve, self.data.length
        return self.validity(self.drawn(teacher, count, length, "first-hitting")["smiles"])

    def rows(self, name: str, model: NetworkDenoiser) -> Rows:
        """Those of every number of evaluations, the cheapest first."""
        length, config = self.data.length, self.config
        steps = {*(config.walked if model.autoregressive else config.steps)}
        if name != TEACHER:
            return [self.row(name, model, number) for number in sorted(steps)]
        found = [self.row(name, model, number) for number in sorted({*steps, length})]
        return [*found, self.row(name, model, length, "first-hitting")]

    def row(
        self, name: str, model: NetworkDenoiser, steps: int, sampler: str = "ancestral"
    ) -> dict[str, Any]:
        """What the judge says of a model's samples at a number of evaluations."""
        config = self.config
        whole = steps in (*config.judged, self.data.length)
        key = digest(config.samples, config.teacher_steps, config.seed, sampler)
        folder = self.folder(name)

        def compute() -> dict[str, Any]:
            found = kept(
                folder / f"samples-{steps}-{key}.json",
                lambda: self.drawn(model, config.samples, steps, sampler),
            )
            row = {**self.validity(found["smiles"]), "core_seconds": found["seconds"]}
            # Its distances are between molecules, of which there must be some.
            if whole and row["valid"] * row["n"] >= min(100, row["n"]):
                row["moses"] = self.judge.metrics(found["smiles"])
            return row

        said = name if sampler == "ancestral" else ONE_BY_ONE
        with self.clock.part(f"{said} at {steps}"):
            return {
                "student": said,
                "steps": steps,
                **kept(folder / f"row-{steps}-{'moses' if whole else 'valid'}-{key}.json", compute),
            }

    def designs(self, models: dict[str, NetworkDenoiser]) -> Rows:
        """Parts of molecules completed: valid and different ones, and how many a second."""
        rows: Rows = []
        for design, parts in DESIGNS.items():
            cells = [(name, name, 1, "ancestral") for name in models]
            cells.insert(1, (ONE_BY_ONE, TEACHER, parts.count("_"), "first-hitting"))
            for said, name, steps, sampler in cells:
                key = digest(parts, sampler, self.sizes.designs, self.config.teacher_steps)
                file = self.folder(name) / f"design-{steps}-{key}.json"
                fill = partial(self.completed, models[name], parts, steps, sampler)
                with self.clock.part(f"{design} by {said}"):
                    found = kept(file, fill)
                rows.append({"design": design, "student": said, "steps": steps, **found})
        return rows

    def completed(
        self, model: NetworkDenoiser, parts: str, steps: int, sampler: str
    ) -> dict[str, Any]:
        """Molecules that hold ``parts``, in which _ marks a symbol to draw.

        One that ends inside a gap has lost what follows it, and is not valid.
        """
        prompt, fixed = given_parts(self.data, parts)
        count = self.sizes.designs
        found = self.drawn(model, count, steps, sampler, prompt=prompt, fixed=fixed)
        vocabulary = self.data.vocabulary
        whole = len(vocabulary.encode(parts.replace("_", "C")))
        smiles = [text if len(vocabulary.encode(text)) == whole else "" for text in found["smiles"]]
        row = {**self.validity(smiles), "core_seconds": found["seconds"]}
        row["a_second"] = row["different"] * count / max(found["seconds"], 1e-3)
        if row["examples"]:
            row["picture"] = self.judge.picture(row["examples"])
        return row


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """The teacher's curve, rows of every model and number of evaluations, designs."""
    sizes = Sizes.of(config.notation) if sizes is None else sizes
    file = config.data or data_folder(config.judge) / "train.csv.gz"
    shared = config.runs / "molecules"
    judge = Judge(config.judge, config.longest if config.longest < 57 else None, shared)
    data = molecules(file, config.longest, shared, config.notation, judge)
    print(data.description, flush=True)
    laboratory = Laboratory(config, sizes, data, judge, Clock())
    teacher, curve = laboratory.curve()
    models = {TEACHER: teacher}
    # A student that is done is judged before the next one is trained.
    rows = laboratory.rows(TEACHER, teacher)
    for kind in config.students:
        models[kind] = laboratory.student(kind, teacher)
        rows += laboratory.rows(kind, models[kind])
    designed = laboratory.designs(models) if config.notation == "smiles" else []
    if config.network:
        models[ALONE] = laboratory.alone(teacher)
        rows.append(laboratory.row(ALONE, models[ALONE], 1))
    return {
        "data": data.description,
        "length": data.length,
        "teacher_steps": config.teacher_steps,
        "samples": config.samples,
        "sizes": asdict(sizes),
        "trained": {name: laboratory.trained(name, model) for name, model in models.items()},
        "curve": curve,
        "rows": rows,
        "designs": designed,
    }


if __name__ == "__main__":
    main("molecules_{notation}_{longest}", Config, measure)
