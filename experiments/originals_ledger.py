"""What the original code computed, and which of it has been compared with what is computed here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ATOL = 5e-6
# Rates, ratios and losses reach a thousand: float32 holds them to seven digits, not to 5e-6.
RTOL = 1e-6
# Log-probabilities reach −17, where numbers of float32 lie 1.9e-6 apart: theirs are 5.4e-6 from
# what float64 gives for the same weights (MDLM). 5e-6 alone holds on some processors by chance.
ROUNDING = 2.0**-23
# Half the distance of numbers of float32 near 1: the largest relative error of one operation.
UNIT = 2.0**-24
EXCLUDED = -9e5


@dataclass
class Row:
    """One tensor of an oracle compared.

    Attributes:
        family: the case.
        tensor: its name in ``oracle.safetensors``.
        container, weights: what was loaded to compute it; empty for what needs no network.
        what: ``output`` (logits, log-scores, hidden states), ``probability``, ``schedule``,
            ``rate`` (rates, ratios, losses: unbounded), ``draw`` (tokens), ``input``.
        delta: largest |ours − theirs|.
        largest: largest |theirs|.
        excess: largest |ours − theirs| in units of what is allowed; at most 1 is a pass.
        exact: where the original's float32 formula cancels, the distance of the formula in exact
            arithmetic; ``delta`` is then that of the formula in float32.
    """

    family: str
    tensor: str
    container: str
    weights: str
    what: str
    delta: float
    largest: float
    excess: float
    exact: float | None = None


class Ledger:
    """The oracle of one case. Every tensor is to be compared; :meth:`unchecked` names the others.

    Args:
        folder: with ``oracle.safetensors`` and ``oracle.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.family = folder, folder.name
        self.tensors = load_file(folder / "oracle.safetensors")
        self.facts: dict[str, Any] = json.loads((folder / "oracle.json").read_text("utf-8"))
        self.rows: list[Row] = []

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def compare(
        self,
        name: str,
        found: Tensor,
        what: str,
        container: str = "",
        weights: str = "",
        exact: Tensor | None = None,
        as_drawn: bool = False,
        rounding: Tensor | float = 0.0,
    ) -> Row:
        """Compare a tensor of the oracle with what was found here.

        Args:
            name: in the oracle.
            found: of the same shape; −inf stands for the originals' −1e6.
            what, container, weights: see :class:`Row`.
            exact: see :class:`Row`.
            as_drawn: compare with the distribution that is drawn from the oracle's table: entries
                below zero are never drawn, and the others in proportion.
            rounding: what is allowed beside, where the originals' float32 formula cancels and
                ``found`` is exact: the error of one operation on each of its terms.

        Raises:
            ValueError: if the shapes differ.
        """
        theirs = self.tensors[name].double()
        if as_drawn:
            theirs = theirs.clamp(min=0)
            theirs = theirs / theirs.sum(-1, keepdim=True)
        ours = found.detach().double()
        if ours.shape != theirs.shape:
            raise ValueError(f"{name} has shape {tuple(theirs.shape)}, found {tuple(ours.shape)}")
        difference = _difference(ours, theirs)
        relative = {"rate": RTOL, "output": ROUNDING}.get(what, 0.0)
        kept = theirs > EXCLUDED
        size = torch.where(kept, theirs, 0.0).abs()
        row = Row(
            family=self.family,
            tensor=name,
            container=container,
            weights=weights,
            what=what,
            delta=float(difference.max()),
            largest=float(size.max()),
            excess=float((difference / (ATOL + relative * size + rounding)).max()),
            exact=None if exact is None else float(_difference(exact.double(), theirs).max()),
        )
        self.rows.append(row)
        return row

    def unchecked(self) -> list[str]:
        """Tensors of the oracle that were not compared."""
        return sorted(set(self.tensors) - {row.tensor for row in self.rows})


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """|ours − theirs|, and 0 where both exclude an entry; infinite where one of them does."""
    both = (theirs <= EXCLUDED) & (ours <= EXCLUDED)
    return torch.where(both, 0.0, (ours - theirs).abs())


def gumbel_draw(table: Tensor) -> Tensor:
    """The originals' draw from a table, from torch's global random state."""
    return (table / (1e-10 - (torch.rand_like(table) + 1e-10).log())).argmax(-1)


def grid(settings: dict[str, Any]) -> tuple[Tensor, float]:
    """The originals' times from 1 to eps, and their step."""
    steps, eps = int(settings["steps"]), float(settings["eps"])
    return torch.linspace(1, eps, steps + 1), (1 - eps) / steps


Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def compare_chain(
    ledger: Ledger,
    name: str,
    start: Callable[[tuple[int, int]], Tensor],
    step: Step,
    draw: Callable[[Tensor, Tensor], Tensor],
    last: Callable[[Tensor, Tensor], tuple[Tensor | None, Tensor]],
    source: tuple[str, str],
    arithmetic: Step | None = None,
    sampled: Step | None = None,
) -> None:
    """Repeat a seeded chain of the original: every table, and the tokens it ends with.

    Args:
        start: (B, L) → the first state.
        step: (x, t, s) → the table of one step, t and s (B,) float64.
        draw: (table, x) → the next state.
        last: (x, t) → the table of the last draw, if there is one, and what was drawn.
        source: container and weights.
        arithmetic: the first step's table in the original's own float32 formula.
        sampled: the table that this library's sampler draws from, where it differs from ``step``
            by what is never drawn.
    """
    settings = ledger.facts[name]
    torch.manual_seed(settings["seed"])
    times, width = grid(settings)
    batch = settings["batch"]
    x = start((batch, ledger["x"].shape[1]))
    for i in range(settings["steps"]):
        t = times[i].expand(batch).double()
        table = step(x, t, t - width)
        key = f"{name}/probs/{i}"
        if arithmetic is not None and i == 0:
            found = arithmetic(x, t, t - width)
            ledger.compare(key, found, "probability", *source, exact=table)
        else:
            ledger.compare(key, table, "probability", *source)
        if sampled is not None and (i or arithmetic is None):
            ledger.compare(
                key,
                sampled(x, t, t - width),
                "probability",
                *source,
                as_drawn=True,
            )
        x = draw(table, x)
    table, x = last(x, times[-1].expand(batch).double())
    if table is not None:
        ledger.compare(f"{name}/probs/{settings['steps']}", table, "probability", *source)
    ledger.compare(f"{name}/x", x, "draw", *source)


def seeded(table: Tensor) -> Tensor:
    """The originals' draw after seeding."""
    torch.manual_seed(4)
    return gumbel_draw(table)
