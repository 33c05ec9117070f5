"""Every Python block of the README and the documentation runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fewjump.registry import HEADS, OBJECTIVES, PROCESSES, SAMPLERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")]


def blocks(page: Path) -> list[tuple[int, str]]:
    """Line number and source of each Python block."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for registry in (PROCESSES, HEADS, SAMPLERS, OBJECTIVES):
        # What a page adds to them is forgotten.
        monkeypatch.setattr(registry, "_places", dict(registry._places))
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    namespace: dict[str, object] = {"__name__": page.stem}
    for line, source in blocks(page):
        code = compile("\n" * line + source, str(page), "exec", dont_inherit=True)
        exec(code, namespace)


def test_pages_with_examples_are_found() -> None:
    assert {"theory.md", "extending.md"} <= {page.name for page in WITH_CODE}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
