"""Load damaged and hostile checkpoints of every container, and count what comes of it.

Run: python -m benchmarks.fuzz_checkpoints

Each file follows from its number alone. Files are loaded in worker processes of their own with
limits on memory and on processor time, and with a hook that sees what Python executes, opens or
connects to; a worker that dies is a finding, and the next one goes on with the following file.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import torch

from experiments.harness import ROOT, Content, Options, Rows, main

MEMORY = 6 << 30
SECONDS = 30
DEFECTS = ("wrong", "other error", "executed", "killed", "too slow")


class TooSlow(BaseException):
    """The limit on processor time was reached; not an Exception, which a loader might handle."""


def work(first: int, last: int, seed: int, report: Path) -> None:
    """Judge the files ``first`` to ``last`` and write a line for each."""
    sys.path.insert(0, str(ROOT / "tests"))
    from checkpoint.hostile import MAKERS, clean_markers, make, write_sources
    from checkpoint.verdict import Judge, Watch

    os.setsid()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    kinds = list(MAKERS)
    clean_markers()

    def too_slow(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, too_slow)
    with tempfile.TemporaryDirectory() as folder, report.open("a") as lines:
        sources = write_sources(Path(folder) / "whole")
        judge = Judge(sources, Watch())
        for number in range(first, last):
            kind = kinds[number % len(kinds)]
            place = Path(folder) / str(number)
            place.mkdir()
            print(json.dumps({"number": number, "kind": kind}), file=lines, flush=True)
            path = make(kind, seed * 1_000_000 + number, sources, place)
            started = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                outcome, said = judge.judge(path)
            except TooSlow:
                outcome, said = "too slow", f"{SECONDS} s"
            signal.setitimer(signal.ITIMER_PROF, 0)
            line = {
                "number": number,
                "kind": kind,
                "container": judge.names.get(path.name, path.name),
                "outcome": outcome,
                "said": said[:300],
                "seconds": round(time.process_time() - started, 3),
            }
            print(json.dumps(line), file=lines, flush=True)
            shutil.rmtree(place, ignore_errors=True)


def judged(first: int, last: int, seed: int, report: Path) -> Rows:
    """The files ``first`` to ``last``, in as many workers as it takes.

    Goes on where ``report`` ends.

    Raises:
        RuntimeError: if a worker ends before its first file.
    """
    done: dict[int, Content] = {}
    before = -1
    while True:
        started: dict[int, Content] = {}
        for text in report.read_text().splitlines() if report.exists() else []:
            line = json.loads(text)
            (done if "outcome" in line else started)[line["number"]] = line
        for number in set(started) - set(done):
            # Its worker did not come back from it.
            done[number] = {**started[number], "outcome": "killed", "said": "", "seconds": 0.0}
        following = max(done, default=first - 1) + 1
        if following == before:
            raise RuntimeError("a worker ended before its first file; see its message above")
        before = following
        if following >= last:
            return [done[number] for number in sorted(done)]
        worker = get_context("spawn").Process(target=work, args=(following, last, seed, report))
        worker.start()
        worker.join()
        if worker.exitcode:
            print(f"a worker ended with {worker.exitcode}", flush=True)


@dataclass
class Config(Options):
    """Load damaged and hostile checkpoints, and count what comes of it."""

    files: int = 2160
    """How many."""

    workers: int = 2
    """Processes at a time."""

    report: Path | None = None
    """Folder of the workers' notes; an interrupted run goes on."""


def measure(config: Config) -> Content:
    """What came of every file, by kind of damage."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        notes = config.report or Path(folder)
        notes.mkdir(parents=True, exist_ok=True)
        edges = [config.files * i // config.workers for i in range(config.workers + 1)]
        parts = [
            pool.submit(judged, first, last, config.seed, notes / f"{first}.jsonl")
            for first, last in pairwise(edges)
        ]
        lines = [line for part in parts for line in part.result()]
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        counts.setdefault(line["kind"], Counter())[line["outcome"]] += 1
    print(dict(Counter(line["outcome"] for line in lines)))
    return {
        "files": len(lines),
        "containers": dict(Counter(line["container"] for line in lines if "container" in line)),
        "outcomes": {kind: dict(sorted(count.items())) for kind, count in counts.items()},
        "defects": [line for line in lines if line["outcome"] in DEFECTS],
        "slowest_cpu_seconds": max(line["seconds"] for line in lines),
        "limits": {"memory_bytes": MEMORY, "cpu_seconds": SECONDS},
    }


if __name__ == "__main__":
    main("checkpoints/fuzz", Config, measure)
