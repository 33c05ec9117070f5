"""What every experiment shares: a command line from its options, a cache, and one JSON file.

An experiment is a dataclass of options (a subclass of :class:`Options`), a function ``measure``
from them to plain data whose ``rows`` are tidy, and a line at the end that calls :func:`main`. It
is run from the root of a checkout, ``python -m experiments.NAME``, and may be stopped at any time:
what is finished is kept in ``--runs`` and not made again.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro

from fewjump.evaluate.bootstrap import Interval
from fewjump.files import write_text
from fewjump.results import machine_facts

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
#: Behind the name of a student whose positions are revealed from left to right.
LEFT = ", from the left"

Content = dict[str, Any]
Rows = list[dict[str, Any]]


@dataclass
class Options:
    """Options of every experiment; each adds its own.

    Attributes:
        out: folder of the result.
        runs: folder of the models and rows that are made once.
        threads: threads of torch.
        seed: seed, or the first of several.
    """

    out: Path = RESULTS
    runs: Path = Path("runs")
    threads: int = 1
    seed: int = 0


AnyOptions = TypeVar("AnyOptions", bound=Options)


def main(
    name: str,
    options: type[AnyOptions],
    measure: Callable[[AnyOptions], Content],
    description: str | None = None,
) -> Path:
    """Read the command line, measure, and write what was found with the run's facts.

    Args:
        name: of the result under ``--out``; braces are filled from the options.
        options: the experiment's own.
        measure: from options to plain data.
        description: for ``--help``; the text of ``options`` by default.
    """
    chosen = tyro.cli(options, description=description)
    torch.set_num_threads(chosen.threads)
    begin = time.perf_counter()
    found = measure(chosen)
    stem = name.format(**vars(chosen)).replace("-", "_")
    seconds = round(time.perf_counter() - begin, 1)
    facts = {"experiment": stem, "seed": chosen.seed, "seconds": seconds}
    path = chosen.out / f"{stem}.json"
    write(path, {**facts, "machine": machine_facts(), **found})
    print(f"{path}: {seconds:.0f} s")
    return path


def write(path: Path, content: Any) -> None:
    """JSON, in one move."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def digest(*parts: Any) -> str:
    """Eight hexadecimal digits that change with anything in ``parts`` (plain data)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def place(runs: Path, label: str, *settings: Any) -> Path:
    """The folder of a model or of rows.

    Its name holds a digest of all that its content depends on: other settings never meet the files
    of an earlier run.
    """
    words = "-".join(label.replace(",", "").replace("=", "").split())
    return runs / f"{words}-{digest(*settings)}"


def kept(path: Path, compute: Callable[[], Any]) -> Any:
    """Plain data from a JSON file, computed and written if it is not there."""
    if not path.is_file():
        write(path, compute())
    return json.loads(path.read_text(encoding="utf-8"))


def with_ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    """``name``, ``name_low`` and ``name_high``; None where there is no interval."""
    if interval is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def ask_judge(python: Path, arguments: Sequence[str], given: str, needs: str) -> str:
    """What another environment's interpreter prints, given a text.

    Args:
        python: the interpreter.
        arguments: its own.
        given: read by it.
        needs: what its environment must hold, for the error.

    Raises:
        RuntimeError: with what the interpreter said, where it failed.
    """
    try:
        done = subprocess.run([python, *arguments], input=given, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"--judge {python} cannot be run: {error}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"the judge failed: {said}; it needs {needs}")
    return done.stdout


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a new process: its memory is its own, its threads as many."""
    threads = (torch.get_num_threads(),)
    new = get_context("spawn")
    with ProcessPoolExecutor(1, new, torch.set_num_threads, threads) as pool:
        return pool.submit(function, *arguments).result()
