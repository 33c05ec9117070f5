"""Terminals of every kind: encodings, closed and full streams, no terminal at all, Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from fewjump import cli
from fewjump.data import Characters
from publish.toy import model

COMMAND = [sys.executable, "-m", "fewjump"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("m") / "m"
    return str(model().save_pretrained(place, vocabulary=Characters("–␀é→")))


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_any_encoding_takes_samples_and_errors(folder: str, environment: dict[str, str]) -> None:
    result = command("sample", folder, "--show-steps", **environment)
    assert result.returncode == 0, result.stderr
    assert b"\\u2400" in result.stdout
    assert b"Traceback" not in result.stderr


def test_files_are_utf8_whatever_the_terminal(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, screen = tmp_path / "a.jsonl", io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    assert cli.main(["sample", folder, "--out", str(file)]) == cli.OK
    assert "␀" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("redirect", "code"),
    [("<&-", 0), (">&-", 0), ("2>&-", 0), ("| head -c 1", 0), (">/dev/full", 1)],
)
def test_streams_that_are_gone(folder: str, redirect: str, code: int) -> None:
    # A reader that goes away is noticed only by what is written after it.
    many = "--num-samples 600 --batch-size 8" if "|" in redirect else ""
    line = f"set -o pipefail; '{sys.executable}' -m fewjump sample '{folder}' {many} {redirect}"
    result = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert b"Traceback" not in result.stderr
    assert b"Exception ignored" not in result.stderr
    if code:
        assert b"No space left on device" in result.stderr


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "--lenght", "3"]])
def test_no_colours_without_a_terminal(words: list[str]) -> None:
    result = command(*words, TERM="xterm-256color")
    assert b"\x1b" not in result.stdout + result.stderr


def test_progress_without_a_terminal_is_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "t.txt"
    text.write_text("abc cab bac " * 40)
    words = ["train", "--data", str(text), "--length", "8", "--out", str(tmp_path / "r")]
    sizes = ["--hidden", "8", "--blocks", "1", "--heads", "2", "--steps", "3", "--batch-size", "2"]
    assert cli.main([*words, *sizes, "--log-every", "1"]) == cli.OK
    said = capfd.readouterr().err
    lines = said.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"teacher step {i}/3" for i in (1, 2, 3)]
    assert all("loss " in line and "left 0:0" in line for line in lines)
    assert "\r" not in said
    assert cli.main([*words[:-1], str(tmp_path / "q"), *sizes, "--no-progress"]) == cli.OK
    assert capfd.readouterr().err == ""


def test_sampling_tells_of_itself_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fewjump import progress
    from fewjump.sampler import run

    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    run(model(), 2, 2, batch_size=1, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"sampling: step {i}/4" for i in (1, 2, 3, 4)
    ]
    run(model(), 2, 2)
    assert capsys.readouterr().err == ""


def test_a_dumb_terminal_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewjump.progress import on_terminal

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert on_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert not on_terminal()


def test_ctrl_c_is_one_line_and_130(folder: str) -> None:
    words = ["sample", folder, "--num-samples", "10000000", "--batch-size", "4"]
    process = subprocess.Popen(
        [*COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Tests that a shell runs in the background would hand on that Ctrl-C is ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    process.stdout.read(1)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"fewjump: interrupted\n"
