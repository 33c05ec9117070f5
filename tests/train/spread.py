"""A training run of a small transformer, whole or split; started by torchrun's variables or not."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import sys
import warnings
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import fewjump
from fewjump.checkpoint import save
from fewjump.denoiser import Denoiser, NetworkDenoiser, ScoreDenoiser, constrain
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.objective import ConditionalMatching, CrossEntropyELBO, freeze
from fewjump.process import Absorbing
from fewjump.schedule import LogLinear
from fewjump.train import TrainConfig, TrainResult, train
from fewjump.train.distributed import join_world

V, L, STEPS, FEW = 11, 6, 5, 3


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
    constrain.DEFER_FROM = V
    options = {
        "steps": STEPS,
        "batch_size": 8,
        "lr": 1e-2,
        "warmup": 2,
        "ema": 0.9,
        "weight_decay": 0.1,
        "clip": 0.5,
        "log_every": 1,
        "save_every": STEPS,
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
        save_every=3,
        monitor=False,
        **changes,
    )


def scores(out: Path, **changes: Any) -> Denoiser:
    """A concrete-score network distilled into another; their logits are deferred too."""
    constrain.DEFER_FROM = V
    torch.manual_seed(9)
    trunk = {"hidden": 8, "blocks": 2, "heads": 2, "condition_dim": 8}
    process = Absorbing(V, LogLinear()).config()
    teacher = ScoreDenoiser.from_config({"process": process, "trunk": trunk, "length": L})
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return fewjump.distill(teacher, make_data(), out=out, **_few(), **changes)


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


LOW_RANK = {"low-rank": ("product", None), "low-rank-chain": ("chain", {"states": 3})}
# BERT has a list of layers; ALBERT's is one layer that runs twice, and its embeddings are narrow.
LANGUAGE_MODELS = {"bert": {}, "bert-low-rank": {"lora": 2}, "albert": {}}


def low_rank(out: Path, name: str, **changes: Any) -> bool:
    """A student that shares its teacher's frozen weights; whether the teacher has them back.

    In float64: a chain that begins as its teacher has gradients that are exactly 0, of which
    float32 leaves 1e-9, and AdamW makes steps of that.
    """
    student, head = LOW_RANK[name]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        teacher = make(9)
        fewjump.distill(
            teacher, make_data(), student=student, head=head, lora=2, out=out, **_few(), **changes
        )
        pairs = zip(teacher.parameters(), make(9).parameters(), strict=True)
        return all(torch.equal(mine, first) for mine, first in pairs)
    finally:
        torch.set_default_dtype(default)


def language_model(out: Path, name: str, **changes: Any) -> Denoiser:
    """A student of a masked language model of transformers, whose output layer is its embedding."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "denoiser"))
    import tiny_hub

    from fewjump.denoiser import from_masked_lm

    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_hub.masked_lm(name.partition("-")[0], **still)
    teacher = from_masked_lm(model, tiny_hub.tokenizer(), length=L)
    words = torch.randint(5, 17, (64, L), generator=torch.Generator().manual_seed(2))
    return fewjump.distill(teacher, words, out=out, **_few(), **LANGUAGE_MODELS[name], **changes)


def _few() -> dict[str, Any]:
    return {
        "steps": FEW,
        "batch_size": 8,
        "lr": 1e-2,
        "warmup": 1,
        "log_every": 1,
        "device": "cpu",
        "progress": False,
        "monitor": False,
    }


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in modules)


def main() -> None:
    """On two processes: everything that the tests look at."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _import()
    ranks = [get_context("fork").Process(target=_rank, args=(rank,)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in ranks))


def _import() -> None:
    """What both processes would import, which takes each as long as the training does."""
    for name in (
        "torch.distributed.checkpoint.state_dict",
        "torch.distributed.fsdp",
        "fewjump.train.sharded_state",
        "fewjump.train.sharding",
    ):
        importlib.import_module(name)
    if installed("peft", "transformers"):
        importlib.import_module("peft")
        for name in ("bert", "albert"):
            importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def _rank(rank: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    # One process group for all runs: train() uses one that is there, and leaves it.
    with join_world("cpu"):
        _everything(Path(sys.argv[1]))
    # The threads of gloo outlive the group that DDP and FSDP keep; nothing is left to do.
    os._exit(0)


def _everything(out: Path) -> None:
    run(out / "ddp")
    full = {"sharding": "full"}
    # Saved more than once: each state takes the place of the one before.
    result = run(out / "full", **full, checkpoint_blocks=True, accumulate=2, save_every=2)
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
    scores(out / "scores", **full)
    plain_network(out / "plain", **full)
    kept = True
    if installed("peft"):
        for name in LOW_RANK:
            kept = low_rank(out / name, name, **full) and kept
    if installed("peft", "transformers"):
        for name in LANGUAGE_MODELS:
            language_model(out / name, name, **full)
    if dist.get_rank() == 0:
        save(result.averaged(), out / "model")
        whole = all(
            p.numel() and type(p) is torch.nn.Parameter for p in result.student.parameters()
        )
        (out / "facts.json").write_text(json.dumps({"whole": whole, "kept": kept}))


if __name__ == "__main__":
    main()
