"""``fewjump demo``: the whole method on a small problem, ending in a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass
class Options:
    """Run the whole method on a small problem and write a report page.

    digits: train a teacher on scikit-learn's 8×8 handwritten digits, distil it, sample both with
    few and with many evaluations, and judge the images.

    text: the same on character text.

    markov: a chain whose exact posterior is known, so that nothing is trained and the truth is
    exact.
    """

    kind: Annotated[Literal["digits", "text", "markov"], tyro.conf.Positional] = "digits"
    """Which problem."""

    out: Path | None = None
    """Folder for results.json, samples, models and report.html. Default: demo-KIND."""

    data: Path | None = None
    """Text file to learn from (text only). Default: the documentation that Python ships."""

    seed: int = 0
    """Seed of every random draw."""

    quick: bool = False
    """A smaller version that only shows that everything works."""

    threads: int | None = None
    """CPU threads. Default: all cores."""


def run(options: Options) -> int:
    if options.data is not None and options.kind != "text":
        raise ValueError("--data belongs to `fewjump demo text`")
    if options.data is not None and not options.data.is_file():
        raise FileNotFoundError(f"no such text file: {options.data}")

    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    out = options.out or Path(f"demo-{options.kind}")
    if options.kind == "digits":
        from fewjump.demo.digits import run_demo

        report = run_demo(out, seed=options.seed, quick=options.quick)
    elif options.kind == "text":
        from fewjump.demo.text import run_demo

        report = run_demo(out, data=options.data, seed=options.seed, quick=options.quick)
    else:
        from fewjump.demo.markov import run_demo

        report = run_demo(out, seed=options.seed, quick=options.quick)
    print(f"report: {report}")
    return 0
