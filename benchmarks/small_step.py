"""Memory of distilling the originals' 'small' shape on a CPU: 12 blocks of 768, 50,258 tokens.

Two whole training steps (teacher, student, loss, backward, AdamW, moving average) at batch 1 and
1,024 positions, with random weights; the second finds the optimiser's moments in place. Each way
has a process of its own; the peak is that process's highest resident size, Python and torch
included. Linux only.

    deferred        as the library does it: the heads' logits in chunks
    checkpointed    and each block computed again in the backward pass (checkpoint_blocks)
    logits          the heads' logits written down
    score           teacher and student are concrete-score networks under a mask (SEDD absorb)
    score-logits    the same with their scores written down, and recovery in parts
    score-uniform   such a teacher under uniform noise, whose recovery needs every score; its
                    student gives posteriors

Usage: python benchmarks/small_step.py [--threads 1] [--way deferred ...]
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from loss_memory import resident

from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser, deferred
from fewjump.objective import ConditionalMatching, freeze
from fewjump.process import Absorbing, Process, Uniform
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train
from fewjump.verify.results import machine_facts

RESULT = Path(__file__).parent / "results" / "scale" / "small_step.json"
WAYS = ("deferred", "checkpointed", "logits", "score", "score-logits", "score-uniform")
VOCAB, LENGTH = 50_258, 1024
TRUNK = {"hidden": 768, "blocks": 12, "heads": 12, "condition_dim": 128, "conv_kernel": 0}
STEPS = 2


def measure(way: str) -> dict[str, Any]:
    """Train in this process and say what it took."""
    if way.endswith("logits"):
        deferred.DEFER_FROM = VOCAB + 1
    torch.manual_seed(0)
    process: Process = Absorbing(VOCAB, LogLinear())
    if way == "score-uniform":
        process = Uniform(VOCAB, LogLinear())
    config = {"process": process.config(), "trunk": TRUNK, "length": LENGTH}
    made = ScoreDenoiser if way.startswith("score") else NetworkDenoiser
    student = made.from_config(config)
    student.process = process
    for name, parameter in student.named_parameters():
        if name in ("head.linear.weight", "network.linear.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    teacher = freeze(copy.deepcopy(student))
    if isinstance(teacher, ScoreDenoiser):
        student = teacher.as_student()
    data = torch.randint(VOCAB - 1, (4, LENGTH))
    options = TrainConfig(
        steps=STEPS,
        batch_size=1,
        warmup=0,
        device="cpu",
        progress=False,
        monitor=False,
        checkpoint_blocks=way == "checkpointed",
    )
    before, started, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    result = train(student, ConditionalMatching("forward"), data, options, teacher=teacher)
    return {
        "way": way,
        "parameters": sum(p.numel() for p in student.parameters()),
        "steps": result.step,
        "loss": result.metrics["loss"],
        "masked_share": result.metrics["loss_positions"],
        "before_bytes": before,
        "peak_bytes": resident("VmHWM"),
        "seconds_per_step": round((time.perf_counter() - started) / STEPS, 1),
        "cpu_seconds_per_step": round((time.process_time() - cpu) / STEPS, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--one", choices=WAYS, help="one way in this process, to stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    # Rows of ways that are not measured now stay as they are.
    rows = []
    if RESULT.is_file():
        kept = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
        rows = [row for row in kept if row["way"] not in options.way]
    for way in options.way:
        command = [sys.executable, __file__, "--one", way, "--threads", str(options.threads)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(found))
        print(rows[-1], flush=True)
        write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    payload = {
        "experiment": "small_step",
        "seed": 0,
        "machine": machine_facts(),
        "vocab": VOCAB,
        "length": LENGTH,
        "batch_size": 1,
        "trunk": TRUNK,
        "rows": sorted(rows, key=lambda row: WAYS.index(row["way"])),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(payload, indent=1) + "\n")


if __name__ == "__main__":
    main()
