"""Every Python block of the README and the documentation runs as written."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from fewjump import registry

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
    for found in vars(registry).values():
        if isinstance(found, registry.Registry):
            # What a page adds is gone with it.
            monkeypatch.setattr(found, "_places", dict(found._places))
            monkeypatch.setattr(found, "_classes", dict(found._classes))
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


SOURCE = ROOT / "src" / "fewjump"
ROLE = re.compile(r":(?:mod|class|func|meth|attr|data|exc):`~?([\w.]+)`")
NAME = re.compile(r"(?<![\w/.])fewjump(?:\.[A-Za-z_]\w*)+")


def is_there(name: str) -> bool:
    """Whether a dotted name is a module's, or what is within one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        return has(found, parts[cut:])
    return False


def has(found: object, parts: list[str]) -> bool:
    """Whether ``found.parts`` exists, on a class also as an attribute that instances set."""
    if not parts:
        return True
    if hasattr(found, parts[0]):
        return has(getattr(found, parts[0]), parts[1:])
    if not inspect.isclass(found) or len(parts) > 1:
        return False
    ours = [cls for cls in found.__mro__ if cls.__module__.startswith("fewjump")]
    declared = any(parts[0] in getattr(cls, "__annotations__", {}) for cls in ours)
    return declared or any(f"self.{parts[0]}" in inspect.getsource(cls) for cls in ours)


def test_references_of_docstrings_lead_somewhere() -> None:
    lost = []
    for path in sorted(SOURCE.rglob("*.py")):
        names = ROLE.findall(path.read_text(encoding="utf-8"))
        if not names:
            continue
        dotted = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        module = importlib.import_module(dotted.removesuffix(".__init__"))
        around = [module, *(cls for _, cls in inspect.getmembers(module, inspect.isclass))]
        for name in names:
            near = any(has(place, name.split(".")) for place in around)
            if not near and not is_there(name):
                lost.append(f"{path.relative_to(SOURCE)}: {name}")
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_pages_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for span in re.findall(r"`([^`\n]+)`", text):
        for name in NAME.findall(span):
            assert is_there(name), name


def test_a_name_that_is_gone_is_noticed() -> None:
    assert is_there("fewjump.process.Process.kernel")
    assert not is_there("fewjump.process.kept")
    assert not is_there("fewjump.Nothing")
