"""Load damaged and hostile checkpoints of every container, and count what comes of it.

Run: python benchmarks/fuzz_checkpoints.py --files 2160

Each file follows from its number alone. Files are loaded in worker processes of their own with
limits on memory and on processor time, and with a hook that sees what Python executes, opens or
connects to; a worker that dies is a finding, and the next one goes on with the following file.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

MEMORY = 6 << 30
SECONDS = 30
DEFECTS = ("wrong", "other error", "executed", "killed", "too slow")


class TooSlow(BaseException):
    """The limit on processor time was reached; not an Exception, which a loader might handle."""


def work(first: int, last: int, seed: int, report: Path) -> None:
    """Judge the files ``first`` to ``last`` and write a line for each."""
    import torch

    from checkpoint.hostile import MAKERS, clean_markers, make, write_sources
    from checkpoint.verdict import Judge, Watch

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


def run(first: int, last: int, seed: int, report: Path) -> list[dict[str, Any]]:
    """The files ``first`` to ``last``, in as many workers as it takes.

    Goes on where ``report`` ends.

    Raises:
        RuntimeError: if a worker ends before its first file.
    """
    done: dict[int, dict[str, Any]] = {}
    before = -1
    while True:
        started: dict[int, dict[str, Any]] = {}
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
        command = [sys.executable, "-W", "ignore", __file__, "--seed", str(seed)]
        command += ["--work", str(following), str(last), "--report", str(report)]
        result = subprocess.run(command, start_new_session=True, capture_output=True, text=True)
        if result.returncode:
            print(f"a worker ended with {result.returncode}: {result.stderr[-300:]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2160)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=int, nargs=2)
    parser.add_argument(
        "--report", type=Path, help="folder of the workers' notes; an interrupted run goes on"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "checkpoints")
    options = parser.parse_args()
    if options.work:
        work(*options.work, options.seed, options.report)
        return
    from fewjump.verify.results import machine_facts

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        notes = options.report or Path(folder)
        notes.mkdir(parents=True, exist_ok=True)
        edges = [options.files * i // options.workers for i in range(options.workers + 1)]
        with ThreadPoolExecutor() as pool:
            parts = [
                pool.submit(run, first, last, options.seed, notes / f"{first}.jsonl")
                for first, last in pairwise(edges)
            ]
            lines = [line for part in parts for line in part.result()]
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        counts.setdefault(line["kind"], Counter())[line["outcome"]] += 1
    result = {
        "experiment": "fuzz_checkpoints",
        "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": machine_facts(),
        "files": len(lines),
        "containers": dict(Counter(line["container"] for line in lines if "container" in line)),
        "outcomes": {kind: dict(sorted(count.items())) for kind, count in counts.items()},
        "defects": [line for line in lines if line["outcome"] in DEFECTS],
        "slowest_cpu_seconds": max(line["seconds"] for line in lines),
        "limits": {"memory_bytes": MEMORY, "cpu_seconds": SECONDS},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "fuzz.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    total = Counter(line["outcome"] for line in lines)
    print(f"{path}: {dict(total)}, slowest {result['slowest_cpu_seconds']} s")
    if result["defects"]:
        raise SystemExit(f"{len(result['defects'])} defects")


if __name__ == "__main__":
    main()
