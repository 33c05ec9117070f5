"""Sequence logos: the residues at each place of a loop, each as high as its share of what is known.

The height of a column is what it says, log₂ 20 less its entropy in bits (Schneider and Stephens
1990), and each letter has its share of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from experiments.antibody_judge import LETTERS
from fewjump.report.charts import new_figure, palette, themed, with_palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Acids, bases, other polar residues; the rest is hydrophobic.
_KINDS = {"DE": "student", "KRH": "teacher", "STNQYCGW": "data"}
_COLUMN, _HEIGHT = 26, 150
_SHOWN = 0.01


def logos(panels: dict[str, list[list[float]]], title: str) -> str:
    """An SVG file's text with one logo under the other.

    Args:
        panels: heading → (columns, 20) shares of the residues, in the order of
            :data:`experiments.antibody_judge.LETTERS`.
        title: for screen readers.
    """
    columns = max(map(len, panels.values()))
    figure = new_figure(80 + _COLUMN * columns, _HEIGHT * len(panels))
    for number, (heading, shares) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(len(panels), 1, number)
        axes.set_title(heading, loc="left")
        for place, column in enumerate(shares):
            _stack(axes, place, column)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(0, math.log2(len(LETTERS)))
        axes.set_ylabel("bits")
        axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
    said = (
        f"{heading}: {''.join(LETTERS[max(range(20), key=c.__getitem__)] for c in shares)}"
        for heading, shares in panels.items()
    )
    return with_palette(themed(figure, title, "The most frequent residues. " + "; ".join(said)))


def _stack(axes: Axes, place: int, shares: list[float]) -> None:
    """The letters of one column, the most frequent on top."""
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    entropy = -sum(p * math.log2(p) for p in shares if p > 0)
    total, below = math.log2(len(LETTERS)) - entropy, 0.0
    for share, letter in sorted(zip(shares, LETTERS)):
        if share < _SHOWN:
            continue
        path = TextPath((0, 0), letter, size=1, prop={"weight": "bold"})  # type: ignore[arg-type]
        box, height = path.get_extents(), share * total
        move = (
            Affine2D()
            .translate(-box.x0, -box.y0)
            .scale(0.9 / box.width, height / box.height)
            .translate(place - 0.45, below)
        )
        axes.add_patch(PathPatch(path.transformed(move), facecolor=_colour(letter), linewidth=0))
        below += height


def _colour(letter: str) -> str:
    kind = next((colour for kind, colour in _KINDS.items() if letter in kind), "ink")
    return palette()[kind]
