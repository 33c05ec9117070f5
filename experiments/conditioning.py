"""Students that read what is visible: quality by number of steps, and infilling in one evaluation.

A left-to-right head learns of visible tokens to the right of a hole through the trunk alone. It is
trained beside the same head with a pass from right to left over the visible tokens, beside the
any-order head and the shared chain, for as many optimiser steps. Then half of each test sequence is
hidden, a stretch or scattered positions, and filled: by the students in one evaluation and in four,
by the teacher in 64. Run as

    python -m experiments.conditioning --corpus names --names names.txt
    python -m experiments.conditioning --corpus text --text shakespeare.txt
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from experiments.filling import Fillings
from experiments.harness import Content, Options, Rows, main
from experiments.text_quality import measure_text, reference_row
from experiments.text_sizes import SIZES, Sizes, load_corpus
from experiments.text_students import Workshop, seconds_of_parts
from fewjump.config import one_of
from fewjump.demo.parts import TEACHER, Clock
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.text import TextMeter

LOOKAHEAD = "autoregressive with lookahead"
#: With one block more than by default.
DEEPER = "any-order with two blocks"
KINDS = ("autoregressive", LOOKAHEAD, "any-order", "shared-chain")
#: Kinds that draw from left to right: they are asked to reveal positions in that order too.
WALKS = ("autoregressive", "any-order", DEEPER)
HIDDEN = ("stretch", "scattered")


@dataclass(kw_only=True)
class Config(Options):
    """Students that read what is visible, on names or running text.

    Attributes:
        corpus: which of the two.
        names: file with one name of a–z per line.
        text: text file, reduced to a–z and space; without it the documentation that Python ships.
        seeds: trainings of everything.
        steps: optimiser steps of each student.
        kinds: of students.
    """

    corpus: Literal["names", "text"] = "names"
    names: Path | None = None
    text: Path | None = None
    seeds: int = 1
    steps: int = 2000
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        for kind in self.kinds:
            one_of("kinds", kind, (*KINDS, DEEPER))


def sizes_of(config: Config, sizes: Sizes) -> Sizes:
    """The budget: the corpus's of the students' experiment, and as many steps for every student."""
    width = sizes.heads.get("autoregressive", {}).get("width", 16)
    heads = {
        "autoregressive": {"width": width},
        LOOKAHEAD: {"kind": "autoregressive", "width": width, "lookahead": True},
        "any-order": {"width": width, "neighbours": (1, 2, 3, 4)},
        "shared-chain": sizes.heads["shared-chain"],
    }
    heads[DEEPER] = {"kind": "any-order", **heads["any-order"], "blocks": 2}
    heads = {kind: heads[kind] for kind in config.kinds}
    return replace(sizes, heads=heads, joint_steps=config.steps, longer={}, seeds=config.seeds)


def fillings_of(workshop: Workshop, meter: TextMeter, x0: Tensor, entropy: float) -> Fillings:
    """Fillings of ``x0``, judged as whole sequences at the trigram entropy ``entropy`` in nats."""
    sizes, seed = workshop.sizes, workshop.seed

    def measured(model: Denoiser, steps: int, hole: Tensor) -> dict[str, Any]:
        given = x0.to(model.device)
        return measure_text(
            model,
            meter,
            steps,
            len(x0),
            seed,
            entropy,
            sizes.replicates,
            prompt=given,
            fixed=~hole.to(model.device),
        )

    return Fillings(
        x0,
        HIDDEN,
        measured,
        workshop.folder,
        seed,
        sizes.replicates,
        (entropy,),
        workshop.clock,
        workshop.corpus,
    )


def measure(config: Config, sizes: Sizes | None = None) -> Content:
    """Rows by number of steps, and rows of fillings."""
    clock = Clock()
    sizes = sizes_of(config, SIZES[config.corpus] if sizes is None else sizes)
    data = load_corpus(config.corpus, sizes, config.names, config.text)
    meter = TextMeter(data)
    reference = reference_row(data, meter, sizes.samples)
    entropy = reference["entropy"]
    x0 = data.all("test", sizes.samples)
    rows: Rows = []
    fillings: Rows = []
    for seed in range(config.seed, config.seed + sizes.seeds):
        workshop = Workshop(config.corpus, data, sizes, seed, config.runs, clock)
        filled = fillings_of(workshop, meter, x0, entropy)
        teacher = workshop.teacher()
        for kind in (TEACHER, *config.kinds):
            model = teacher if kind == TEACHER else workshop.student(kind, teacher)
            rows += workshop.rows(kind, model, meter, entropy)
            if kind in WALKS:
                rows += workshop.rows(kind, model, meter, entropy, left=True)
            fillings += filled.rows(kind, model)
    parts = seconds_of_parts(rows)
    return {
        "data": data.description,
        # Of all trainings and samples: this call took up what earlier ones finished.
        "seconds": round(sum(parts.values()), 1),
        "sizes": asdict(sizes),
        "reference": reference,
        "seconds_of_parts": parts,
        "rows": rows,
        "fillings": fillings,
    }


if __name__ == "__main__":
    main("conditioning_{corpus}", Config, measure)
