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

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from experiments.harness import Content, Options, Rows, digest, kept, main
from experiments.text_quality import measure_text, reference_row, with_ends
from experiments.text_sizes import SIZES, Sizes, load_corpus
from experiments.text_students import Workshop, seconds_of_parts
from experiments.wall_clock import TEACHER
from fewjump import sample
from fewjump.demo.parts import Clock
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.evaluate.text import TextMeter
from fewjump.law import Law
from fewjump.random import generator_for

LOOKAHEAD = "autoregressive with lookahead"
KINDS = ("autoregressive", LOOKAHEAD, "any-order", "shared-chain")
HIDDEN = ("stretch", "scattered")
#: Steps that fillings are drawn in.
FILLED_IN = {TEACHER: (1, 16, 64)}
FEW = (1, 4)
#: Random orders in which the holes are revealed one by one, for the bound of many steps.
_ORDERS = 4
#: Sequences that are filled one at a time, to time it.
_ALONE = 20


def holes(kind: str, shape: tuple[int, int], seed: int) -> Tensor:
    """Which positions of each row are to be filled: all, a stretch of half, or a scattered half."""
    rows, length = shape
    generator = generator_for(seed)
    if kind == "scattered":
        return torch.rand(rows, length, generator=generator).argsort(1) < length // 2
    if kind == "everything":
        return torch.ones(rows, length, dtype=torch.bool)
    start = torch.randint(length - length // 2 + 1, (rows, 1), generator=generator)
    at = torch.arange(length)
    return (at >= start) & (at < start + length // 2)


@torch.no_grad()
def filling(model: Denoiser, x0: Tensor, hole: Tensor, batch: int = 256) -> Tensor:
    """Exact −log p of the true filling given what is visible, in nats per hole: (N,).

    One evaluation of the trunk, at the noise level that hides as many positions.
    """
    out = []
    for rows in torch.arange(len(x0)).split(batch):
        law = _law(model, x0[rows], hole[rows])
        out.append(-law.log_prob(x0[rows]).double() / hole[rows].sum(1))
    return torch.cat(out)


@torch.no_grad()
def filling_one_by_one(
    model: Denoiser, x0: Tensor, hole: Tensor, orders: int = _ORDERS, batch: int = 256
) -> Tensor:
    """The same if the holes are revealed one by one, in random orders: (N,) averages over orders.

    An upper bound of −log p under as many steps as there are holes, which is the most that a law
    of independent positions can do.
    """
    out = []
    for rows in torch.arange(len(x0)).split(batch):
        x, start, total = x0[rows], hole[rows], torch.zeros(len(rows), dtype=torch.float64)
        for order in range(orders):
            rank = torch.rand(x0.shape, generator=generator_for(order))[rows]
            left = start.clone()
            while bool(left.any()):
                law = _law(model, x, left)
                # The next hole of each row: the first of its order that is left.
                at = rank.masked_fill(~left, 2.0).argmin(1, keepdim=True)
                token = x.gather(1, at)[..., None]
                p = law.marginals().double().gather(1, at[..., None].expand(-1, -1, law.vocab_size))
                now = left.gather(1, at)[:, 0]
                total -= torch.where(now, p.gather(2, token)[:, 0, 0].log(), 0.0)
                left = left.scatter(1, at, False)
        out.append(total / orders / start.sum(1))
    return torch.cat(out)


def _law(model: Denoiser, x0: Tensor, hole: Tensor) -> Law:
    process = model.process
    assert process.mask is not None
    share = hole.double().mean(1).clamp(max=1 - 1e-6)
    x_t = torch.where(hole, process.mask, x0)
    return model(x_t, process.schedule.time_of_alpha(1 - share).clamp(max=1))


@dataclass(kw_only=True)
class Config(Options):
    """Students that read what is visible, on names or running text.

    Attributes:
        corpus: which of the two.
        names: file with one name of a–z per line.
        text: text file, reduced to a–z and space; without it the documentation that Python ships.
        seeds: trainings of everything.
        steps: optimiser steps of each student.
    """

    corpus: Literal["names", "text"] = "names"
    names: Path | None = None
    text: Path | None = None
    seeds: int = 1
    steps: int = 2000


def sizes_of(config: Config, sizes: Sizes) -> Sizes:
    """The budget: the corpus's of the students' experiment, and as many steps for every student."""
    width = sizes.heads.get("autoregressive", {}).get("width", 16)
    heads = {
        "autoregressive": {"width": width},
        LOOKAHEAD: {"kind": "autoregressive", "width": width, "lookahead": True},
        "any-order": {"width": width},
        "shared-chain": sizes.heads["shared-chain"],
    }
    return replace(sizes, heads=heads, joint_steps=config.steps, longer={}, seeds=config.seeds)


@dataclass(frozen=True)
class Fillings:
    """Rows about the halves of test sequences that a model fills in.

    Attributes:
        workshop: where models and rows are kept.
        meter: judge of whole sequences.
        x0: (N, L) test sequences.
        entropy: trigram entropy in nats that quality is matched at: that of ``x0``.
    """

    workshop: Workshop
    meter: TextMeter
    x0: Tensor
    entropy: float

    def rows(self, name: str, model: Denoiser) -> Rows:
        """Exact −log p of the true filling, and one row for each number of steps."""
        out = []
        sizes = self.workshop.sizes
        for hidden in ("everything", *HIDDEN):
            hole = holes(hidden, (len(self.x0), self.x0.shape[1]), 1)

            def truth(hole: Tensor = hole) -> dict[str, Any]:
                ways = {"nll": filling, "one_by_one": filling_one_by_one}
                return {
                    part: value
                    for way, measure in ways.items()
                    if way == "nll" or name == TEACHER
                    for part, value in with_ends(
                        way,
                        bootstrap(
                            measure(model, self.x0, hole), mean, generator_for(1), sizes.replicates
                        ),
                    ).items()
                }

            exact = self._kept(name, model, {"hidden": hidden}, truth)
            out.append(exact)
            if hidden not in HIDDEN:
                continue
            for steps in FILLED_IN.get(name, FEW):

                def drawn(steps: int = steps, hole: Tensor = hole) -> dict[str, Any]:
                    return self._drawn(model, steps, hole)

                out.append(self._kept(name, model, {"hidden": hidden, "steps": steps}, drawn))
        return out

    def _drawn(self, model: Denoiser, steps: int, hole: Tensor) -> dict[str, Any]:
        sizes, seed = self.workshop.sizes, self.workshop.seed
        x0 = self.x0.to(model.device)
        shown = ~hole.to(model.device)
        measured = measure_text(
            model,
            self.meter,
            steps,
            len(x0),
            seed,
            self.entropy,
            sizes.replicates,
            prompt=x0,
            fixed=shown,
        )
        begin = time.perf_counter()
        for row in range(min(_ALONE, len(x0))):
            sample(model, 1, steps, generator=row, prompt=x0[row], fixed=shown[row])
        alone = (time.perf_counter() - begin) / min(_ALONE, len(x0))
        return {**measured, "seconds_alone": alone}

    def _kept(self, name: str, model: Denoiser, about: dict[str, Any], compute) -> dict[str, Any]:
        sizes = self.workshop.sizes
        key = digest(about, len(self.x0), sizes.replicates, self.entropy)
        file = self.workshop.folder(name) / f"filling-{key}.json"
        with self.workshop.clock.part(f"{self.workshop.corpus}: filling by {name}, {about}"):
            found = kept(file, compute)
        return {"student": name, "seed": self.workshop.seed, **about, **found}


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
        filled = Fillings(workshop, meter, x0, entropy)
        teacher = workshop.teacher()
        for kind in (TEACHER, *KINDS):
            model = teacher if kind == TEACHER else workshop.student(kind, teacher)
            rows += workshop.rows(kind, model, meter, entropy)
            fillings += filled.rows(kind, model)
    return {
        "data": data.description,
        "sizes": asdict(sizes),
        "reference": reference,
        "seconds_of_parts": seconds_of_parts(rows),
        "rows": rows,
        "fillings": fillings,
    }


if __name__ == "__main__":
    main("conditioning_{corpus}", Config, measure)
