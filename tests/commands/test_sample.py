"""``fewjump sample``: what it prints and writes, what it keeps, and when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewjump import cli
from fewjump.data import Characters, ImageLevels, Tokens
from publish.toy import model

LETTERS, OTHERS = Characters("abc "), Characters("xyz ")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(model().save_pretrained(tmp_path / "m", vocabulary=LETTERS))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["sample", *words]) == cli.OK
    return capsys.readouterr().out


def test_printed_texts_do_not_depend_on_the_batches(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [folder, "--num-samples", "5", "--steps", "3", "--seed", "4"]
    whole = said(capsys, *words)
    assert len(whole.split("\n\n")) == 5
    assert said(capsys, *words, "--batch-size", "2") == whole


def test_batches_are_written_as_they_finish_and_appear_at_the_end(
    folder: str, tmp_path: Path, monkeypatch
) -> None:
    from fewjump.commands import sample

    file, sizes = tmp_path / "x.jsonl", []
    file.write_text("what was there\n")
    add = sample.LineWriter.add

    def counted(self, tokens) -> None:
        add(self, tokens)
        (beside,) = tmp_path.glob(".x.jsonl.*.tmp")
        sizes.append(len(beside.read_text().splitlines()))
        assert file.read_text() == "what was there\n"

    monkeypatch.setattr(sample.LineWriter, "add", counted)
    words = ["--num-samples", "5", "--batch-size", "2", "--out", str(file)]
    assert cli.main(["sample", folder, *words]) == cli.OK
    assert sizes == [2, 4, 5]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert all(LETTERS.encode(line["text"]).tolist() == line["tokens"] for line in lines)


def test_steps_are_shown_on_the_error_stream(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--num-samples", "2", "--steps", "3", "--batch-size", "1", "--show-steps"]
    assert cli.main(["sample", folder, *words, "--prompt", "cab"]) == cli.OK
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"sample {i}, step {k} of 3" for i in (0, 1) for k in (1, 2, 3)
    ]
    assert all(": cab" in line for line in lines)
    assert "_" in lines[0]
    assert [lines[2].partition(": ")[2], lines[5].partition(": ")[2]] == out.splitlines()[::2]


def test_infilling_keeps_the_words(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, folder, "--infill", "ab[MASK] [MASK]c", "--num-samples", "6", "--seed", "1")
    texts = out.removesuffix("\n").split("\n\n")
    assert len(texts) == 6
    assert all(t[:2] == "ab" and t[3] == " " and t[5] == "c" for t in texts)


def test_lengths_vary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(length=None).save_pretrained(tmp_path / "m", vocabulary=Characters("abc#", "#"))
    file = tmp_path / "x.jsonl"
    words = ["--length", "2", "5", "--num-samples", "4", "--out", str(file)]
    said(capsys, str(path), *words)
    tokens = [json.loads(line)["tokens"] for line in file.read_text().splitlines()]
    assert [row[2:] for row in tokens[::2]] == [[3, 3, 3]] * 2
    assert all(len(row) == 5 for row in tokens)


def test_a_folder_gets_a_file_for_each_sample(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, folder, "--num-samples", "3", "--batch-size", "2", "--out", str(tmp_path / "d"))
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [f"0000{i}.txt" for i in range(3)]
    pytest.importorskip("matplotlib", reason="needs the report extra")
    images = model(length=6).save_pretrained(tmp_path / "i", vocabulary=ImageLevels(4, 2, 3))
    said(capsys, str(images), "--num-samples", "2", "--out", str(tmp_path / "p"), "--scale", "2")
    header = (tmp_path / "p" / "00001.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert [int.from_bytes(header[16:20]), int.from_bytes(header[20:])] == [6, 4]


def test_images_are_shown_while_masked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = model(length=6).save_pretrained(tmp_path / "i", vocabulary=ImageLevels(4, 2, 3))
    words = ["sample", str(images), "--num-samples", "1", "--steps", "2", "--show-steps"]
    assert cli.main(words) == cli.OK
    first = capsys.readouterr().err.split("sample 0, step 2")[0].splitlines()[1:]
    assert [len(line) for line in first] == [3, 3]
    assert any("_" in line for line in first)


def test_numbers_are_words_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(model().save_pretrained(tmp_path / "m", vocabulary=Tokens(4)))
    out = said(capsys, path, "--infill", "0 [MASK] 2", "--num-samples", "1", "--length", "3")
    assert out.split()[::2] == ["0", "2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--infill", "abc"], "marks each token to draw as [MASK]"),
        (["--infill", "[MASK]", "--prompt", "a"], "not both"),
        (["--infill", "x[MASK]"], "character 'x'"),
        (["--length", "3", "4"], "need a model with a padding token"),
        (["--scale", "0"], "--scale must be at least 1"),
        (["--out", "a.jpg"], "or name a folder"),
    ],
)
def test_a_refusal_comes_first_and_touches_nothing(
    words: list[str],
    message: str,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.txt").write_text("mine")
    out = [] if "--out" in words else ["--out", "kept.txt"]
    assert cli.main(["sample", folder, *words, *out]) == cli.USAGE
    assert message in capsys.readouterr().err
    assert (tmp_path / "kept.txt").read_text() == "mine"


def test_decoding_side_by_side_gives_the_walks_samples_and_says_what_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, draft = (
        str(model(kind=kind).save_pretrained(tmp_path / kind, vocabulary=LETTERS))
        for kind in ("any-order", "shared-chain")
    )
    words = [student, "--num-samples", "5", "--steps", "2", "--seed", "4"]
    walk = said(capsys, *words)
    assert cli.main(["sample", *words, "--decoding", "fixed-point"]) == cli.OK
    told = capsys.readouterr()
    assert told.out == walk
    assert "fixed-point decoding: " in told.err
    for more in (["--decoding", "draft"], ["--draft", draft]):
        assert cli.main(["sample", *words, *more]) == cli.OK
        told = capsys.readouterr()
        assert len(told.out.split("\n\n")) == 5
        assert "of drafted tokens accepted" in told.err
    other = str(model(kind="shared-chain").save_pretrained(tmp_path / "x", vocabulary=OTHERS))
    assert cli.main(["sample", *words, "--draft", other]) == cli.USAGE
    assert "different vocabularies" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--decoding", "fixed-point"], "autoregressive laws"),
        (["--draft", "nowhere"], "autoregressive laws"),
        (["--num-samples", "2", "--length", "3", "5", "7"], "--length has 3 values"),
        (["--num-samples", "1", "--label", "0", "9"], "--label has 2 values"),
        (["--top-p", "1e-300"], "--top-p must be from 1e-06 to 1"),
        (["--decoding", "fixed-point", "--draft", "x"], "--draft is for --decoding draft"),
        (["--sampler", "psi", "--sampler-options", "kapa=0.9"], "did you mean 'kappa'"),
        (["--sampler", "psi", "--sampler-options", "kappa=2"], "kappa must lie in [0, 1]"),
        (["--sampler", "theta-rk2", "--sampler-options", "theta=0"], "theta must lie in (0, 1]"),
        (["--sampler-options", "gamma=1"], "name it by --sampler"),
        (["--sampler", "remdm", "--sampler-options", "eta"], "name=value"),
        (["--sampler", "entropy-bounded", "--grid", "cosine"], "draws its own times"),
    ],
)
def test_what_does_not_apply_is_refused(
    folder: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sample", folder, *words]) == cli.USAGE
    told = capsys.readouterr()
    assert message in told.err
    assert not told.out


@pytest.mark.parametrize(
    "words",
    [
        ["--sampler", "entropy-bounded", "--sampler-options", "gamma=0.5", "by=margin"],
        ["--sampler", "confidence", "--sampler-options", "noise=1"],
        ["--sampler", "remdm", "--sampler-options", "eta=0.2", "variant=rescale"],
        ["--sampler", "psi", "--sampler-options", "kappa=0.5"],
    ],
)
def test_options_of_samplers_reach_them(
    folder: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [folder, "--num-samples", "6", "--steps", "4", "--seed", "1"]
    assert said(capsys, *asked, *words) != said(capsys, *asked)
