"""Every row of the page on what is read and refused names a test that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "what-it-reads.md"
ROWS = [
    line
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| situation", "| **"))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_its_row_names_a_test(row: str) -> None:
    named = re.search(r"\| `([\w/.]+)::(\w+)` \|$", row)
    assert named is not None, row
    source = (TESTS / named[1]).read_text(encoding="utf-8")
    functions = [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    assert named[2] in functions


def test_it_has_rows() -> None:
    assert len(ROWS) > 60
