"""The commands of the pages on publishing and data run as written, and so do the extras' blocks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fewjump import cli

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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    import fewjump
    from denoiser import tiny_hub as hub

    monkeypatch.chdir(tmp_path)
    hub.save(tmp_path / "path" / "to" / "bert")
    (block,) = [b for b in blocks(PUBLISHING, "py") if "from_masked_lm" in b]
    names = {"fewjump": fewjump}
    exec(block, names)
    assert names["pipe"](1, 2).texts
