"""Marked places of a page, and what is put into them."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import import_module
from typing import Any

from experiments.harness import RESULTS, ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
#: Modules of this package whose public functions a marker may name.
MODULES = (
    "adaptive",
    "adds",
    "antibodies",
    "checkpoints",
    "checks",
    "conditioning",
    "cost",
    "guidance",
    "methods",
    "molecules",
    "results",
    "students",
    "supports",
    "tasks",
)
MARK = re.compile(r"<!-- (table|figure|made|value): (.+?) -->(.*?)<!-- end -->", re.DOTALL)

Content = dict[str, Any]


@cache
def load(name: str) -> Content:
    """A committed result, such as ``digits`` or ``scale/two_ranks``.

    Raises:
        FileNotFoundError: if there is none.
    """
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def render(text: str) -> str:
    """A page with what is marked in it made anew.

    Raises:
        ValueError: for a marker that names nothing, or a value at the beginning of a line, which
            Markdown would take for a block of HTML.
    """

    def fill(match: re.Match[str]) -> str:
        kind, said, _ = match.groups()
        made = content(kind, said)
        start = f"<!-- {kind}: {said} -->"
        if kind != "value":
            return f"{start}\n\n{made}\n\n<!-- end -->"
        if match.start() == 0 or text[match.start() - 1] == "\n":
            raise ValueError(f"{start} must not begin a line")
        return f"{start}{made}<!-- end -->"

    return MARK.sub(fill, text)


def content(kind: str, said: str) -> str:
    """What a marker asks for."""
    name, *arguments = said.split()
    if kind == "made":
        return made(name, " ".join(arguments))
    if ":" in name:
        return number(name, *arguments)
    return named(name)(*arguments)


def named(name: str) -> Any:
    """The function MODULE.FUNCTION of this package.

    Raises:
        ValueError: if there is none.
    """
    module, _, function = name.partition(".")
    found = None
    if module in MODULES and not function.startswith("_"):
        found = vars(import_module(f"experiments.pages.{module}")).get(function)
    if not callable(found):
        raise ValueError(f"nothing in experiments.pages is named {name!r}")
    return found


def number(place: str, form: str = "") -> str:
    """``RESULT:PATH``, whose path is keys and list indices with dots between, in a format.

    Raises:
        ValueError: if the path leads nowhere.
    """
    name, _, path = place.partition(":")
    value: Any = load(name)
    try:
        for key in path.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{name}.json has no {path}") from error
    return str(len(value)) if form == "count" else format(value, form)


def made(name: str, command: str = "") -> str:
    """The line under a heading: command, machine, versions, seconds."""
    result = load(name)
    machine = result.get("machine", result)
    parts = [f"`{command or f'python -m experiments.{name}'}`"]
    if isinstance(machine, dict):
        threads = machine["torch_threads"]
        thread = f"{threads} torch thread{'s' * (threads > 1)}"
        parts += [f"{machine['cpu_count']}-core CPU, {thread}", f"torch {machine['torch']}"]
    else:
        parts += [machine, f"torch {result['torch']}"]
    if "seconds" in result:
        parts.append(f"{result['seconds']:.0f} s")
    return " · ".join(parts)
