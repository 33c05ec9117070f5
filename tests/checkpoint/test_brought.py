"""Models that people bring: wrapped, incomplete, padded, damaged or of another class."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", reason="needs the hub extra")

import fewjump
from checkpoint import written as w
from denoiser import tiny_hub as hub
from fewjump import cli
from fewjump.denoiser import from_masked_lm
from fewjump.denoiser.wrappers import matched_names
from fewjump.publish import Pipeline

WRAPPERS = [
    "_orig_mod.",
    "module.",
    "model._orig_mod.module.",
    "backbone.",
    "module.backbone._orig_mod.model.",
]


def rekeyed(folder: Path, rename: Callable[[str], str | None]) -> Path:
    """The folder's weights under other names; None leaves one out."""
    tensors = load_file(folder / "model.safetensors")
    named = {rename(name): value for name, value in tensors.items()}
    kept = {name: value for name, value in named.items() if name is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_wrapped_names_are_the_networks_own(kind: str, prefix: str, tmp_path: Path) -> None:
    folder = hub.save(tmp_path / "m", kind)
    expected = from_masked_lm(folder).state_dict()
    found = from_masked_lm(rekeyed(folder, lambda name: prefix + name)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_missing_weights_are_refused_and_tied_ones_are_not(tmp_path: Path) -> None:
    folder = hub.save(tmp_path / "m")
    headless = rekeyed(folder, lambda n: None if n.startswith("cls.predictions.tr") else n)
    with pytest.raises(ValueError, match=r"lack cls\.predictions\.transform.*would be random"):
        from_masked_lm(headless)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    folder = hub.save(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"\(16, 31\), expected \(16, 32\)") as refusal:
        fewjump.load(folder)
    assert f"{name} has shape" in str(refusal.value)
    assert "ignore_mismatched_sizes" not in str(refusal.value)


@pytest.mark.parametrize("layers", [0, 1])
def test_fewer_layers_than_the_file_holds_are_refused(layers: int, tmp_path: Path) -> None:
    folder = hub.save(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    with pytest.raises(ValueError, match=rf"more layers than its config.json.*layer\.{layers}\."):
        from_masked_lm(folder)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = hub.save(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(fewjump.CheckpointError, match="16 values that are not finite"):
        fewjump.load(folder)


def test_two_models_in_one_file_are_refused() -> None:
    with pytest.raises(ValueError, match="two tensors are called a once wrappers are stripped"):
        matched_names(["model.a", "module.a"], ["a"])


def test_another_class_of_a_known_type_is_read_and_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = hub.save(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["species.weight"] = torch.zeros(3)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Own"]}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("\n".join(hub.SYMBOLS) + "\n")
    denoiser = from_masked_lm(folder)
    assert denoiser.process.mask == hub.MASK
    (said,) = caplog.messages
    assert "architectures name Own" in said
    assert "left aside: species.weight" in said
    assert cli.main(["inspect", str(folder / "pytorch_model.bin"), "--steps", "2"]) == cli.OK
    assert "species.weight" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_files_are_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub.save(tmp_path / "m")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    assert cli.main(["sample", str(folder), "--length", "8"]) == cli.USAGE
    said = capsys.readouterr().err
    assert name in said
    assert said.count("\n") == 1


def test_longer_than_its_positions_is_refused_with_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, limit in (("bert", 32), ("roberta", 33)):
        folder = hub.save(tmp_path / kind, kind)
        out = tmp_path / f"{kind}.npy"
        words = ["rollouts", str(folder), "--length", str(limit + 1), "--out", str(out)]
        assert cli.main(words) == cli.USAGE
        assert f"at most {limit} tokens" in capsys.readouterr().err
        assert not list(tmp_path.glob(f"{kind}.*"))
        denoiser = from_masked_lm(folder)
        assert fewjump.sample(denoiser, 1, 1, length=limit, generator=0).shape == (1, limit)
        with pytest.raises(ValueError, match=f"at most {limit}"):
            fewjump.sample(denoiser, 1, 1, length=limit + 1, generator=0)


def test_states_without_a_token_are_kept_in_an_original(tmp_path: Path) -> None:
    network = w.network(vocab_size=40, seed=3)
    path = w.lightning(tmp_path / "m.ckpt", network, network, w.mdlm_config())
    with pytest.raises(ValueError, match=r"mask is token 4, the model's is 39.*--mask 4"):
        fewjump.load(path, tokenizer=hub.tokenizer())
    model = fewjump.load(path, mask=hub.MASK, tokenizer=hub.tokenizer())
    assert model.process.kept == tuple(range(len(hub.SYMBOLS), 40))
    drawn = fewjump.sample(model, 64, 2, generator=0, length=8)
    assert int(drawn.max()) < len(hub.SYMBOLS)


def test_the_mask_is_no_given_token(tmp_path: Path) -> None:
    denoiser = from_masked_lm(hub.save(tmp_path / "m"), length=8)
    with pytest.raises(ValueError, match="token 4, the mask"):
        fewjump.sample(denoiser, 1, 1, prompt=torch.tensor([5, hub.MASK]), generator=0)
    pipe = Pipeline(denoiser)
    with pytest.raises(ValueError, match="prompt holds the mask"):
        pipe(1, 1, prompt="the [MASK] sat", generator=0)
    assert hub.MASK not in pipe(2, 2, infill="the [MASK] sat", generator=0).tokens


def test_a_compiled_network_is_saved_under_clean_names(tmp_path: Path) -> None:
    process = fewjump.process.Absorbing(8, fewjump.LogLinear())
    small = {"hidden": 16, "blocks": 1, "heads": 2}
    model = fewjump.train_teacher(
        torch.randint(7, (8, 6)), process, network=small, steps=1, batch_size=2, progress=False
    )
    names = set(model.state_dict())
    whole = torch.compile(model, backend="eager")
    model_path = fewjump.save(whole, tmp_path / "whole")
    model.trunk = torch.compile(model.trunk, backend="eager")
    for folder in (model_path, fewjump.save(model, tmp_path / "trunk")):
        assert set(load_file(folder / "model.safetensors")) == names
        fewjump.load(folder)
    fewjump.load(rekeyed(model_path, lambda name: name.replace("trunk.", "trunk._orig_mod.")))


@pytest.mark.parametrize("word", ["[MASK]", "<hole>"])
def test_the_tokenizers_own_mask_word_is_no_part_of_a_prompt(word: str, tmp_path: Path) -> None:
    """Whatever the tokenizer calls its mask: refused in a prompt, and a hole in an infilling."""
    folder = hub.save(tmp_path / "m")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace("[MASK]", word), encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            told = (folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(told.replace("[MASK]", word), encoding="utf-8")
    pipe = Pipeline(from_masked_lm(folder, length=8))
    for quoted in {word, "[MASK]"}:
        with pytest.raises(ValueError, match="prompt holds the mask"):
            pipe(1, 1, prompt=f"the {quoted} sat", generator=0)
        filled = pipe(2, 2, infill=f"the {quoted} sat", generator=0)
        assert hub.MASK not in filled.tokens
        plain = pipe.vocabulary.encode("the sat").tolist()
        start = len(pipe.vocabulary.frame[0])
        assert filled.tokens[:, [start, start + 2]].tolist() == [plain] * 2


def test_another_tokenizer_than_the_models_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    folder = hub.save(tmp_path / "m")
    same = from_masked_lm(folder, hub.tokenizer(), length=8)
    assert same.vocabulary_config == from_masked_lm(folder, length=8).vocabulary_config
    turned = {word: number for number, word in enumerate(reversed(hub.SYMBOLS))}
    other = Tokenizer(models.WordLevel(turned, unk_token="[UNK]"))
    other.add_special_tokens(["[MASK]"])
    with pytest.raises(ValueError, match="has a tokenizer of its own, with other tokens"):
        from_masked_lm(folder, other)


def test_whole_number_weights_are_refused(tmp_path: Path) -> None:
    folder = hub.save(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    cut = {name: tensor.to(torch.int8) for name, tensor in tensors.items()}
    save_file(cut, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"holds torch.int8, not floating-point weights"):
        from_masked_lm(folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_json_of_another_form_is_told_in_one_line(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub.save(tmp_path / "m")
    wrong = '{"model_type": "bert", "hidden_size": "x"}' if file == "config.json" else "[]"
    (folder / file).write_text(wrong, encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["sample", str(folder), "--num-samples", "1"]) == cli.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
