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
from sklearn.datasets import load_digits

from fewjump.process import Uniform
from fewjump.random import generator_for
from fewjump.report import style_sheet
from fewjump.schedule import LogLinear

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


def tile(image: np.ndarray, x: float, y: float, size: float) -> str:
    """A digit as one path per grey level, on black."""
    unit = size / 8
    parts = [f'<rect x="{x:.1f}" y="{y:.1f}" width="{size}" height="{size}" rx="4" fill="#000"/>']
    for level in range(1, LEVELS):
        rows, columns = np.nonzero(image == level)
        if len(rows):
            squares = "".join(
                f"M{x + c * unit:.1f} {y + r * unit:.1f}h{unit:g}v{unit:g}h-{unit:g}z"
                for r, c in zip(rows, columns)
            )
            grey = round(255 * level / (LEVELS - 1))
            parts.append(f'<path d="{squares}" fill="rgb({grey},{grey},{grey})"/>')
    return "".join(parts)


def arc(x0: float, x1: float, y: float, height: float, role: str) -> str:
    """An arrow from x0 to x1 that rises by ``height``."""
    middle = (x0 + x1) / 2
    curve = f"M{x0:.1f} {y:.1f}Q{middle:.1f} {y - 2 * height:.1f} {x1:.1f} {y:.1f}"
    head = f"M{x1 - 8:.1f} {y - 6:.1f}L{x1:.1f} {y:.1f}L{x1 - 1:.1f} {y - 10:.1f}"
    return f'<path class="line {role}" d="{curve}"/><path class="line {role}" d="{head}"/>'


def picture() -> str:
    """The SVG file's text."""
    images = noised_digit()
    step = (RIGHT - LEFT - TILE) / (SMALL_STEPS - 1)
    places = [LEFT + k * step for k in range(SMALL_STEPS)]
    parts = []
    for index, (x, image) in enumerate(zip(places, images)):
        parts.append(tile(image, x, TOP, TILE))
        if index:
            start, end = places[index - 1] + TILE / 2, x + TILE / 2
            parts.append(arc(start + 6, end - 6, TOP - 8, 9, "teacher"))
    for index in (0, SMALL_STEPS // 2, SMALL_STEPS - 1):
        parts.append(tile(images[index], places[index], BOTTOM, TILE))
    for start, end in ((0, SMALL_STEPS // 2), (SMALL_STEPS // 2, SMALL_STEPS - 1)):
        x0, x1 = places[start] + TILE / 2 + 6, places[end] + TILE / 2 - 6
        parts.append(arc(x0, x1, BOTTOM - 8, 34, "student"))
    labels = [
        (LEFT, 30, "label teacher", "teacher: many small steps, one network evaluation each"),
        (LEFT, 182, "label student", "student: a few jumps"),
        (LEFT, 346, "name", "noise"),
        (RIGHT - 28, 346, "name", "data"),
    ]
    texts = [f'<text class="{c}" x="{x}" y="{y}">{words}</text>' for x, y, c, words in labels]
    axis = f'<path class="axis" d="M{LEFT + 48} 342H{RIGHT - 40}m-7 -4l7 4l-7 4"/>'
    style = style_sheet("palette.css") + style_sheet("marks.css")
    title = "A digit emerging from noise: in many small steps above, in two jumps below"
    return (
        '<svg viewBox="0 0 876 366" role="img" aria-labelledby="t" '
        'xmlns="http://www.w3.org/2000/svg">\n'
        f'<title id="t">{title}</title>\n<style>{style}text {{ font-size: 15px; }}</style>\n'
        '<rect class="paper" width="100%" height="100%" rx="12"/>\n'
        + "\n".join([*parts, *texts, axis])
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    target = Path(__file__).with_name("picture.svg")
    target.write_text(picture(), encoding="utf-8")
    print(target)
