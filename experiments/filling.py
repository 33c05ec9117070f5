"""Hide half of each test sequence and let a model fill it in: exact scores, draws and times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.harness import Rows, digest, kept, with_ends
from fewjump import sample
from fewjump.demo.parts import TEACHER, Clock
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.bootstrap import bootstrap, mean
from fewjump.law import Law
from fewjump.random import generator_for

#: Steps that fillings are drawn in.
FILLED_IN = {TEACHER: (1, 16, 64)}
FEW = (1, 4)
#: Random orders in which the holes are revealed one by one, for the bound of many steps.
_ORDERS = 4
_BATCH = 256
#: Sequences that are filled one at a time, to time it.
_ALONE = 20


def holes(kind: str, shape: tuple[int, int], seed: int) -> Tensor:
    """Which positions of each row are to be filled.

    Args:
        kind: "everything", a random "stretch" of half of the positions, a "scattered" half, or the
            "lower half", which is the second.
    """
    rows, length = shape
    generator = generator_for(seed)
    if kind == "scattered":
        return torch.rand(rows, length, generator=generator).argsort(1) < length // 2
    if kind == "everything":
        return torch.ones(rows, length, dtype=torch.bool)
    if kind == "lower half":
        return (torch.arange(length) >= length // 2).expand(rows, -1)
    start = torch.randint(length - length // 2 + 1, (rows, 1), generator=generator)
    at = torch.arange(length)
    return (at >= start) & (at < start + length // 2)


@torch.no_grad()
def filling(model: Denoiser, x0: Tensor, hole: Tensor) -> Tensor:
    """Exact −log p of the true filling given what is visible, in nats per hole: (N,).

    One evaluation of the trunk, at the noise level that hides as many positions.
    """
    out = []
    for rows in torch.arange(len(x0)).split(_BATCH):
        law = _law(model, x0[rows], hole[rows])
        out.append(-law.log_prob(x0[rows]).double() / hole[rows].sum(1))
    return torch.cat(out)


@torch.no_grad()
def filling_one_by_one(model: Denoiser, x0: Tensor, hole: Tensor) -> Tensor:
    """The same if the holes are revealed one by one, in random orders: (N,) averages over orders.

    An upper bound of −log p under as many steps as there are holes, which is the most that a law
    of independent positions can do.
    """
    out = []
    for rows in torch.arange(len(x0)).split(_BATCH):
        x, start, total = x0[rows], hole[rows], torch.zeros(len(rows), dtype=torch.float64)
        for order in range(_ORDERS):
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
        out.append(total / _ORDERS / start.sum(1))
    return torch.cat(out)


def _law(model: Denoiser, x0: Tensor, hole: Tensor) -> Law:
    process = model.process
    assert process.mask is not None
    share = hole.double().mean(1).clamp(max=1 - 1e-6)
    x_t = torch.where(hole, process.mask, x0)
    return model(x_t, process.schedule.time_of_alpha(1 - share).clamp(max=1))


@dataclass(frozen=True)
class Fillings:
    """Rows about the halves of test sequences that a model fills in.

    Attributes:
        x0: (N, L) test sequences.
        hidden: kinds of :func:`holes` that are drawn; the exact scores are of all positions too.
        measured: (model, steps, holes) → what else is said of fillings that are drawn.
        folder: where the rows of a model are kept.
        seed: of the models.
        replicates: of every interval.
        settings: what the rows depend on beside the model and these numbers.
        clock: says on the terminal what is going on.
        about: first word of what it says.
    """

    x0: Tensor
    hidden: tuple[str, ...]
    measured: Callable[[Denoiser, int, Tensor], dict[str, Any]]
    folder: Callable[[str], Path]
    seed: int
    replicates: int
    settings: tuple[Any, ...]
    clock: Clock
    about: str

    def rows(self, name: str, model: Denoiser) -> Rows:
        """Exact −log p of the true filling, and one row for each number of steps."""
        out = []
        for hidden in ("everything", *self.hidden):
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
                            measure(model, self.x0, hole), mean, generator_for(1), self.replicates
                        ),
                    ).items()
                }

            out.append(self._kept(name, {"hidden": hidden}, truth))
            if hidden not in self.hidden:
                continue
            for steps in FILLED_IN.get(name, FEW):

                def drawn(steps: int = steps, hole: Tensor = hole) -> dict[str, Any]:
                    alone = self.seconds_alone(model, steps, hole)
                    return {**self.measured(model, steps, hole), "seconds_alone": alone}

                out.append(self._kept(name, {"hidden": hidden, "steps": steps}, drawn))
        return out

    def seconds_alone(self, model: Denoiser, steps: int, hole: Tensor) -> float:
        """Seconds to fill in one sequence, one at a time."""
        x0, shown = self.x0[:_ALONE], ~hole[:_ALONE]
        begin = time.perf_counter()
        for row in range(len(x0)):
            sample(model, 1, steps, "ancestral", generator=row, prompt=x0[row], fixed=shown[row])
        return (time.perf_counter() - begin) / len(x0)

    def _kept(
        self, name: str, about: dict[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        key = digest(about, len(self.x0), self.replicates, *self.settings)
        file = self.folder(name) / f"filling-{key}.json"
        with self.clock.part(f"{self.about}: filling by {name}, {about}"):
            found = kept(file, compute)
        return {"student": name, "seed": self.seed, **about, **found}
