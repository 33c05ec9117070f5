"""Every documented command parses; those on publishing and data run as written."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from fewjump import cli
from fewjump.commands.arguments import arguments, parse
from fewjump.verify.checks import check_called

ROOT = Path(__file__).parents[1]
DATA, PUBLISHING = (ROOT / "docs" / f"{name}.md" for name in ("data", "publishing"))


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [DATA, PUBLISHING], ids=lambda page: page.stem)
def test_commands_run(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if page is DATA:
        exec(blocks(page, "python")[0], {})
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line)
        assert words.pop(0) == "fewjump"
        if words[0] in ("train", "distill"):
            words += ["--no-progress", "--device", "cpu", "--batch-size", "8"]
        assert cli.main(words) == cli.OK, (line, capsys.readouterr().err)


def test_a_masked_language_model_is_used_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    from denoiser import tiny_hub as hub

    monkeypatch.chdir(tmp_path)
    hub.save(tmp_path / "path" / "to" / "bert")
    (block,) = [b for b in blocks(PUBLISHING, "py") if "from_masked_lm" in b]
    exec(block, {})
    texts = ast.literal_eval(capsys.readouterr().out)
    assert len(texts) == 2
    assert all(text.startswith("the ") for text in texts)


def documented() -> list[str]:
    """Every command that a page shows, in a block or within a sentence, as one line."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            whole = block.replace("\\\n", " ")
            found += re.findall(r"^\s*(?:\$ )?(fewjump [^#\n|]*)", whole, re.MULTILINE)
        found += re.findall(r"(?<!`)`(fewjump [^`\n]*)`(?!`)", text)
    return sorted({" ".join(line.split()) for line in found})


@pytest.mark.parametrize("line", documented())
def test_every_documented_command_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its flags exist and take such values; what it names need not be there."""
    monkeypatch.setattr("fewjump.device.usable_device", lambda name: name)
    verb, *words = shlex.split(line)[1:]
    if verb in ("VERB", "NAME"):
        pytest.skip("a pattern, not a command")
    assert verb in cli.VERBS
    if any(re.fullmatch(r"[A-Z]+", word) for word in words):
        pytest.skip("a pattern, not a command")
    options = importlib.import_module(f"fewjump.commands.{verb}").Options
    if verb == "verify" and words and not words[0].startswith("-"):
        name, *words = words
        if name == "list":
            return
        options = check_called(name)
    if any(one.positional for one in arguments(options).values()) and not words:
        return
    parse(options, words, "fewjump")


def test_there_are_documented_commands() -> None:
    assert len(documented()) > 25
