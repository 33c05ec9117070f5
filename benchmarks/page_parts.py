"""What every page is made of: tables, numbers, and the line that says where they are from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Content = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float, digits: int = 3) -> str:
    """A number in few digits."""
    return f"{value:.{digits}g}"


def interval(row: Content, key: str = "value") -> str:
    """Value and interval."""
    return f"{number(row[key])} ({number(row['low'])}–{number(row['high'])})"


def provenance(content: Content, module: str) -> str:
    """The line under each heading: script, seeds, machine, time."""
    machine = content.get("machine", content)
    facts = [f"`{module}`"]
    if isinstance(machine, dict):
        facts.append(f"{machine['cpu_count']}-core CPU, {machine['torch_threads']} torch thread(s)")
        facts.append(f"torch {machine['torch']}")
    else:
        facts.append(f"{machine}, torch {content['torch']}")
    if "seconds" in content:
        facts.append(f"{content['seconds']:.0f} s")
    return " · ".join(facts)
