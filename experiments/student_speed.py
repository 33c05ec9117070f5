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

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.text_sizes import SIZES, load_corpus
from experiments.text_students import Workshop
from experiments.wall_clock import (
    TEACHER,
    Speed,
    points_of,
    points_of_results,
    speed_at_quality,
)
from fewjump.checkpoint import load
from fewjump.data import load_data
from fewjump.demo.digits import Sizes as DigitSizes
from fewjump.demo.parts import Clock
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.frontier import Row
from fewjump.sampler import run as draw
from fewjump.verify.results import Experiment

Sampler = tuple[str, int]


def in_turns(
    models: Mapping[str, Denoiser], samplers: Sequence[Sampler], count: int, repeats: int
) -> dict[Sampler, list[float]]:
    """Seconds of drawing ``count`` samples with each (model, steps), one after another, repeatedly.

    The first of the students' turns warms them up and is not counted.
    """
    for name, steps in samplers[1:]:
        draw(models[name], count, steps, generator=0)
    seconds: dict[Sampler, list[float]] = {sampler: [] for sampler in samplers}
    for repeat in range(repeats):
        for name, steps in samplers:
            begin = time.perf_counter()
            draw(models[name], count, steps, generator=repeat)
            seconds[name, steps].append(time.perf_counter() - begin)
    return seconds


def speed_rows(
    found: Sequence[Speed],
    seconds: Mapping[Sampler, Sequence[float]],
    single: Mapping[Sampler, Sequence[float]],
    count: int,
    length: int,
) -> list[dict[str, Any]]:
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
) -> list[dict[str, Any]]:
    """Time the samplers of ``found`` in turns of ``count`` samples, then of one."""
    samplers = [(speed.student, speed.steps) for speed in found]
    many, single = (in_turns(models, samplers, size, repeats) for size in (count, 1))
    return speed_rows(found, many, single, count, length)


def text_speed(corpus: str, options: argparse.Namespace, results: Path) -> list[dict[str, Any]]:
    """Names or running text, from the seed that every student has."""
    content = json.loads((results / f"text_students_{corpus}.json").read_text())
    points = points_of(content["rows"], "matched_nll")
    most = max(p.steps for p in points if p.student == TEACHER)
    found = speed_at_quality(points, most)
    sizes = SIZES[corpus]
    data = load_corpus(corpus, sizes, options.names, options.text)
    shop = Workshop(corpus, data, sizes, content["seed"], options.runs, Clock({}))
    models = {s.student: load(shop.folder(s.student) / "model") for s in found}
    return measured(found, models, options.count, options.repeats, sizes.length)


def digits_speed(options: argparse.Namespace, results: Path) -> list[dict[str, Any]]:
    """Digits, by Fréchet distance; models of the first seed."""
    content = json.loads((results / "digits.json").read_text())
    rows = [Row(**row) for row in content["rows"]]
    found = speed_at_quality(points_of_results(rows, "frechet", DigitSizes().samples))
    folders = {TEACHER: "teacher", "product student": "product", "joint student": "joint"}
    models = {
        s.student: load(options.runs / f"digits-{folders[s.student]}-{content['seed']}" / "model")
        for s in found
    }
    return measured(found, models, options.count, options.repeats, load_data("digits").length)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment alone."""
    parser.add_argument("--names", type=Path, help="file with one name of a–z per line")
    parser.add_argument("--text", type=Path, help="text file; built-in text without it")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the models")
    parser.add_argument("--count", type=int, default=128, help="samples in each turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns")


def main() -> None:
    experiment = Experiment("student_speed", add=add_options)
    options, results = experiment.options, experiment.folder
    speeds: dict[str, list[dict[str, Any]]] = {}
    for corpus in ("names", "text"):
        if corpus == "names" and options.names is None:
            continue
        if (results / f"text_students_{corpus}.json").is_file():
            speeds[corpus] = text_speed(corpus, options, results)
    if (results / "digits.json").is_file():
        speeds["digits"] = digits_speed(options, results)
    for corpus, rows in speeds.items():
        for row in rows:
            what = f"{row['ratio']:.1f}×" if row["reached"] else "not as good"
            print(f"  {corpus}: {row['student']} at {row['steps']} steps: {what}")
    experiment.save({"samples": options.count, "turns": options.repeats, "speeds": speeds})


if __name__ == "__main__":
    main()
