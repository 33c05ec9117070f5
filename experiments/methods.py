"""Every few-step method with one teacher and one budget, by ``fewjump compare``.

A network learns a task, and is the teacher. Each method trains a student of it with as many teacher
evaluations as any other; other samplers of the teacher and an autoregressive network of its size
are judged beside. Where the law of the data is known it is the judge, and its exact posterior one
more row. Run as

    python -m experiments.methods --task masked-chain
    python -m experiments.methods --task names --names names.txt --seeds 1

It goes on where it was stopped; a seed more costs only what is new.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from experiments.harness import Content, Options, main, place
from fewjump.api import train_teacher
from fewjump.commands import compare
from fewjump.data import load_data
from fewjump.process import Absorbing, Uniform
from fewjump.reading import DataKind
from fewjump.schedule import LogLinear

#: Training-free: other ways to sample the teacher, by noise.
SAMPLERS: dict[str, dict[str, dict[str, Any]]] = {
    "masked": {
        "first-hitting": {"sampler": "first-hitting"},
        "theta-trapezoidal": {"sampler": "theta-trapezoidal"},
        "entropy-bounded": {"sampler": "entropy-bounded"},
        "confidence": {"sampler": "confidence"},
        "ReMDM": {"sampler": "remdm"},
        "psi": {"sampler": "psi"},
        "fitted grid": {"grid": "fitted"},
    },
    "uniform": {
        "theta-trapezoidal": {"sampler": "theta-trapezoidal"},
        "tau-leaping": {"sampler": "tau-leaping"},
        "psi": {"sampler": "psi"},
        "fitted grid": {"grid": "fitted"},
    },
}

#: Students that draw position by position, also judged from left to right: of masked noise.
WALKING = {f"{name} from the left": name for name in ("joint any-order", "joint autoregressive")}
#: What is kept of what was measured: means over seeds.
METRICS = (
    *("kl", "kl_rate", "missed", "tv", "bigram_tv", "valid", "nll", "entropy", "copied"),
    *("frechet", "precision", "recall", "distinct_4"),
)


@dataclass(frozen=True)
class Task:
    """What is learned, and the sizes of what learns it.

    Attributes:
        noise: masked or uniform.
        problem: of `fewjump compare`, but for its noise; None for data.
        data: digits, or a file of :class:`Config`, names or text.
        length: L of data.
        network: the teacher's transformer, and every student's.
        states: of chain heads.
        components: of mixtures.
        width: of heads that attend.
    """

    noise: Literal["masked", "uniform"] = "masked"
    problem: dict[str, Any] | None = None
    data: str | None = None
    length: int | None = None
    network: dict[str, Any] = field(
        default_factory=lambda: {"hidden": 64, "blocks": 2, "heads": 4, "condition_dim": 32}
    )
    states: int = 32
    components: int = 16
    width: int = 32


#: Letters are learned from fewer and longer sequences.
LETTERS = {"kind": "oracle-markov", "length": 128, "sequences": 4000}
TASKS: dict[str, Task] = {
    "masked-chain": Task(problem={"kind": "markov"}),
    "uniform-chain": Task("uniform", {"kind": "markov"}),
    "boards": Task(problem={"kind": "sudoku"}, states=64, components=64, width=64),
    "letters": Task(problem=LETTERS, states=64, width=64),
    "names": Task(data="names", states=64, width=64),
    "text": Task(data="text", length=64, states=128, width=64),
    "digits": Task(data="digits", states=64, components=64, width=64),
}


@dataclass(frozen=True)
class Sizes:
    """Budget of the experiment.

    Attributes:
        teacher_steps: optimiser steps of the teacher, and of the autoregressive network.
        evaluations: of one sequence, that a method may ask of its teacher.
        alone: optimiser steps of what asks its teacher nothing.
        pairs: that ReDi draws in each of two rounds, each in 32 steps, and learns for ``alone``.
        samples: of a cell.
        steps: at which students are judged.
        teacher_grid: at which the teacher is.
    """

    teacher_steps: int = 1500
    batch_size: int = 64
    evaluations: int = 32_000
    alone: int = 1000
    pairs: int = 500
    samples: int = 1024
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    teacher_grid: tuple[int, ...] = (1, 2, 4, 8, 16, 64)

    def training(self) -> dict[str, Any]:
        """Of a network that learns from the data alone."""
        return {"steps": self.teacher_steps, "batch_size": self.batch_size, "lr": 0.002}


@dataclass
class Config(Options):
    """Every few-step method with one teacher, one budget and an exact judge.

    Attributes:
        task: masked-chain, uniform-chain, boards, letters, names, text or digits.
        seeds: trainings of every student.
        names: file of one name a line.
        text: file of running text.
    """

    task: str = "masked-chain"
    seeds: int = 3
    names: Path | None = None
    text: Path | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"there is no task {self.task}: give one of {', '.join(TASKS)}")
        if self.task in ("names", "text") and getattr(self, self.task) is None:
            raise ValueError(f"the task {self.task} needs a file: give --{self.task}")


def methods(task: Task, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """What `fewjump distill` is told for each method.

    Those of distribution matching are a published method (with noise as an input too, where its
    paper has that), and the same over a head of ours: from the teacher's weights, and after half of
    the budget was spent on joint matching.
    """
    chain = {"student": "shared-chain", "head": [f"states={task.states}"], "lr": 0.003}
    mixture = {"student": "mixture", "head": [f"components={task.components}"], "lr": 0.003}
    # As every other student; by default they are drawn from left to right.
    by_chance = {"sampler": "ancestral"}
    attending = {
        "student": "any-order",
        "head": [f"width={task.width}", "neighbours=[1]"],
        "lr": 0.003,
        **by_chance,
    }
    left = {"student": "autoregressive", "head": [f"width={task.width}"], "lr": 0.003, **by_chance}
    latent = {"student": "latent", "head": [f"size={task.width}", "categories=0"], "lr": 0.003}
    noise = {"student": "latent", "head": ["categories=0", "position_size=8"]}
    joint = {"jumps": 4, "near": 0.1}
    alone = {"jumps": 4, "steps": sizes.alone}
    # Those that ask the teacher much have few optimiser steps.
    two = {"auxiliary-steps": 40, "warmup": 20}
    small, fast = {"lr": 0.0003}, {"lr": 0.001}
    matched = {"jumps": 4, **two, **small}
    half = {"teacher-evaluations": sizes.evaluations // 2}
    sharpen = {"method": "dmmd", "jumps": 4, "auxiliary-steps": 20, "warmup": 10, **small}
    found = {
        "conditional matching": {"jumps": 4},
        "joint shared-chain": {**chain, **joint},
        "joint half": {**chain, **joint, **half},
        "joint half + D-MMD": {**sharpen, "student": "shared-chain", "start": "joint half"},
        "joint any-order": {**attending, **joint},
        "joint autoregressive": {**left, **joint},
        "joint mixture": {**mixture, **joint},
        "Di4C mixture": {**mixture, "method": "di4c"},
        "Di4C shared-chain": {**chain, "method": "di4c"},
        "data-only shared-chain": {**chain, **alone, "method": "data-only"},
        "VADD": {**latent, **alone, "method": "vadd"},
        "E-MoE": {**mixture, **alone, "method": "e-moe"},
        "D-MMD product": {"method": "dmmd", **matched},
        "D-MMD latent": {**noise, "method": "dmmd", **matched},
        "D-MMD shared-chain": {**chain, "method": "dmmd", **two, **fast},
        "DiMO product": {"method": "dimo", **two, **small},
        "DiMO latent": {**noise, "method": "dimo", **two, **small},
        "DiMO shared-chain": {**chain, "method": "dimo", **two, **fast},
        "LSD": {"method": "lsd", "jumps": 8, "lr": 0.01, "batch-size": 8, "warmup": 5},
        "IDLM product": {"method": "idlm", **two, **small},
        "IDLM shared-chain": {**chain, "method": "idlm", **two, **fast},
    }
    if task.noise == "masked":
        return {**found, "SDTT": {"method": "sdtt", "jumps-before": 64, "rounds": 5}}
    pairs = {"pairs": sizes.pairs, "pair-steps": 32, "steps": sizes.alone}
    # Ancestral steps of uniform noise forget the noise that a rectified student goes by.
    redi = {"method": "redi", "rounds": 2, **pairs, "sampler": "flow-matching"}
    return {**found, "DCD": {"method": "dcd", "jumps-before": 64, "rounds": 5}, "ReDi": redi}


def plan_of(task: Task, sizes: Sizes, config: Config, folder: Path) -> dict[str, Any]:
    """The plan of `fewjump compare`; of data, its teacher is trained in ``folder``."""
    students = methods(task, sizes)
    walked = students if task.noise == "masked" else {}
    walking = {name: {"of": of} for name, of in WALKING.items() if of in walked}
    plan = {
        "steps": list(sizes.steps),
        "teacher-steps": list(sizes.teacher_grid),
        "seeds": list(range(config.seed, config.seed + config.seeds)),
        "samples": sizes.samples,
        "matched-entropy": False,
        "teacher-evaluations": sizes.evaluations,
        "shared": {"batch-size": sizes.batch_size, "lr": 0.001},
        "students": students,
        "samplers": {**SAMPLERS[task.noise], **walking},
        "autoregressive": sizes.training(),
    }
    if task.problem is not None:
        problem = {**task.problem, "noise": task.noise}
        return {**plan, "problem": problem, "network": task.network, "teacher": sizes.training()}
    assert task.data is not None
    # The test part of the digits is smaller.
    plan |= {"samples": min(sizes.samples, 1000)} if task.data == "digits" else {}
    source = {"digits": "digits", "names": config.names, "text": config.text}[task.data]
    plan |= {"teacher": str(folder / "teacher"), "data": str(source)}
    plan |= {"kind": "lines"} if task.data == "names" else {}
    return plan if task.length is None else {**plan, "length": task.length}


def teach(task: Task, plan: dict[str, Any], sizes: Sizes) -> None:
    """Train the teacher of data where the plan has it."""
    kind: DataKind = plan.get("kind", "auto")
    data = load_data(plan["data"], task.length, kind=kind)
    size, noise = data.vocab_size, LogLinear()
    process = Absorbing(size + 1, noise) if task.noise == "masked" else Uniform(size, noise)
    train_teacher(data, process, network=task.network, out=plan["teacher"], **sizes.training())


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """Teachers, students and what the judges say of their samples."""
    sizes = Sizes() if sizes is None else sizes
    task = TASKS[config.task]
    folder = place(config.runs / "methods", config.task, asdict(task), asdict(sizes))
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_of(task, sizes, config, folder)
    if task.problem is None:
        teach(task, plan, sizes)
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    compare.run(compare.Options(file, folder, progress=False))
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = [row for row in found["rows"] if row["metric"] in METRICS]
    # Of all trainings: this call took up what earlier ones finished.
    seconds = round(sum(row["seconds"] for row in found["costs"]), 1)
    about = {"seconds": seconds, "task": config.task, "seeds": config.seeds, "sizes": asdict(sizes)}
    return {**about, "rows": rows, "costs": found["costs"]}


if __name__ == "__main__":
    main("methods_{task}", Config, measure)
