"""Saved models come back as they were, and damaged ones say what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import fewjump
from fewjump.checkpoint import FORMAT_VERSION, CheckpointError, load, read_config, save
from fewjump.checkpoint import folder as folder_module
from fewjump.checkpoint.folder import plain
from fewjump.data import Characters
from fewjump.denoiser import HEADS, Denoiser, LogitDenoiser, NetworkDenoiser, ScoreDenoiser
from fewjump.process import Absorbing, Process, ResetToPrior, Uniform
from fewjump.publish import Pipeline
from fewjump.publish.models import open_model
from fewjump.results import Row
from fewjump.schedule import Cosine, Geometric, LogLinear

V, L = 6, 8
TRUNK: dict[str, Any] = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4}
IMAGE = {**TRUNK, "positions": "2d", "grid": [2, 4], "conv_kernel": 3, "time_conditioned": False}
PROCESSES: list[Process] = [
    Uniform(V, Cosine(eps=0.01)),
    Absorbing(V, LogLinear(), mask=2),
    ResetToPrior(torch.tensor([0.1, 0.2, 0.3, 0.1, 0.1, 0.2]), Geometric(1e-3, 7.0)),
]


def scramble(denoiser: Denoiser) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in denoiser.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def network(process: Process, trunk: dict[str, Any] = TRUNK) -> NetworkDenoiser:
    config = {"process": process.config(), "trunk": trunk, "length": L}
    denoiser = NetworkDenoiser.from_config(config).eval()
    scramble(denoiser)
    return denoiser


def marginals(denoiser: Denoiser) -> Tensor:
    x = torch.randint(V, (3, L), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return denoiser(x, torch.tensor([0.1, 0.5, 1.0])).marginals()


# -- round trips ----------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("trunk", [TRUNK, IMAGE], ids=["line", "image"])
def test_a_loaded_model_is_the_saved_one(
    process: Process, trunk: dict[str, Any], tmp_path: Path
) -> None:
    model = network(process, trunk)
    assert save(model, tmp_path / "model") == tmp_path / "model"
    loaded = load(tmp_path / "model")
    assert torch.equal(marginals(loaded), marginals(model))
    assert loaded.process.config() == process.config()
    assert loaded.length == L
    assert loaded.config() == model.config()
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"], "nothing else may be left"


def test_a_fresh_process_computes_the_same_bits(tmp_path: Path) -> None:
    model = network(PROCESSES[1])
    save(model, tmp_path / "model")
    save_file({"marginals": marginals(model)}, tmp_path / "expected.safetensors")
    script = """
import sys, torch
from safetensors.torch import load_file
import fewjump
torch.set_num_threads(1)
model = fewjump.load(sys.argv[1] + "/model")
x = torch.randint(6, (3, 8), generator=torch.Generator().manual_seed(5))
with torch.no_grad():
    found = model(x, torch.tensor([0.1, 0.5, 1.0])).marginals()
assert torch.equal(found, load_file(sys.argv[1] + "/expected.safetensors")["marginals"])
assert "torch._dynamo" not in sys.modules, "torch's compiler takes longer to import than all else"
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_every_head_round_trips(kind: str, tmp_path: Path) -> None:
    config = {"process": PROCESSES[1].config(), "trunk": TRUNK, "head": {"kind": kind}, "length": L}
    model = NetworkDenoiser.from_config(config).eval()
    scramble(model)
    loaded = load(save(model, tmp_path / "model"))
    assert isinstance(loaded, NetworkDenoiser)
    assert loaded.kind == kind
    x, x0 = torch.full((2, L), 2), torch.zeros(2, L, dtype=torch.int64)
    with torch.no_grad():
        assert torch.equal(loaded(x, 0.5).log_prob(x0), model(x, 0.5).log_prob(x0))
        draws = [m(x, 0.5).sample(torch.Generator().manual_seed(0)) for m in (loaded, model)]
    assert torch.equal(*draws)


def test_score_models_round_trip(tmp_path: Path) -> None:
    config = {"process": PROCESSES[1].config(), "trunk": TRUNK, "method": "project"}
    model = ScoreDenoiser.from_config(config).eval()
    scramble(model)
    loaded = load(save(model, tmp_path / "score"))
    assert isinstance(loaded, ScoreDenoiser)
    assert loaded.method == "project"
    assert torch.equal(marginals(loaded), marginals(model))


def test_parameters_keep_their_precision(tmp_path: Path) -> None:
    model = network(PROCESSES[0]).bfloat16()
    loaded = load(save(model, tmp_path / "half"))
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(marginals(loaded), marginals(model))


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    save(network(PROCESSES[0]), tmp_path / "model")
    before = torch.get_rng_state()
    load(tmp_path / "model")
    assert torch.equal(before, torch.get_rng_state())


def test_what_belongs_to_the_model_comes_back(tmp_path: Path) -> None:
    class Vocabulary:
        def config(self) -> dict[str, Any]:
            return {"name": "characters", "symbols": "abcdé|"}

    rows = [Row("student", "ancestral", 4, 4.0, "bigram_tv", 0.06251, 0.06, 0.065, 1.5)]
    save(
        network(PROCESSES[0]),
        tmp_path / "model",
        vocabulary=Vocabulary(),
        metrics=rows,
        training={"steps": 10, "loss": float("nan"), "out": Path("runs/a")},
    )
    config = read_config(tmp_path / "model")
    assert config["data"] == {"name": "characters", "symbols": "abcdé|"}
    assert config["metrics"][0]["value"] == 0.06251
    assert config["training"] == {"steps": 10, "loss": None, "out": "runs/a"}
    assert config["fewjump_version"] == fewjump.__version__
    assert config["format_version"] == FORMAT_VERSION


def test_the_card_tells_what_it_is_and_its_example_runs(tmp_path: Path) -> None:
    rows = [{"model": "student", "nfe": 4, "metric": "bigram_tv", "value": 0.0625}]
    save(network(PROCESSES[0]), tmp_path / "tiny", metrics=rows, training={"steps": 10})
    card = (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")
    for expected in (
        "# tiny",
        "Uniform",
        "Cosine, eps=0.01",
        "| model | evaluations | bigram_tv |",
        "| student | 4 | 0.0625 |",
    ):
        assert expected in card
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace('"tiny"', repr(str(tmp_path / "tiny")))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["tokens"].shape == (16, L)


# -- replacing ------------------------------------------------------------------------------


def test_saving_again_replaces_the_model(tmp_path: Path) -> None:
    save(network(PROCESSES[0]), tmp_path / "model")
    model = network(PROCESSES[1])
    save(model, tmp_path / "model")
    assert torch.equal(marginals(load(tmp_path / "model")), marginals(model))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(PROCESSES[0])
    save(model, tmp_path / "model")

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(folder_module, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(network(PROCESSES[1]), tmp_path / "model")
    assert torch.equal(marginals(load(tmp_path / "model")), marginals(model))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_save_killed_between_its_renames_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(PROCESSES[0])
    save(model, tmp_path / "model")
    rename = Path.rename
    done = []

    def die_at_the_second(self: Path, target: Path) -> Path:
        if done:
            raise KeyboardInterrupt
        done.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        save(network(PROCESSES[1]), tmp_path / "model")
    monkeypatch.undo()
    assert not (tmp_path / "model").exists()
    assert torch.equal(marginals(load(tmp_path / "model")), marginals(model))
    newer = network(PROCESSES[1])
    save(newer, tmp_path / "model")
    assert torch.equal(marginals(load(tmp_path / "model")), marginals(newer))


def test_other_peoples_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        save(network(PROCESSES[0]), tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        save(network(PROCESSES[0]), tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    denoiser = LogitDenoiser(lambda x, t: torch.zeros(*x.shape, V), PROCESSES[0])
    with pytest.raises(ValueError, match="LogitDenoiser cannot be saved"):
        save(denoiser, tmp_path / "model")
    with pytest.raises(ValueError, match=r"metrics\.loss is a object"):
        save(network(PROCESSES[0]), tmp_path / "model", metrics={"loss": object()})
    assert list(tmp_path.iterdir()) == []


# -- damage ---------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(network(PROCESSES[0]), tmp_path / "model")


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_missing_things_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the folder of a saved model"):
        load(tmp_path / "nowhere")
    for part in ("config.json", "model.safetensors"):
        assert load(saved / part).config() == load(saved).config()
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load(saved)
    (saved / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither .*config\.json nor"):
        load(saved)


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.999])
def test_weights_that_were_cut_are_named(saved: Path, kept: float) -> None:
    weights = saved / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(kept * len(data) if kept < 1 else kept)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged") as refusal:
        load(saved)
    assert "config.json" not in str(refusal.value)


def test_configurations_of_others_are_refused(saved: Path) -> None:
    edit_config(saved, format_version=FORMAT_VERSION + 1, fewjump_version="9.1")
    with pytest.raises(ValueError, match=r"format version 2.*use fewjump 9\.1"):
        load(saved)
    edit_config(saved, format="other")
    with pytest.raises(ValueError, match="names no known model"):
        load(saved)
    with pytest.raises(ValueError, match=r"not written by fewjump\.save"):
        read_config(saved)
    (saved / "config.json").write_text('{"format": ')
    with pytest.raises(ValueError, match="not valid JSON"):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "oracle"},
        {"head": {"kind": "unheard-of"}},
        {"trunk": {**TRUNK, "vocab_size": V, "depth": 3}},
        {"process": {"name": "Brownian"}},
    ],
)
def test_unknown_descriptions_are_refused(saved: Path, change: dict[str, Any]) -> None:
    described = read_config(saved)["denoiser"]
    edit_config(saved, denoiser={**described, **change})
    with pytest.raises(ValueError, match="describes no known denoiser"):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"length": 1.5},
        {"length": True},
        {"length": 1 << 40},
        {"length": float("nan")},
        {"process": {**PROCESSES[1].config(), "mask": 1.5}},
        {"trunk": {**TRUNK, "vocab_size": V, "time_conditioned": "false"}},
        {"trunk": {**TRUNK, "vocab_size": V, "blocks": 1.5}},
    ],
    ids=str,
)
def test_options_of_another_type_are_refused(saved: Path, change: dict[str, Any]) -> None:
    described = read_config(saved)["denoiser"]
    edit_config(saved, denoiser={**described, **change})
    with pytest.raises(CheckpointError, match="describes no known denoiser"):
        load(saved)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "must say what the tokens are"),
        ("x", "must say what the tokens are"),
        ({"name": "Runes"}, "describes no known vocabulary"),
        ({"symbols": ["a"]}, "describes no known vocabulary"),
        (Characters("abc").config(), f"a vocabulary of 3 tokens and a model of {V}"),
        (Characters("abcdefgh").config(), f"a vocabulary of 8 tokens and a model of {V}"),
    ],
    ids=str,
)
def test_vocabularies_of_others_are_refused(saved: Path, data: Any, message: str) -> None:
    edit_config(saved, data=data)
    for opens in (open_model, Pipeline.from_pretrained):
        with pytest.raises(CheckpointError, match=message):
            opens(saved)


def test_a_folder_that_does_not_say_what_its_tokens_are_is_read(saved: Path) -> None:
    file = saved / "config.json"
    content = json.loads(file.read_text())
    del content["data"]
    file.write_text(json.dumps(content))
    assert load(saved).vocabulary_config is None


def test_weights_of_several_dtypes_are_read_in_the_widest(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    mixed = [torch.float16, torch.float32, torch.bfloat16]
    save_file({k: v.to(mixed[i % 3]) for i, (k, v) in enumerate(tensors.items())}, file)
    assert {p.dtype for p in load(saved).parameters()} == {torch.float32}
    marginals(load(saved))
    for dtype in (torch.int64, torch.float8_e4m3fn):
        save_file({**tensors, "head.linear.bias": tensors["head.linear.bias"].to(dtype)}, file)
        with pytest.raises(CheckpointError, match=rf"bias holds {dtype}; floating point of 16"):
            load(saved)


@pytest.mark.parametrize("keep", [0, 5, 200, -7])
def test_truncated_weights_are_refused(saved: Path, keep: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is damaged"):
        load(saved)


def test_tensors_that_do_not_fit_are_named(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    weight = tensors.pop("head.linear.weight")
    tensors["head.linear.bias"] = torch.zeros(V + 1)
    tensors["head.extra"] = weight
    save_file(tensors, file)
    with pytest.raises(ValueError) as caught:
        load(saved)
    message = str(caught.value)
    assert "head.linear.weight is missing" in message
    assert "head.extra is not expected" in message
    assert f"head.linear.bias has shape ({V + 1},), expected ({V},)" in message


def test_plain_data() -> None:
    assert plain({"a": (1, 2.5), 3: torch.tensor([1, 2])}) == {"a": [1, 2.5], "3": [1, 2]}
    assert plain([float("inf"), None, True]) == [None, None, True]
    with pytest.raises(ValueError, match=r"value\[0\]\.x is a set"):
        plain([{"x": {1}}])


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_saved_folder_is_as_readable_as_any_other(saved: Path) -> None:
    ordinary = saved.parent / "ordinary"
    ordinary.mkdir()
    assert saved.stat().st_mode == ordinary.stat().st_mode


def test_what_torch_says_of_a_size_is_told_in_one_line(tmp_path: Path) -> None:
    """Its own message goes on with a stack of C++ frames."""
    torch.manual_seed(0)
    config = {
        "process": Absorbing(5, LogLinear()).config(),
        "trunk": {"hidden": 8, "blocks": 1, "heads": 1},
        "length": 4,
    }
    folder = save(NetworkDenoiser.from_config(config), tmp_path / "m")
    content = json.loads((folder / "config.json").read_text())
    content["denoiser"]["trunk"]["condition_dim"] = 10**30
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="describes no known denoiser") as raised:
        load(folder)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700
