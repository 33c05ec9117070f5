"""One process against two (gloo, CPU): loss curves and final weights of the same training.

A masked product student of a vocabulary that is large enough for deferred logits is distilled by
one process, by two that share the networks (DDP), by two that split them (FSDP2), and by two that
split them and start from a state that one process saved after the first step.

Usage: python benchmarks/two_ranks.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fewjump.denoiser import NetworkDenoiser
from fewjump.objective import ConditionalMatching, freeze
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, read_metrics, train
from fewjump.verify.results import machine_facts

RESULT = Path(__file__).parent / "results" / "scale" / "two_ranks.json"
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


def worker(folder: Path) -> None:
    """What each of two processes does."""
    dist.init_process_group("gloo")
    for name, changes in WAYS.items():
        weights = distil(folder / name, **changes)
        if dist.get_rank() == 0:
            torch.save(weights, folder / name / "weights.pt")
    dist.destroy_process_group()


def launch(folder: Path) -> None:
    """Two processes, as torchrun would start them."""
    while True:
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", str(folder)],
            env={**os.environ, **address, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    if any(process.wait() for process in processes):
        raise RuntimeError("a process failed; see above")


def curve(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder) if "loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=Path, help="be one of the two, with this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        worker(options.worker)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights, one = distil(folder / "one"), curve(folder / "one")
        distil(folder / RESUMED, max_seconds=1e-6)
        launch(folder)
        rows = []
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
            print(name, rows[-1]["largest_loss_difference"], rows[-1]["largest_weight_difference"])
    payload = {
        "experiment": "two_ranks",
        "seed": 0,
        "machine": machine_facts(),
        "vocab": VOCAB,
        "length": LENGTH,
        "steps": STEPS,
        "batch_size": BATCH,
        "trunk": TRUNK,
        "one_process_curve": one,
        "rows": rows,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(payload, indent=1) + "\n")


if __name__ == "__main__":
    main()
