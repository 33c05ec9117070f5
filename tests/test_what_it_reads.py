"""Every row of the page on what is read and refused names a test that there is."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "what-it-reads.md"
ROWS = [
    line
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| situation", "| **"))
]


def test_its_rows_name_tests() -> None:
    assert len(ROWS) > 60
    for row in ROWS:
        named = re.search(r"\| `([\w/.]+)::(\w+)` \|$", row)
        assert named is not None, row
        assert named[2] in functions(TESTS / named[1]), row


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
