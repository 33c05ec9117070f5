"""From documents or a masked language model to samples, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fewjump import cli
from fewjump.checkpoint import load, read_config

SMALL = ["--hidden", "8", "--blocks", "1", "--heads", "2"]
QUICK = ["--steps", "2", "--batch-size", "2", "--no-progress", "--device", "cpu"]
TEXTS = ["the cat sat on a mat", "a big dog ran", "the small cat ran under a tree", "a tree"] * 8


@pytest.fixture
def lines(tmp_path: Path) -> str:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    return str(path)


def test_padding_is_left_alone_when_asked(
    lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = str(tmp_path / "t"), str(tmp_path / "s")
    data = ["--data", lines, "--text-field", "body"]
    words = ["train", *data, "--length", "32", "--variable-length", "--out", teacher, *SMALL]
    assert cli.main([*words, *QUICK]) == cli.OK
    model = load(f"{teacher}/model")
    padding = read_config(f"{teacher}/model")["data"]["symbols"].index("\u2400")
    assert model.process.kept == (padding,)
    assert model.padding == padding
    words = ["distill", "--teacher", teacher, *data, "--out", student, "--student", "chain"]
    assert cli.main([*words, *QUICK]) == cli.OK
    assert "several lengths" not in capsys.readouterr().err
    alone = ["distill", "--teacher", teacher, "--out", str(tmp_path / "a"), "--student", "chain"]
    assert cli.main([*alone, *QUICK]) == cli.OK
    assert "several lengths: those that this training draws" in capsys.readouterr().err
    refined = ["refine", "--student", student, "--teacher", teacher, "--out", str(tmp_path / "r")]
    refined += ["--auxiliary-steps", "1", "--no-guard"]
    assert cli.main([*refined, *QUICK]) == cli.OK
    assert "several lengths: its own samples" in capsys.readouterr().err
    words = ["sample", student, "--num-samples", "4", "--length", "5", "9", "--steps", "3"]
    assert cli.main(words) == cli.OK
    texts = capsys.readouterr().out.removesuffix("\n").split("\n\n")
    assert [len(text) for text in texts] == [5, 9, 5, 9]
    assert all("\u2400" not in text for text in texts)
    words = ["train", "--data", "text", "--variable-length", "--out", str(tmp_path / "x")]
    assert cli.main([*words, *SMALL, *QUICK]) == cli.USAGE
    assert "these have none" in capsys.readouterr().err


def test_bytes_and_arrays(lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = str(tmp_path / "t")
    words = ["train", "--data", lines, "--text-field", "body", "--tokenizer", "bytes"]
    assert cli.main([*words, "--length", "8", "--out", teacher, *SMALL, *QUICK]) == cli.OK
    assert read_config(f"{teacher}/model")["data"] == {"name": "bytes"}
    np.array(bytearray(b"the cat sat. " * 30)).astype("<u2").tofile(tmp_path / "d.bin")
    words = ["distill", "--teacher", teacher, "--data", str(tmp_path / "d.bin")]
    assert cli.main([*words, "--out", str(tmp_path / "s"), *QUICK]) == cli.OK
    np.save(tmp_path / "wide.npy", np.full((40, 8), 300))
    words = ["distill", "--teacher", teacher, "--data", str(tmp_path / "wide.npy")]
    assert cli.main([*words, "--out", str(tmp_path / "u"), *QUICK]) == cli.USAGE
    assert "holds token 300, outside 0..255" in capsys.readouterr().err


def test_a_masked_language_model_is_distilled(
    lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    from denoiser import tiny_hub as hub

    bert = str(hub.save(tmp_path / "bert"))
    data = ["--data", lines, "--text-field", "body", "--length", "10", "--packing", "documents"]
    for kind in ("product", "autoregressive"):
        out = str(tmp_path / kind)
        words = ["distill", "--teacher", bert, *data, "--student", kind, "--out", out]
        assert cli.main([*words, *QUICK]) == cli.OK
        assert load(f"{out}/model").process.kept == (hub.PAD, hub.UNK, hub.CLS, hub.SEP)
        capsys.readouterr()
        words = ["sample", out, "--steps", "2", "--num-samples", "2", "--prompt", "the cat"]
        assert cli.main([*words, "--length", "8", "--out", str(tmp_path / "x.jsonl")]) == cli.OK
        for line in (tmp_path / "x.jsonl").read_text().splitlines():
            assert json.loads(line)["text"].startswith("the cat ")
            tokens = json.loads(line)["tokens"]
            assert (tokens[0], tokens[-1]) == (hub.CLS, hub.SEP)
    capsys.readouterr()
    words = ["sample", bert, "--length", "9", "--infill", "the [MASK] sat", "--steps", "2"]
    assert cli.main([*words, "--num-samples", "1", "--show-steps"]) == cli.OK
    out, err = capsys.readouterr()
    assert out.split()[0] == "the"
    assert out.split()[2] == "sat"
    assert "_" in err
    # Without data the teacher's own samples are used; it has no length of its own.
    words = ["distill", "--teacher", bert, "--length", "6", "--out", str(tmp_path / "free")]
    assert cli.main([*words, *QUICK]) == cli.USAGE
    assert "run `fewjump rollouts` first" in capsys.readouterr().err
    file = str(tmp_path / "r.npy")
    drawn = ["rollouts", bert, "--length", "6", "--num-samples", "20", "--steps", "3"]
    assert cli.main([*drawn, "--out", file]) == cli.OK
    assert np.load(file)[:, [0, 5]].tolist() == [[hub.CLS, hub.SEP]] * 20
    assert cli.main([*words, *QUICK, "--data", file]) == cli.OK
    assert read_config(tmp_path / "free" / "model")["data"]["mask"] == hub.MASK
    words = ["evaluate", str(tmp_path / "product"), bert, *data[:4], "--steps", "1"]
    assert cli.main([*words, "--num-samples", "8", "--out", str(tmp_path / "r")]) == cli.OK


def test_a_teacher_is_trained_in_a_tokenizers_words(lines: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    from denoiser import tiny_hub as hub

    hub.tokenizer().save_pretrained(tmp_path / "tok")
    words = ["train", "--data", lines, "--text-field", "body", "--length", "10", *SMALL]
    words += ["--tokenizer", str(tmp_path / "tok"), "--packing", "fit"]
    for process in ("masked", "uniform"):
        out = tmp_path / process
        assert cli.main([*words, "--process", process, "--out", str(out), *QUICK]) == cli.OK
        model = load(out / "model")
        assert model.process.vocab_size == len(hub.SYMBOLS)
        assert model.process.mask == (hub.MASK if process == "masked" else None)
        assert set(range(4)) <= set(model.process.kept)
        assert model.padding == hub.PAD


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--text-field", "text"], "has no text in 'text' (it has body)"),
        (["--text-field", "body", "--packing", "fit", "--tokenizer", "bytes"], "use --packing str"),
        (["--kind", "characters", "--packing", "fit"], "not for"),
        (["--tokenizer", "no/such"], "for one of the hub say hf:no/such"),
    ],
)
def test_nonsense_is_explained(
    words: list[str], said: str, lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--data", lines, *words, "--out", str(tmp_path / "t"), *SMALL, *QUICK]
    assert cli.main(words) == cli.USAGE
    assert said in capsys.readouterr().err


def test_a_model_that_does_not_say_is_told_its_tokens(
    lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    from denoiser import tiny_hub as hub
    from fewjump.process import Absorbing
    from fewjump.schedule import LogLinear
    from publish.toy import model

    hub.tokenizer().save_pretrained(tmp_path / "tok")
    told = ["--tokenizer", str(tmp_path / "tok")]
    size = len(hub.SYMBOLS)
    process = Absorbing(size + 3, LogLinear(), mask=hub.MASK)
    silent = str(model(size + 3, 8, process=process).save_pretrained(tmp_path / "m"))
    words = ["sample", silent, "--steps", "2", "--num-samples", "1", "--prompt", "the cat"]
    assert cli.main([*words, *told]) == cli.OK
    assert capsys.readouterr().out.startswith("the cat ")
    words = ["distill", "--teacher", silent, "--data", lines, "--text-field", "body", *told]
    assert cli.main([*words, "--out", str(tmp_path / "s"), *QUICK]) == cli.OK
    config = read_config(tmp_path / "s" / "model")
    assert config["data"]["mask"] == hub.MASK
    assert config["denoiser"]["process"]["kept"] == [size, size + 1, size + 2]
    # Now it says so itself.
    assert cli.main(["sample", str(tmp_path / "s"), *told]) == cli.USAGE
    assert "leave out tokenizer= (--tokenizer)" in capsys.readouterr().err
    other = str(model(size, 8).save_pretrained(tmp_path / "other"))
    assert cli.main(["sample", other, *told]) == cli.USAGE
    assert "the tokenizer's mask is token 4, the model's is 17" in capsys.readouterr().err
    small = str(model(4, 8).save_pretrained(tmp_path / "small"))
    assert cli.main(["sample", small, *told]) == cli.USAGE
    assert "the tokenizer has 17 tokens and the model 4" in capsys.readouterr().err


def test_options_of_data_on_the_command_line(
    lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wide tokens, a place for the cache, a marked file of options; refusals from every verb."""
    np.random.default_rng(0).integers(1, 90, 400).astype("<u4").tofile(tmp_path / "d.bin")
    teacher, place = str(tmp_path / "t"), tmp_path / "place"
    words = ["train", "--data", str(tmp_path / "d.bin"), "--length", "8", *SMALL, *QUICK]
    assert cli.main([*words, "--out", teacher]) == cli.USAGE
    assert "--token-bits 32" in capsys.readouterr().err
    assert not Path(teacher).exists()
    assert cli.main([*words, "--out", teacher, "--token-bits", "32"]) == cli.OK
    config = tmp_path / "c.yaml"
    config.write_bytes(b"\xef\xbb\xbftext-field: body\r\nlength: 8\r\n")
    words = ["train", "--data", lines, "--config", str(config), "--cache", str(place)]
    assert cli.main([*words, "--out", str(tmp_path / "w"), *SMALL, *QUICK]) == cli.OK
    assert len(list(place.iterdir())) == 1
    assert not (tmp_path / ".fewjump-cache").exists()
    wide = ["--data", str(tmp_path / "d.bin"), "--token-bits", "32"]
    out = ["--out", str(tmp_path / "x")]
    for verb in (
        ["train", *SMALL, *QUICK],
        ["distill", "--teacher", teacher, *QUICK],
        ["refine", "--teacher", teacher, "--student", teacher, *QUICK],
        ["evaluate", teacher],
    ):
        for option, value in (("--text-field", "b"), ("--packing", "fit"), ("--cache", "c")):
            assert cli.main([*verb, *wide, *out, option, value]) == cli.USAGE
            assert f"{option}: not for" in capsys.readouterr().err
        if verb[0] in ("distill", "refine"):
            assert cli.main([*verb, *out, "--documents", "3"]) == cli.USAGE
            assert "--documents says how to read data: give --data" in capsys.readouterr().err
