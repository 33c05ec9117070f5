"""Formulas between dollar signs as MathML, which browsers draw without a script (mkdocs hook)."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

_CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<![\\\w$])\$(?=\S)([^$\n]+?(?:\n[^$\n]+?)?)(?<=\S)\$(?![\w$])")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Convert the formulas of a page, and none inside code."""
    parts = _CODE.split(markdown)
    for index in range(0, len(parts), 2):
        text = _BLOCK.sub(lambda m: _mathml(m[1], "block"), parts[index])
        parts[index] = _INLINE.sub(lambda m: _mathml(m[1], "inline"), text)
    return "".join(parts)


def _mathml(formula: str, display: str) -> str:
    return convert(" ".join(formula.split()), display=display)
