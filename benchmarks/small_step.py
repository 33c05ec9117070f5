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

Run: python -m benchmarks.small_step
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from benchmarks.loss_memory import resident
from experiments.harness import Content, Options, in_own_process, kept, main, place
from fewjump.denoiser import NetworkDenoiser, ScoreDenoiser, constrain
from fewjump.objective import ConditionalMatching, freeze
from fewjump.process import Absorbing, Process, Uniform
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, train

WAYS = ("deferred", "checkpointed", "logits", "score", "score-logits", "score-uniform")
VOCAB, LENGTH = 50_258, 1024
TRUNK = {"hidden": 768, "blocks": 12, "heads": 12, "condition_dim": 128, "conv_kernel": 0}
STEPS = 2


def train_in(way: str) -> dict[str, Any]:
    """Train in this process and say what it took."""
    if way.endswith("logits"):
        constrain.DEFER_FROM = VOCAB + 1
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


def measure(config: Options) -> Content:
    """Every way in a process of its own."""
    about = {"vocab": VOCAB, "length": LENGTH, "batch_size": 1, "trunk": TRUNK}
    folder = place(config.runs, "small-step", about, config.threads)
    rows = [
        kept(folder / f"{way}.json", lambda way=way: in_own_process(train_in, way)) for way in WAYS
    ]
    return {**about, "rows": rows}


if __name__ == "__main__":
    main("scale/small_step", Options, measure, __doc__)
