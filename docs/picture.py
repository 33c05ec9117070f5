"""Draw docs/picture.svg: one digit on its way from noise, in small steps and in jumps.

Run `python docs/picture.py`. The noisy digits are one run of the library's uniform process on a
digit of scikit-learn's set, seen backwards; the drawing shows how sampling goes and measures
nothing.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from sklearn.datasets import load_digits

from fewjump.process import Uniform
from fewjump.random import generator_for
from fewjump.report.charts import new_figure, palette, themed, with_palette
from fewjump.schedule import LogLinear

WIDTH, HEIGHT = 876, 366
TILE, TOP, BOTTOM, LEFT, RIGHT = 64, 78, 250, 40, 836
SMALL_STEPS = 9
LEVELS = 17


def noised_digit(which: int = 0, seed: int = 8) -> list[np.ndarray]:
    """The same digit at falling noise: SMALL_STEPS arrays (8, 8) of grey levels 0…16."""
    digit = torch.from_numpy(load_digits().images[which].astype(np.int64)).reshape(1, 64)
    process = Uniform(LEVELS, LogLinear())
    generator = generator_for(seed)
    states = [digit]
    times = np.linspace(0, 1, SMALL_STEPS)
    for s, t in pairwise(times):
        states.append(process.corrupt(states[-1], float(s), float(t), generator))
    return [state.reshape(8, 8).numpy() for state in reversed(states)]


def tile(axes: Axes, image: np.ndarray, x: float, y: float) -> None:
    """A digit, white on black, with its upper left corner at (x, y)."""
    axes.imshow(
        image,
        cmap="gray",
        vmin=0,
        vmax=LEVELS - 1,
        extent=(x, x + TILE, y + TILE, y),
        interpolation="none",
    )


def arc(axes: Axes, x0: float, x1: float, y: float, height: float, colour: str) -> None:
    """An arrow from x0 to x1 that rises by ``height``."""
    axes.add_patch(
        FancyArrowPatch(
            (x0, y),
            (x1, y),
            connectionstyle=f"arc3,rad=-{2 * height / (x1 - x0):.3f}",
            arrowstyle="->,head_length=6,head_width=4",
            shrinkA=0,
            shrinkB=0,
            color=colour,
            linewidth=2.4,
            capstyle="round",
        )
    )


def picture() -> str:
    """The SVG file's text."""
    images, colours = noised_digit(), palette()
    teacher, student, soft = colours["teacher"], colours["student"], colours["soft"]
    figure = new_figure(WIDTH, HEIGHT)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    step = (RIGHT - LEFT - TILE) / (SMALL_STEPS - 1)
    places = [LEFT + k * step for k in range(SMALL_STEPS)]
    for index, (x, image) in enumerate(zip(places, images)):
        tile(axes, image, x, TOP)
        if index:
            start, end = places[index - 1] + TILE / 2, x + TILE / 2
            arc(axes, start + 6, end - 6, TOP - 8, 9, teacher)
    for index in (0, SMALL_STEPS // 2, SMALL_STEPS - 1):
        tile(axes, images[index], places[index], BOTTOM)
    for start, end in ((0, SMALL_STEPS // 2), (SMALL_STEPS // 2, SMALL_STEPS - 1)):
        x0, x1 = places[start] + TILE / 2 + 6, places[end] + TILE / 2 - 6
        arc(axes, x0, x1, BOTTOM - 8, 34, student)
    arc(axes, LEFT + 52, RIGHT - 44, 342, 0, soft)
    for x, y, colour, weight, words in (
        (LEFT, 30, teacher, "bold", "teacher: many small steps, one network evaluation each"),
        (LEFT, 182, student, "bold", "student: a few jumps"),
        (LEFT, 347, soft, "normal", "noise"),
        (RIGHT - 34, 347, soft, "normal", "data"),
    ):
        axes.text(x, y, words, color=colour, weight=weight, size=15)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    title = "A digit emerging from noise: in many small steps above, in two jumps below"
    return with_palette(themed(figure, title, f"{SMALL_STEPS - 1} steps above, 2 below"))


if __name__ == "__main__":
    target = Path(__file__).with_name("picture.svg")
    target.write_text(picture(), encoding="utf-8")
    print(target)
