"""Wide chains and tensor trains on names, beside the students they stand between.

A shared chain in blocks of states costs less than its number of states says, and a tensor train
draws from left to right with exact conditionals of any set of tokens. Both are trained for as many
optimiser steps as the dense shared chain and the autoregressive student, from the same teacher, and
judged by the exact −log p that one evaluation gives to unseen names, and by the judge's NLL of
samples by number of steps. Run as

    python -m experiments.wide_chains --names names.txt

The students that :mod:`experiments.conditioning` has trained are found with the same ``--runs``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from experiments.filling import filling, holes
from experiments.harness import Content, Options, digest, kept, main, with_ends
from experiments.text_quality import reference_row
from experiments.text_sizes import SIZES, Sizes, load_corpus
from experiments.text_students import Workshop
from fewjump.demo.parts import TEACHER, Clock
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.evaluate.text import TextMeter
from fewjump.random import generator_for

#: Sizes and numbers of blocks of the wide chains.
WIDE = {"shared-chain, 1,024 states": (1024, 32), "shared-chain, 4,096 states": (4096, 64)}
KINDS = ("autoregressive", "shared-chain", *WIDE, "tensor-train")


@dataclass(kw_only=True)
class Config(Options):
    """Wide chains and tensor trains on names.

    Attributes:
        names: file with one name of a–z per line.
        students: kinds that are made.
        seeds: trainings of everything.
        steps: optimiser steps of each student.
        drawn: numbers of sampling steps.
    """

    names: Path
    students: tuple[str, ...] = KINDS
    seeds: int = 1
    steps: int = 2000
    drawn: tuple[int, ...] = (1, 4)


def sizes_of(config: Config, sizes: Sizes) -> Sizes:
    """The budget of the students' experiment, with as many steps for every student."""
    chain = {"kind": "shared-chain", **sizes.heads["shared-chain"]}
    heads = {
        "autoregressive": sizes.heads["autoregressive"],
        "shared-chain": sizes.heads["shared-chain"],
        **{name: {**chain, "states": r, "blocks": blocks} for name, (r, blocks) in WIDE.items()},
        "tensor-train": {"length": sizes.length},
    }
    sizes = replace(sizes, heads=heads, joint_steps=config.steps, longer={}, seeds=config.seeds)
    return replace(sizes, steps=config.drawn, teacher_extra=())


def likelihood_row(workshop: Workshop, name: str, model: Denoiser) -> dict[str, object]:
    """Exact −log p of unseen sequences at one evaluation, nats a token, with its interval."""
    x0 = workshop.data.all("test", workshop.sizes.samples)
    replicates = workshop.sizes.replicates

    def compute() -> dict[str, float | None]:
        each = filling(model, x0, holes("everything", (len(x0), x0.shape[1]), 1))
        return with_ends("nll", bootstrap(each, mean, generator_for(1), replicates))

    file = workshop.folder(name) / f"unseen-{digest(len(x0), replicates)}.json"
    return {"student": name, "seed": workshop.seed, **kept(file, compute)}


def measure(config: Config, sizes: Sizes = SIZES["names"]) -> Content:
    """Rows by number of steps, and the likelihood of unseen names."""
    sizes, clock = sizes_of(config, sizes), Clock()
    data = load_corpus("names", sizes, config.names, None)
    meter, rows, unseen = TextMeter(data), [], []
    reference = reference_row(data, meter, sizes.samples)
    for seed in range(config.seed, config.seed + sizes.seeds):
        workshop = Workshop("names", data, sizes, seed, config.runs, clock)
        teacher = workshop.teacher()
        for kind in (TEACHER, *config.students):
            model = teacher if kind == TEACHER else workshop.student(kind, teacher)
            unseen.append(likelihood_row(workshop, kind, model))
            rows += workshop.rows(kind, model, meter, reference["entropy"])
    return {
        "data": data.description,
        "sizes": asdict(sizes),
        "reference": reference,
        "unseen": unseen,
        "rows": rows,
    }


if __name__ == "__main__":
    main("wide_chains", Config, measure)
