"""One process against two (gloo, CPU): loss curves and final weights of the same training.

A masked product student of a vocabulary that is large enough for deferred logits is distilled by
one process, by two that share the networks (DDP), by two that split them (FSDP2), and by two that
split them and start from a state that one process saved after the first step.

Run: python -m benchmarks.two_ranks
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from experiments.harness import Content, Options, Rows, main
from fewjump.denoiser import NetworkDenoiser
from fewjump.objective import ConditionalMatching, freeze
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, read_metrics, train

VOCAB, LENGTH, STEPS, BATCH = 9000, 16, 20, 8
TRUNK = {"hidden": 32, "blocks": 2, "heads": 2, "condition_dim": 16}
WAYS: dict[str, dict[str, Any]] = {
    "DDP": {},
    "FSDP2": {"sharding": "full"},
    "FSDP2, accumulated, blocks checkpointed": {
        "sharding": "full",
        "accumulate": 2,
        "checkpoint_blocks": True,
    },
    "FSDP2, resumed from one process": {"sharding": "full"},
}
RESUMED = "FSDP2, resumed from one process"


def make(seed: int) -> NetworkDenoiser:
    torch.manual_seed(seed)
    process = Absorbing(VOCAB, LogLinear())
    config = {"process": process.config(), "trunk": TRUNK, "length": LENGTH}
    model = NetworkDenoiser.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def distil(out: Path, **changes: Any) -> torch.Tensor:
    """Train in this process (or in all of a launch); the final weights, flat."""
    config = TrainConfig(
        steps=STEPS,
        batch_size=BATCH,
        lr=3e-3,
        warmup=5,
        log_every=1,
        device="cpu",
        progress=False,
        monitor=False,
        **changes,
    )
    data = torch.randint(VOCAB - 1, (64, LENGTH), generator=torch.Generator().manual_seed(1))
    objective = ConditionalMatching("forward")
    result = train(make(0), objective, data, config, teacher=freeze(make(9)), out=out)
    return torch.cat([p.detach().reshape(-1) for p in result.student.parameters()])


def worker(rank: int, folder: Path, threads: int) -> None:
    """What each of two processes does."""
    torch.set_num_threads(threads)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for name, changes in WAYS.items():
        weights = distil(folder / name, **changes)
        if rank == 0:
            torch.save(weights, folder / name / "weights.pt")
    dist.destroy_process_group()


def curve(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder) if "loss" in line]


def measure(config: Options) -> Content:
    """Every way of two processes beside one."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights, one = distil(folder / "one"), curve(folder / "one")
        distil(folder / RESUMED, max_seconds=1e-6)
        spawn(worker, (folder, config.threads), nprocs=2)
        for name in WAYS:
            two = curve(folder / name)
            assert len(two) == len(one) == STEPS
            other = torch.load(folder / name / "weights.pt", weights_only=True)
            rows.append(
                {
                    "way": name,
                    "largest_loss_difference": max(abs(a - b) for a, b in zip(one, two)),
                    "largest_weight_difference": float((weights - other).abs().max()),
                    "curve": two,
                }
            )
    return {
        "vocab": VOCAB,
        "length": LENGTH,
        "steps": STEPS,
        "batch_size": BATCH,
        "trunk": TRUNK,
        "one_process_curve": one,
        "rows": rows,
    }


if __name__ == "__main__":
    main("scale/two_ranks", Options, measure, __doc__)
