"""What sampling costs beside the network alone, for every family of originals.

A turn of a family times its samplers and, before and after each, evaluations of the network alone:
the trunk and its last layer onto (B, L, V), by which the sampler's time is divided. The times are
the process's own on one thread, so that what else the machine does is counted only where it slows
the memory. A loop written straight from SEDD's formulas, over whole (B, L, V) tensors in the
network's precision and in float64, is timed beside. Run, and stop at any time:

    python -m benchmarks.beside_network
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from experiments.harness import Content, Options, Rows, kept, main, place
from fewjump.denoiser import (
    NetworkDenoiser,
    ProductHead,
    ScoreDenoiser,
    ScoreNetwork,
    Transformer,
    TransformerConfig,
)
from fewjump.process import Absorbing, Process, Uniform
from fewjump.sampler import run
from fewjump.sampler.time_grid import times_for
from fewjump.schedule import Cosine, Geometric, LogLinear

BATCH, LENGTH, VOCAB = 8, 256, 32_000
STEPS = (4, 8, 16)
#: The loop straight from the formulas is several times as slow; its cost is one step's.
LOOP_STEPS = (4,)
TARGETS = {"SEDD uniform": 1.4, "MDLM": 1.1, "UDLM": 1.1, "Duo": 1.1}

AnyDenoiser = NetworkDenoiser | ScoreDenoiser


class Family(NamedTuple):
    """Networks of one kind.

    Attributes:
        make: a denoiser of random weights.
        samplers: ours.
        loop: whether SEDD's formulas are timed beside.
    """

    make: Callable[[], AnyDenoiser]
    samplers: tuple[str, ...] = ("ancestral",)
    loop: bool = False


def _trunk(time_conditioned: bool = True) -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerConfig(VOCAB, 256, 6, 4, time_conditioned=time_conditioned))


def _shaped(linear: nn.Linear) -> None:
    """A trained last layer is not flat: its outputs spread by about 1.6."""
    for parameter in linear.parameters():
        nn.init.normal_(parameter, std=0.1)


def score(process: Process) -> ScoreDenoiser:
    network = ScoreNetwork(_trunk(), process)
    _shaped(network.linear)
    return ScoreDenoiser(network, process, log=True, length=LENGTH)


def product(
    process: Process, leave_one_out: bool = False, time_conditioned: bool = True
) -> NetworkDenoiser:
    head = ProductHead(256, VOCAB)
    _shaped(head.linear)
    trunk = _trunk(time_conditioned)
    return NetworkDenoiser(trunk, head, process, LENGTH, leave_one_out=leave_one_out)


FAMILIES = {
    "SEDD absorbing": Family(lambda: score(Absorbing(VOCAB, LogLinear())), ("ancestral", "euler")),
    "SEDD uniform": Family(
        lambda: score(Uniform(VOCAB, Geometric())), ("ancestral", "euler"), loop=True
    ),
    "MDLM": Family(lambda: product(Absorbing(VOCAB, LogLinear()), time_conditioned=False)),
    "UDLM": Family(lambda: product(Uniform(VOCAB, LogLinear()), leave_one_out=True)),
    "Duo": Family(lambda: product(Uniform(VOCAB, Cosine()), leave_one_out=True)),
    "posteriors, uniform": Family(
        lambda: product(Uniform(VOCAB, LogLinear())), ("ancestral", "euler")
    ),
    "posteriors, absorbing": Family(lambda: product(Absorbing(VOCAB, LogLinear()))),
}


@torch.no_grad()
def formulas(
    denoiser: ScoreDenoiser, x: Tensor, times: Tensor, sampler: str, wide: torch.dtype
) -> Tensor:
    """SEDD's sampling under uniform noise (arXiv 2310.16834, Eqs. 17 and 19), with dense tensors.

    Args:
        denoiser: of log-scores.
        x: (B, L) int64 noise.
        times: (K + 1,) from 1 to 0.
        sampler: ``ancestral`` or ``euler``.
        wide: dtype of everything after the network.
    """
    level = denoiser.process.schedule.sigma_bar
    for t, s in pairwise(times):
        last = bool(s == 0)
        ratios = denoiser.network(x, t.expand(len(x))).to(wide).exp()
        ratios.scatter_(-1, x[..., None], 1.0)
        if sampler == "euler" and not last:
            step = (t - s) * denoiser.process.schedule.sigma(t) / VOCAB
            table = ratios.mul_(step.to(wide)).scatter_(-1, x[..., None], 0.0)
            stay = (1 - table.sum(-1, keepdim=True)).clamp(min=0)
            table.scatter_(-1, x[..., None], stay)
        else:
            # The time 0 has noise of its own; the last step is the whole way.
            gap = level(t) if last else level(t) - level(s)
            keep, forget = torch.exp(-gap).to(wide), -torch.expm1(-gap).to(wide)
            staggered = (ratios - forget / VOCAB * ratios.sum(-1, keepdim=True)) / keep
            column = torch.full_like(staggered, float(forget) / VOCAB)
            column.scatter_add_(-1, x[..., None], keep.expand(*x.shape, 1))
            table = (staggered * column).clamp_(min=0)
        noise = torch.rand_like(table).add_(1e-10).log_().neg_()
        x = (table / noise).argmax(-1)
    return x


def loop(denoiser: ScoreDenoiser, steps: int, sampler: str, wide: torch.dtype) -> None:
    """:func:`formulas` from noise."""
    x = denoiser.process.prior_sample((BATCH, LENGTH), torch.Generator().manual_seed(0))
    formulas(denoiser, x, times_for(None, steps, denoiser, LENGTH), sampler, wide)


@torch.no_grad()
def alone(denoiser: AnyDenoiser, x: Tensor) -> None:
    """One evaluation of the network, onto (B, L, V)."""
    if isinstance(denoiser, ScoreDenoiser):
        denoiser.network(x, torch.full((BATCH,), 0.5, dtype=torch.float64))
    else:
        denoiser.raw_logits(x, 0.7)


def seconds(what: Callable[[], object]) -> float:
    """Of the process's own time."""
    begin = time.process_time()
    what()
    return time.process_time() - begin


def turn(name: str, number: int) -> Rows:
    """One turn of a family: every sampler between two evaluations of its network."""
    family = FAMILIES[name]
    denoiser = family.make().eval()
    x = torch.randint(VOCAB - 1, (BATCH, LENGTH), generator=torch.Generator().manual_seed(number))
    does: list[tuple[str, str, int, Callable[[], object]]] = []
    for sampler in family.samplers:
        for steps in STEPS:

            def ours(sampler: str = sampler, steps: int = steps) -> object:
                return run(
                    denoiser, BATCH, steps, sampler, generator=number, batch_size=BATCH
                ).samples

            does.append((sampler, "fewjump", steps, ours))
        for steps in LOOP_STEPS if family.loop else ():
            for wide in (torch.float32, torch.float64):

                def theirs(
                    sampler: str = sampler, steps: int = steps, wide: torch.dtype = wide
                ) -> object:
                    assert isinstance(denoiser, ScoreDenoiser)
                    return loop(denoiser, steps, sampler, wide)

                does.append((sampler, f"formulas, {str(wide)[6:]}", steps, theirs))
    alone(denoiser, x)
    before = seconds(lambda: alone(denoiser, x))
    rows: Rows = []
    for sampler, how, steps, do in does:
        total = seconds(do)
        after = seconds(lambda: alone(denoiser, x))
        one = (before + after) / 2
        rows.append(
            {
                "family": name,
                "sampler": sampler,
                "how": how,
                "steps": steps,
                "turn": number,
                "seconds": total,
                "network_seconds": one * steps,
                "ratio": total / (one * steps),
            }
        )
        before = after
    return rows


@dataclass
class Config(Options):
    """What sampling costs beside the network alone."""

    turns: int = 3
    """Turns of every family."""

    families: tuple[str, ...] = tuple(FAMILIES)
    """Families."""


def summary(rows: Rows) -> Rows:
    """Median, least and most over the turns."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        key = (row["family"], row["sampler"], row["how"], row["steps"])
        groups.setdefault(key, []).append(row["ratio"])
    return [
        {
            **dict(zip(("family", "sampler", "how", "steps"), key)),
            "ratio": median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "turns": len(ratios),
            "target": TARGETS.get(key[0]) if key[2] == "fewjump" else None,
        }
        for key, ratios in groups.items()
    ]


def measure(config: Config) -> Content:
    """A row for each family, sampler, number of steps and turn."""
    folder = place(config.runs, "beside-network", BATCH, LENGTH, VOCAB, config.seed)
    rows: Rows = []
    for number in range(config.seed, config.seed + config.turns):
        for name in config.families:
            path = folder / f"{name.replace(' ', '-').replace(',', '')}-{number}.json"
            rows += kept(path, lambda name=name, number=number: turn(name, number))
    denoiser = FAMILIES["MDLM"].make()
    shape = {"batch": BATCH, "length": LENGTH, "vocab": VOCAB}
    shape["parameters"] = sum(p.numel() for p in denoiser.parameters())
    what = "the process's time in sampling over the same number of evaluations of the network alone"
    return {"what": what, "shape": shape, "summary": summary(rows), "rows": rows}


if __name__ == "__main__":
    main("beside_network", Config, measure)
