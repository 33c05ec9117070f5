"""Tables and drawings of the committed checks, as ``fewjump verify NAME`` makes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from experiments.harness import ROOT
from experiments.pages.antibodies import loops_drawing
from experiments.pages.markdown import MISSING
from experiments.pages.markdown import table as markdown
from experiments.pages.molecules import pictures_drawing
from experiments.pages.road import MARK, PAGES, load
from fewjump.report import Chart, Reference, Series, short, standalone

FOLDER = ROOT / "docs" / "experiments"


def table(name: str, number: str) -> str:
    """A check's table, numbers in three digits."""
    found = load(f"checks/{name}")["tables"][int(number)]
    rows = [[_cell(value) for value in row] for row in found["rows"]]
    return f"**{found['title']}**\n\n" + markdown(found["columns"], rows)


def figure(name: str, number: str) -> str:
    """A check's chart."""
    title = load(f"checks/{name}")["charts"][int(number)]["title"]
    return f"![{title}](experiments/{name}-{number}.svg)"


def drawings() -> dict[str, str]:
    """File name → SVG text of every figure that a page names."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    wanted = [said.split() for kind, said, _ in MARK.findall(text) if kind == "figure"]
    return {"-".join(said) + ".svg": _DRAWN[name](*said) for name, *said in wanted}


def write_drawings(folder: Path = FOLDER) -> list[str]:
    """Write what is new and remove what no page shows; the names of what changed."""
    wanted, changed = drawings(), []
    before = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.svg")}
    for name in sorted({*wanted, *before}):
        if name not in wanted:
            (folder / name).unlink()
        elif wanted[name] != before.get(name):
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            continue
        changed.append(name)
    return changed


def _draw(name: str, number: str) -> str:
    found = load(f"checks/{name}")["charts"][int(number)]
    series = [Series(**one) for one in found["series"]]
    references = [Reference(**one) for one in found["references"]]
    return standalone(Chart(**{**found, "series": series, "references": references}))


#: What a figure's marker names → what draws it.
_DRAWN = {
    "checks.figure": _draw,
    "antibodies.loops": loops_drawing,
    "molecules.pictures": pictures_drawing,
}


def _cell(value: Any) -> str:
    """One cell, with nothing in it that Markdown would read."""
    if value is None or value == "":
        return MISSING
    text = short(value) if isinstance(value, int | float) else str(value)
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
