"""Half of one picture given the other half: what an evaluation of each student takes, drawn alone.

Networks of the sizes of :mod:`experiments.digits_infilling`, with weights as they begin: what is
timed does not depend on them. The teacher with 64 steps and every student with one take turns, so
that whatever else the machine does slows all of them, and a ratio is taken within each turn. Other
work slows a walk of many small calls more than a network: let the machine do nothing else.

Run: python -m benchmarks.filling_alone
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from experiments.digits_infilling import HEADS
from experiments.harness import Content, Options, main
from fewjump.data import load_data
from fewjump.demo.digits import Sizes
from fewjump.demo.parts import JOINT, TEACHER
from fewjump.denoiser.base import Denoiser
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.process import Absorbing
from fewjump.sampler import run as draw
from fewjump.schedule import LogLinear

STEPS = 64


@dataclass
class Config(Options):
    """One picture at a time.

    Attributes:
        turns: of every model, after one that is not counted.
    """

    turns: int = 15


def models(seed: int) -> dict[str, Denoiser]:
    """The teacher, and a student of every head."""
    data, sizes = load_data("digits"), Sizes()
    kinds = {TEACHER: {"kind": "product"}}
    kinds |= {kind: {"kind": kind, **options} for kind, options in HEADS.items()}
    kinds[JOINT] = {"kind": sizes.joint, **sizes.head(data.length)}
    described = {
        "process": Absorbing(data.vocab_size + 1, LogLinear()).config(),
        "trunk": sizes.network(),
        "length": data.length,
    }
    made = {}
    for name, head in kinds.items():
        torch.manual_seed(seed)
        made[name] = NetworkDenoiser.from_config({**described, "head": head}).eval()
    return made


def measure(config: Config) -> Content:
    """Seconds of the median turn, and the median, least and most ratio within turns."""
    x0, made = load_data("digits").all("test", 1), models(config.seed)
    shown = torch.arange(x0.shape[1])[None] < x0.shape[1] // 2
    found: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(config.turns + 1):
        for name, model in made.items():
            steps = STEPS if name == TEACHER else 1
            begin = time.perf_counter()
            draw(model, 1, steps, generator=turn, prompt=x0, fixed=shown)
            found[name].append(time.perf_counter() - begin)
    rows = []
    for name, seconds in found.items():
        ratios = [slow / own for slow, own in zip(found[TEACHER][1:], seconds[1:], strict=True)]
        row = {"student": name, "seconds": median(seconds[1:]), "ratio": median(ratios)}
        rows.append({**row, "ratio_least": min(ratios), "ratio_most": max(ratios)})
    return {"steps_of_the_teacher": STEPS, "turns": config.turns, "rows": rows}


if __name__ == "__main__":
    main("filling_alone", Config, measure)
