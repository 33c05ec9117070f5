"""What the site makes of the pages' formulas and of the docstrings' references (a mkdocs hook).

Formulas between dollar signs become MathML, which browsers draw without a script. References such
as ``:class:`~fewjump.law.Law``` become links to the reference pages.
"""

from __future__ import annotations

import re

from latex2mathml.converter import convert

_CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<![\\\w$])\$(?=\S)([^$\n]+?(?:\n[^$\n]+?)?)(?<=\S)\$(?![\w$])")
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):<code>(~?)([\w.]+)</code>")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Convert the formulas of a page, and none inside code."""
    parts = _CODE.split(markdown)
    for index in range(0, len(parts), 2):
        text = _BLOCK.sub(lambda m: _mathml(m[1], "block"), parts[index])
        # At the start of a line Markdown takes <math> alone for a block.
        parts[index] = _INLINE.sub(lambda m: f"<span>{_mathml(m[1], 'inline')}</span>", text)
    return "".join(parts)


def on_page_content(html: str, **_: object) -> str:
    """Link the docstrings' references, under the last part of the name where it begins with ~."""
    return _ROLE.sub(_link, html)


def _mathml(formula: str, display: str) -> str:
    return convert(" ".join(formula.split()), display=display)


def _link(match: re.Match[str]) -> str:
    short, name = match[1], match[2]
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'
