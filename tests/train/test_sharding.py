"""Two processes that share weights (DDP) or split them (FSDP2) train as one does."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from spread import (
    FEW,
    LANGUAGE_MODELS,
    LOW_RANK,
    STEPS,
    L,
    installed,
    language_model,
    low_rank,
    make,
    plain_network,
    refine,
    run,
    scores,
)
from test_loop import config, free_port, weights
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from toy import make_data, make_student

import fewjump
from fewjump.objective import CrossEntropyELBO
from fewjump.train import ResumeError, read_metrics, train
from fewjump.train.sharded_state import POINTER_FILE, load_shards
from fewjump.train.state import STATE_FILE
from forked import finish, start

SPREAD = Path(__file__).with_name("spread.py")


@pytest.fixture(autouse=True)
def _restore_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewjump.denoiser import constrain

    monkeypatch.setattr(constrain, "DEFER_FROM", constrain.DEFER_FROM)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process in ``one/``, of two in ``two/``, the latter partly resumed."""
    folder = tmp_path_factory.mktemp("spread")
    one, two = folder / "one", folder / "two"
    run(one / "whole")
    refine(one / "refined")
    scores(one / "scores")
    plain_network(one / "plain")
    if installed("peft"):
        for name in LOW_RANK:
            low_rank(one / name, name)
    if installed("peft", "transformers"):
        for name in LANGUAGE_MODELS:
            language_model(one / name, name)
    run(two / "from-file", max_seconds=1e-6)
    _launch(two)
    return folder


def _launch(out: Path) -> None:
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    errors = out.with_name("errors")
    finish(start(SPREAD, str(out), errors=errors, **world), errors, 600)


def curve(folder: Path) -> list[tuple[int, float, float]]:
    lines = [line for line in read_metrics(folder) if "loss" in line]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def same_curve(one: Path, two: Path, steps: int = STEPS) -> None:
    first, second = curve(one), curve(two)
    assert [row[0] for row in first] == [row[0] for row in second] == list(range(1, steps + 1))
    for a, b in zip(first, second):
        assert a[1:] == pytest.approx(b[1:], abs=1e-5)
    assert first[0][1] != pytest.approx(first[-1][1], abs=1e-3), "a curve that does not move"


@pytest.mark.parametrize("name", ["ddp", "full", "from-file", "from-parts"])
def test_two_processes_have_the_loss_curve_of_one(runs: Path, name: str) -> None:
    same_curve(runs / "one" / "whole", runs / "two" / name)


def test_other_networks_and_refinement_can_be_split(runs: Path) -> None:
    same_curve(runs / "one" / "plain", runs / "two" / "plain", 3)
    first, second = curve(runs / "one" / "refined"), curve(runs / "two" / "refined")
    assert len(first) == 3
    for a, b in zip(first, second):
        assert a == pytest.approx(b, abs=1e-5)
    one = fewjump.load(runs / "one" / "refined" / "model")
    two = fewjump.load(runs / "two" / "refined" / "model")
    torch.testing.assert_close(weights(one), weights(two), atol=1e-5, rtol=0)


def same_law(runs: Path, name: str) -> None:
    """Not the same weights: a key's bias has no gradient, and AdamW makes steps of its rounding."""
    one, two = (fewjump.load(runs / side / name / "model") for side in ("one", "two"))
    x_t = torch.full((1, L), one.process.mask)  # type: ignore[arg-type]
    x_t[0, ::2] = 7
    with torch.no_grad():
        first, second = (model(x_t, 0.5).marginals() for model in (one, two))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_score_networks_can_be_split(runs: Path) -> None:
    same_curve(runs / "one" / "scores", runs / "two" / "scores", FEW)
    same_law(runs, "scores")


@pytest.mark.parametrize("name", list(LOW_RANK))
def test_low_rank_students_can_be_split(runs: Path, name: str) -> None:
    pytest.importorskip("peft")
    same_curve(runs / "one" / name, runs / "two" / name, FEW)
    same_law(runs, name)
    # The teacher, whose weights the student shared, has them back as they were.
    assert json.loads((runs / "two" / "facts.json").read_text())["kept"]


@pytest.mark.parametrize("name", list(LANGUAGE_MODELS))
def test_language_models_can_be_split(runs: Path, name: str) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    same_curve(runs / "one" / name, runs / "two" / name, FEW)
    same_law(runs, name)


def test_a_tied_network_without_layers_is_refused() -> None:
    from fewjump.train.sharding import shard

    model = make()
    model.trunk.blocks = torch.nn.ModuleList()  # type: ignore[assignment]
    model.head.linear.weight = model.trunk.embedding.weight  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"in common with its head .* sharding='none'"):
        shard(model, None)  # type: ignore[arg-type]


def test_split_models_can_be_watched(runs: Path) -> None:
    (line, _) = read_metrics(runs / "two" / "watched")
    assert line["step"] == 1
    assert "calibration" in line


def test_the_average_of_a_split_run_is_one_safetensors_file(runs: Path) -> None:
    model = fewjump.load(runs / "two" / "model")
    state = torch.load(runs / "one" / "whole" / STATE_FILE, weights_only=True)
    whole = make()
    whole.load_state_dict(state["ema"]["shadow"])
    torch.testing.assert_close(weights(model), weights(whole), atol=1e-5, rtol=0)
    # The caller's own student is an ordinary module again.
    assert json.loads((runs / "two" / "facts.json").read_text())["whole"]


def test_weights_moments_and_average_of_two_processes_equal_those_of_one(runs: Path) -> None:
    state = torch.load(runs / "one" / "whole" / STATE_FILE, weights_only=True)
    names = [name for name, _ in make().named_parameters()]
    tensors = {
        "student": {k: torch.zeros_like(v) for k, v in state["student"].items()},
        "ema": {k: torch.zeros_like(v) for k, v in state["ema"]["shadow"].items()},
        "optimiser": {n: {"exp_avg": torch.zeros_like(state["student"][n])} for n in names},
    }
    load_shards(runs / "two" / "full", tensors)
    for key, value in state["student"].items():
        torch.testing.assert_close(tensors["student"][key], value, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            tensors["ema"][key], state["ema"]["shadow"][key], atol=1e-5, rtol=0
        )
    groups = state["optimiser"]["param_groups"]
    student = dict(make().named_parameters())
    ordered = [n for n in names if student[n].dim() >= 2] + [
        n for n in names if student[n].dim() < 2
    ]
    assert sum(len(g["params"]) for g in groups) == len(ordered)
    for index, name in enumerate(ordered):
        moment = state["optimiser"]["state"][index]["exp_avg"]
        torch.testing.assert_close(tensors["optimiser"][name]["exp_avg"], moment, atol=1e-5, rtol=0)


def test_one_process_goes_on_where_two_began(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "two" / "begun", tmp_path / "run")
    assert (tmp_path / "run" / POINTER_FILE).exists()
    run(tmp_path / "run", make(5))
    same_curve(runs / "one" / "whole", tmp_path / "run")
    # The state is in one file now, and the parts are gone.
    assert (tmp_path / "run" / STATE_FILE).exists()
    assert not list((tmp_path / "run").glob("training_state.[0-9j]*"))


def test_parts_of_another_run_are_refused(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "two" / "begun", tmp_path / "run")
    with pytest.raises(ResumeError, match=r"train\.lr: 0\.01 → 0\.5"):
        run(tmp_path / "run", lr=0.5)


def test_hostile_metadata_are_not_executed(runs: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    shutil.copytree(runs / "two" / "begun", tmp_path / "run")
    (metadata,) = (tmp_path / "run").glob("training_state.*/.metadata")
    metadata.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ResumeError, match=r"must not contain posix\.mkdir"):
        run(tmp_path / "run")
    assert not (tmp_path / "executed").exists()


def test_bytes_in_a_state_in_parts_are_not_unpickled(runs: Path, tmp_path: Path) -> None:
    """Torch would read them without restriction, and a state has none."""
    shutil.copytree(runs / "two" / "begun", tmp_path / "run")
    (path,) = (tmp_path / "run").glob("training_state.*/.metadata")
    metadata = pickle.loads(path.read_bytes())
    metadata.state_dict_metadata["student.more"] = BytesStorageMetadata()
    path.write_bytes(pickle.dumps(metadata))
    with pytest.raises(ResumeError, match=r"must not contain .*\.BytesStorageMetadata"):
        run(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"folder": "../elsewhere"}, "elsewhere"),
        ({"numbers": None}, "lacks parts"),
    ],
)
def test_a_damaged_pointer_is_refused(
    change: dict[str, Any], said: str, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "two" / "begun", tmp_path / "run")
    place = tmp_path / "run" / "training_state.json"
    content = {**json.loads(place.read_text()), **change}
    place.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(ResumeError, match=said):
        run(tmp_path / "run")


def test_checkpointed_blocks_have_the_same_gradients_and_keep_less(tmp_path: Path) -> None:
    """Bit for bit, dropout included; and the blocks run twice."""
    from fewjump.denoiser.transformer import Block

    def trained(**changes: object) -> tuple[torch.Tensor, int]:
        student = make()
        for block in student.trunk.blocks:
            block.dropout = 0.2  # type: ignore[assignment]
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        for module in student.modules():
            if isinstance(module, Block):
                module.register_forward_pre_hook(count)
        run(tmp_path / str(changes), student, steps=3, **changes)
        assert not student.trunk.checkpoint_blocks
        return weights(student), calls

    plain, once = trained()
    again, twice = trained(checkpoint_blocks=True)
    assert torch.equal(plain, again)
    assert twice == 2 * once


def test_checkpointing_needs_blocks() -> None:
    with pytest.raises(ValueError, match="transformer blocks"):
        train(make_student(), CrossEntropyELBO(), make_data(), config(checkpoint_blocks=True))


def test_one_process_has_nothing_to_split() -> None:
    one, two = make_student(dropout=0.0), make_student(dropout=0.0)
    train(one, CrossEntropyELBO(), make_data(), config())
    train(two, CrossEntropyELBO(), make_data(), config(sharding="full"))
    assert torch.equal(weights(one), weights(two))
    with pytest.raises(ValueError, match="sharding"):
        config(sharding="half")
