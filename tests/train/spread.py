"""A training run of a small transformer, whole or split; started by torchrun's variables or not."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import fewjump
from fewjump.checkpoint import save
from fewjump.denoiser import Denoiser, NetworkDenoiser, deferred
from fewjump.denoiser.base import LogitDenoiser
from fewjump.objective import ConditionalMatching, CrossEntropyELBO, freeze
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, TrainResult, train
from fewjump.train.distributed import join_world

V, L, STEPS = 11, 6, 5


def make(seed: int = 0) -> NetworkDenoiser:
    """Two blocks; 11 tokens do not split evenly over two processes."""
    torch.manual_seed(seed)
    process = Absorbing(V, LogLinear())
    trunk = {"hidden": 8, "blocks": 2, "heads": 2, "condition_dim": 8}
    model = NetworkDenoiser.from_config({"process": process.config(), "trunk": trunk, "length": L})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def make_data() -> Tensor:
    start = torch.randint(V - 1, (64, 1), generator=torch.Generator().manual_seed(1))
    return (start + torch.arange(L)) % (V - 1)


def run(out: Path, student: Denoiser | None = None, **changes: Any) -> TrainResult:
    """Distil with the head's logits deferred."""
    deferred.DEFER_FROM = V
    options = {
        "steps": STEPS,
        "batch_size": 8,
        "lr": 1e-2,
        "warmup": 2,
        "ema": 0.9,
        "weight_decay": 0.1,
        "clip": 0.5,
        "log_every": 1,
        "save_every": 2,
        "device": "cpu",
        "progress": False,
        "monitor": False,
    }
    config = TrainConfig(**{**options, **changes})
    return train(
        make() if student is None else student,
        ConditionalMatching("forward"),
        make_data(),
        config,
        teacher=freeze(make(9)),
        out=out,
    )


def refine(out: Path, **changes: Any) -> Denoiser:
    return fewjump.refine(
        make(),
        freeze(make(9)),
        make_data(),
        steps=3,
        batch_size=4,
        draws=2,
        auxiliary_steps=1,
        guard_samples=4,
        band=(0.0, 100.0),
        out=out,
        device="cpu",
        progress=False,
        log_every=1,
        save_every=2,
        monitor=False,
        **changes,
    )


def plain_network(out: Path, **changes: Any) -> TrainResult:
    """A network without blocks."""
    sys.path.insert(0, str(Path(__file__).parent))
    from toy import make_data as toy_data
    from toy import make_student

    student = make_student(dropout=0.0)
    assert isinstance(student, LogitDenoiser)
    config = TrainConfig(
        steps=3, batch_size=8, device="cpu", progress=False, log_every=1, **changes
    )
    return train(student, CrossEntropyELBO(), toy_data(), config, out=out)


def main() -> None:
    """On two processes: everything that the tests look at."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1])
    # One process group for all runs: train() uses one that is there, and leaves it.
    with join_world("cpu"):
        _everything(out)
    # The threads of gloo outlive the group that DDP and FSDP keep; nothing is left to do.
    os._exit(0)


def _everything(out: Path) -> None:
    run(out / "ddp")
    full = {"sharding": "full"}
    result = run(out / "full", **full, checkpoint_blocks=True, accumulate=2)
    # A step that is watched, which asks both models on every process.
    run(out / "watched", **full, max_seconds=1e-6, monitor=True)
    # Begun, to be resumed by one process; and resumed, from one file and from parts.
    run(out / "begun", **full, max_seconds=1e-6)
    run(out / "from-file", **full)
    if dist.get_rank() == 0:
        shutil.copytree(out / "begun", out / "from-parts")
    dist.barrier()
    run(out / "from-parts", **full)
    refine(out / "refined", **full)
    plain_network(out / "plain", **full)
    if dist.get_rank() == 0:
        save(result.averaged(), out / "model")
        whole = all(
            p.numel() and type(p) is torch.nn.Parameter for p in result.student.parameters()
        )
        (out / "facts.json").write_text(json.dumps({"whole": whole}))


if __name__ == "__main__":
    main()
