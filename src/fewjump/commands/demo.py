"""``fewjump demo``: the whole method on a small problem, ending in a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fewjump.files import check_file_writable, write_text
from fewjump.lock import sole_writer

_MOST_THREADS = 1024


@dataclass
class Options:
    """Run the whole method on a small problem and write a report page.

    digits: train a teacher on scikit-learn's 8×8 handwritten digits, distil it, sample both with
    few and with many evaluations, and judge the images.

    text: the same on character text.

    markov: a chain whose exact posterior is known, so that nothing is trained and the truth is
    exact.

    Attributes:
        kind: which problem.
        out: folder for results.json, samples, models and report.html. Default: demo-KIND.
        data: text file to learn from (text only). Default: the documentation that Python ships.
        seed: seed of every random draw.
        quick: a smaller version that only shows that everything works.
        threads: CPU threads. Default: all cores.
    """

    kind: Annotated[Literal["digits", "text", "markov"], tyro.conf.Positional] = "digits"
    out: Path | None = None
    data: Path | None = None
    seed: int = 0
    quick: bool = False
    threads: int | None = None


def run(options: Options) -> int:
    if options.data is not None and options.kind != "text":
        raise ValueError("--data belongs to `fewjump demo text`")
    if options.data is not None and not options.data.is_file():
        raise FileNotFoundError(f"no such text file: {options.data}")

    if options.threads is not None and not 1 <= options.threads <= _MOST_THREADS:
        raise ValueError(
            f"--threads must be at least 1 and at most {_MOST_THREADS}, got {options.threads}"
        )

    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    out = options.out or Path(f"demo-{options.kind}")
    with sole_writer(out), _same_options(options, out):
        check_file_writable(out / "report.html")
        made: dict[str, Any] = {"seed": options.seed, "quick": options.quick}
        if options.kind == "text":
            made["data"] = options.data
        report = import_module(f"fewjump.demo.{options.kind}").run_demo(out, **made)
    print(f"report: {report}")
    return 0


@contextmanager
def _same_options(options: Options, out: Path) -> Iterator[None]:
    """Write down what a demo is made from; its models are taken up when it is started again.

    Raises:
        ValueError: if the folder holds a demo of other options.
    """
    from fewjump.config import differences

    path = out / "demo.json"
    now = {"kind": options.kind, "seed": options.seed, "quick": options.quick}
    now["data"] = None if options.data is None else str(options.data.resolve())
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else now
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged; remove {out}, or give another --out")
    if found != now:
        lines = ", ".join(differences(found, now))
        raise ValueError(
            f"{out} holds a demo of other options ({lines}); give another --out, or remove it"
        )
    write_text(path, json.dumps(now, indent=1, ensure_ascii=False) + "\n")
    try:
        yield
    except BaseException:
        # No model was begun.
        if not any(one.is_dir() for one in out.iterdir()):
            path.unlink()
        raise
