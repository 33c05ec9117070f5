"""How much faster the students are at the teacher's quality, with both sides timed in one run.

Quality comes from the results of :mod:`experiments.text_students` and
:mod:`experiments.digits`: each student is given the fastest number of steps at which it is
as good as the teacher with its most. Those samplers, and no others, are then timed again in turns,
so that whatever else the machine does slows all of them alike.

Two ratios are taken. With many samples a turn, the first step of a masked sampler is one evaluation
for all of them, whose inputs are alike; with a single sample nothing is shared. Run as

    python -m experiments.student_speed --names names.txt --text shakespeare.txt

after those experiments, with the same ``--runs``; what they have not made is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.digits import folders
from experiments.harness import Content, Options, Rows, main
from experiments.text_sizes import SIZES, load_corpus
from experiments.text_students import Workshop
from experiments.wall_clock import Speed, points_of, points_of_results, speed_at_quality
from fewjump.checkpoint import load
from fewjump.data import load_data
from fewjump.demo.digits import Sizes as DigitSizes
from fewjump.demo.parts import TEACHER, Clock
from fewjump.denoiser.base import Denoiser
from fewjump.results import Row
from fewjump.sampler import run as draw

Sampler = tuple[str, int]


def in_turns(
    models: Mapping[str, Denoiser], samplers: Sequence[Sampler], count: int, repeats: int
) -> dict[Sampler, list[float]]:
    """Seconds of drawing ``count`` samples with each (model, steps), one after another, repeatedly.

    The first of the students' turns warms them up and is not counted.
    """
    for name, steps in samplers[1:]:
        draw(models[name], count, steps, "ancestral", generator=0)
    seconds: dict[Sampler, list[float]] = {sampler: [] for sampler in samplers}
    for repeat in range(repeats):
        for name, steps in samplers:
            begin = time.perf_counter()
            draw(models[name], count, steps, "ancestral", generator=repeat)
            seconds[name, steps].append(time.perf_counter() - begin)
    return seconds


def speed_rows(
    found: Sequence[Speed],
    seconds: Mapping[Sampler, Sequence[float]],
    single: Mapping[Sampler, Sequence[float]],
    count: int,
    length: int,
) -> Rows:
    """A row a student: steps, quality, samples per second, and the ratios to the teacher.

    A ratio is taken within each turn; its median, least and most are kept. ``seconds`` are of turns
    of ``count`` samples, ``single`` of turns of one.
    """
    rows = []
    for speed in found:
        mine = seconds[speed.student, speed.steps]
        rows.append(
            {
                "student": speed.student,
                "reached": speed.reached,
                "steps": speed.steps,
                "quality": speed.quality,
                "length": length,
                "samples_per_second": count / sorted(mine)[len(mine) // 2],
                **_ratios("ratio", found[0], speed, seconds),
                **_ratios("single_ratio", found[0], speed, single),
            }
        )
    return rows


def _ratios(
    name: str, standard: Speed, speed: Speed, seconds: Mapping[Sampler, Sequence[float]]
) -> dict[str, float]:
    theirs = seconds[standard.student, standard.steps]
    mine = seconds[speed.student, speed.steps]
    ratios = sorted(their / own for their, own in zip(theirs, mine, strict=True))
    middle = ratios[len(ratios) // 2]
    return {name: middle, f"{name}_least": ratios[0], f"{name}_most": ratios[-1]}


def measured(
    found: Sequence[Speed],
    models: Mapping[str, Denoiser],
    count: int,
    repeats: int,
    length: int,
) -> Rows:
    """Time the samplers of ``found`` in turns of ``count`` samples, then of one."""
    samplers = [(speed.student, speed.steps) for speed in found]
    many, single = (in_turns(models, samplers, size, repeats) for size in (count, 1))
    return speed_rows(found, many, single, count, length)


@dataclass
class Config(Options):
    """Time the students at the teacher's quality, in turns with the teacher.

    Attributes:
        names: file with one name of a–z per line; without it the names are left out.
        text: text file; built-in text without it.
        count: samples in each turn.
        repeats: turns.
    """

    names: Path | None = None
    text: Path | None = None
    count: int = 128
    repeats: int = 3


def text_speed(corpus: str, content: Content, config: Config) -> Rows:
    """Names or running text, from the seed that every student has."""
    points = points_of(content["rows"], "matched_nll")
    most = max(p.steps for p in points if p.student == TEACHER)
    found = speed_at_quality(points, most)
    sizes = SIZES[corpus]
    data = load_corpus(corpus, sizes, config.names, config.text)
    shop = Workshop(corpus, data, sizes, content["seed"], config.runs, Clock())
    models = {s.student: load(shop.folder(s.student) / "model") for s in found}
    return measured(found, models, config.count, config.repeats, sizes.length)


def digits_speed(content: Content, config: Config) -> Rows:
    """Digits, by Fréchet distance; models of the first seed."""
    rows = [Row(**row) for row in content["rows"]]
    found = speed_at_quality(points_of_results(rows, "frechet", DigitSizes().samples))
    places = folders(DigitSizes(), content["seed"], config.runs)
    models = {s.student: load(places[s.student] / "model") for s in found}
    return measured(found, models, config.count, config.repeats, load_data("digits").length)


def measure(config: Config) -> Content:
    """Every corpus that has a result in ``--out``."""
    speeds: dict[str, Rows] = {}
    for corpus in ("names", "text", "digits"):
        name = "digits" if corpus == "digits" else f"text_students_{corpus}"
        path = config.out / f"{name}.json"
        if not path.is_file() or (corpus == "names" and config.names is None):
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        if corpus == "digits":
            speeds[corpus] = digits_speed(content, config)
        else:
            speeds[corpus] = text_speed(corpus, content, config)
        for row in speeds[corpus]:
            what = f"{row['ratio']:.1f}×" if row["reached"] else "not as good"
            print(f"  {corpus}: {row['student']} at {row['steps']} steps: {what}")
    return {"samples": config.count, "turns": config.repeats, "speeds": speeds}


if __name__ == "__main__":
    main("student_speed", Config, measure)
