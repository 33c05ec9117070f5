"""``fewjump compare``: several students of one teacher, trained and judged under one protocol."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewjump.commands import distill
from fewjump.commands.arguments import flags_of, parse
from fewjump.commands.evaluate import meter_for
from fewjump.commands.shared import (
    DataKindName,
    DocumentOptions,
    check_draws,
    document_values,
    make_sampler,
)
from fewjump.config import changed, options_of, read_yaml
from fewjump.files import check_file_writable, write_text
from fewjump.lock import sole_writer
from fewjump.reading import ReadingOptions, reading_values

if TYPE_CHECKING:
    from fewjump.denoiser import Denoiser
    from fewjump.evaluate.bootstrap import Interval
    from fewjump.evaluate.meter import DataMeter
    from fewjump.report import Row, Table
    from fewjump.sampler import Sampler

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")
TEACHER = "teacher"


@dataclass(kw_only=True)
class Plan(ReadingOptions, DocumentOptions):
    """What is compared: the content of the plan file.

    How a teacher and documents are read is said as for `fewjump distill`.

    Attributes:
        teacher: what `fewjump sample` takes.
        data: what the teacher learned from; its test part is the reference.
        kind, length: how to read it.
        steps: numbers of steps that students are judged at.
        teacher_steps: those of the teacher; ``steps`` by default.
        seeds: trainings of every student; of the teacher, which is trained already, sets of
            samples.
        samples: of each measurement; as many as the test part has by default.
        matched_entropy: of texts and tokens: also sample at the temperatures that enclose the
            entropy of the test part, and say what the judge's nll is there.
        teacher_evaluations: what every student may ask of the teacher, in evaluations of one
            sequence: it is trained for as many steps as that allows. A student that asks nothing
            takes its own ``steps``.
    """

    teacher: str = ""
    data: str = ""
    kind: DataKindName = "auto"
    length: int | None = None
    steps: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    teacher_steps: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    samples: int | None = None
    matched_entropy: bool = True
    teacher_evaluations: int | None = None

    def check(self) -> None:
        """Raise ValueError for what is missing or cannot be."""
        for name in ("teacher", "data"):
            if not getattr(self, name):
                raise ValueError(f"the plan needs {name}: …")
        check_draws([*self.steps, *self.teacher_steps], self.samples, "samples")
        if self.teacher_evaluations is not None and self.teacher_evaluations < 1:
            raise ValueError(
                f"teacher_evaluations must be at least 1, got {self.teacher_evaluations}"
            )
        for name in ("steps", "teacher_steps", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or (not values and name != "teacher_steps"):
                raise ValueError(f"{name} must name at least one number, each once; got {values}")


_READING = [one.name for part in (ReadingOptions, DocumentOptions) for one in options_of(part)]
#: The plan says these for every student.
_SHARED = ("teacher", "data", "kind", "length", "out", "seed", "device", *_READING)


@dataclass
class Options:
    """Train several students of one teacher under one budget, and judge all under one protocol.

    The plan is a YAML file: teacher, data, steps, teacher_steps, seeds, samples; shared, what
    `fewjump distill` is told for all students; students, a name for each and what else it is told;
    models, names and places of models that others trained; samplers, a name and the sampler,
    sampler-options and grid of other ways to sample the teacher. Each student is trained in
    OUT/students/NAME/SEED, and what is finished is not made again: the same command goes on where
    it was stopped. rows.json has every number by seed, results.json their means with intervals,
    report.html charts of quality against evaluations, times, costs, and a verdict wherever
    intervals separate.

    Attributes:
        plan: the plan file.
        out: folder of the comparison.
        device: where to compute.
        progress: say what is being done.
    """

    plan: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("runs/comparison")
    device: str = "cpu"
    progress: bool = True


@dataclass(frozen=True)
class Entry:
    """One thing that is judged.

    Attributes:
        name: of it.
        sampler: that steps it.
        steps: numbers of steps.
        grid: spacing of the steps.
        make: its denoiser by seed, and what that took.
    """

    name: str
    sampler: Sampler
    grid: Any
    steps: list[int]
    make: Callable[[int], tuple[Denoiser, dict[str, Any]]]


def run(options: Options) -> int:
    from fewjump.publish.models import check_alike, open_data_like, open_model, open_models
    from fewjump.report import from_results, machine_facts, write, write_results

    content = read_yaml(options.plan)
    plan, students, models, samplers = read_plan(content, str(options.plan))
    made = {
        (name, seed): _student_options(options, plan, name, words, seed)
        for name, words in students.items()
        for seed in plan.seeds
    }
    for chosen in made.values():
        distill.objective_of(chosen)
    ways = {
        name: (make_sampler(one.get("sampler", "ancestral"), one["sampler_options"]), one["grid"])
        for name, one in samplers.items()
    }
    places = [Path(place) for place in (plan.teacher, *models.values())]
    teacher, *others = opened = open_models(places, options.device, reading_values(plan))
    documents = document_values(plan)
    data = open_data_like(teacher, plan.data, plan.kind, plan.length, **documents)
    check_alike(opened, data)
    meter = meter_for(data)

    def student(name: str) -> Callable[[int], tuple[Denoiser, dict[str, Any]]]:
        def make(seed: int) -> tuple[Denoiser, dict[str, Any]]:
            if plan.teacher_evaluations is not None:
                made[name, seed] = within(plan.teacher_evaluations, made[name, seed])
            distill.run(made[name, seed])
            folder = made[name, seed].out
            return open_model(folder / "model", options.device).denoiser, cost_of(folder)

        return make

    ancestral = make_sampler("ancestral", [])
    long = plan.teacher_steps or plan.steps
    entries = [Entry(TEACHER, ancestral, None, long, lambda _: (teacher.denoiser, {}))]
    entries += [
        Entry(name, way, grid, long, lambda _: (teacher.denoiser, {}))
        for name, (way, grid) in ways.items()
    ]
    entries += [
        Entry(name, ancestral, None, plan.steps, lambda _, model=model: (model.denoiser, {}))
        for name, model in zip(models, others)
    ]
    entries += [Entry(name, ancestral, None, plan.steps, student(name)) for name in students]
    target = None
    if plan.matched_entropy and meter.matched is not None:
        reference = data.all("test", plan.samples or meter.num_samples)
        target = meter.measure(reference)[meter.matched[1]].value
    with sole_writer(options.out):
        for name in ("rows.json", "results.json", "report.html"):
            check_file_writable(options.out / name)
        tidy, costs = [], []
        for entry in entries:
            for seed in plan.seeds:
                denoiser, cost = entry.make(seed)
                tidy += _measured(options, plan, entry, denoiser, meter, seed, target)
                if cost:
                    costs.append({"model": entry.name, "seed": seed, **cost})
        write_text(options.out / "rows.json", json.dumps(tidy, indent=1) + "\n")
        rows = [*over_seeds_of(tidy), *meter.reference()]
        facts = {
            "data": data.description,
            "teacher": plan.teacher,
            "samples": plan.samples or len(data.test),
            "seeds": ", ".join(map(str, plan.seeds)),
            "costs": costs,
            "machine": machine_facts(),
        }
        path = write_results(options.out, rows, facts)
        page = from_results(
            rows,
            title="Students of one teacher, compared",
            tables=[*verdicts(rows), *suspects(rows), *cost_table(costs)],
            facts={k: v for k, v in facts.items() if k != "costs"},
        )
        print(f"results: {path}\nreport: {write(page, options.out)}")
    return 0


def read_plan(
    content: Any, where: str
) -> tuple[Plan, dict[str, dict[str, Any]], dict[str, str], dict[str, dict[str, Any]]]:
    """A plan, and by name the options of students, the places of models, and the samplers.

    Raises:
        ValueError: for what is no plan, with the place.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a plan: teacher, data, students, … as name: value")
    parts: dict[str, dict[str, Any]] = {}
    rest = {str(key).replace("-", "_"): value for key, value in content.items()}
    for part in ("shared", "students", "models", "samplers"):
        found = rest.pop(part, None) or {}
        if not isinstance(found, dict):
            raise ValueError(f"{where}: {part} must hold name: value lines")
        parts[part] = found
    try:
        (plan,) = changed(rest, Plan())
        plan.check()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    students = {
        name: {**_normal(parts["shared"], where, "shared"), **_normal(own, where, name)}
        for name, own in parts["students"].items()
    }
    models = parts["models"]
    if not all(isinstance(place, str) for place in models.values()):
        raise ValueError(f"{where}: models must be lines of name: what `fewjump sample` takes")
    names = [*students, *models, *parts["samplers"]]
    for name in names:
        if not _NAME.fullmatch(str(name)) or name == TEACHER:
            raise ValueError(
                f"{where}: {name!r} cannot be a name here; take letters, digits and ' ._+-', and "
                f"not {TEACHER}"
            )
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"{where}: {', '.join(twice)} stands for two things")
    if not names:
        raise ValueError(f"{where} names no students:, models: or samplers: to compare")
    samplers = {}
    for name, own in parts["samplers"].items():
        one = {"sampler_options": [], "grid": None, **_normal(own, where, name)}
        if unknown := set(one) - {"sampler", "sampler_options", "grid"}:
            raise ValueError(
                f"{where}: {name} has {', '.join(sorted(unknown))}; a sampler has sampler, "
                "sampler-options and grid"
            )
        samplers[name] = one
    for name, own in students.items():
        if shared := [key for key in own if key in _SHARED]:
            raise ValueError(f"{where}: {', '.join(shared)} of {name} is for the plan to say")
    return plan, students, models, samplers


def _normal(options: Any, where: str, name: str) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ValueError(f"{where}: {name} must hold options as name: value lines")
    return {str(key).replace("-", "_"): value for key, value in options.items()}


def _student_options(
    options: Options, plan: Plan, name: str, own: dict[str, Any], seed: int
) -> distill.Options:
    """What `fewjump distill` is told for one student and seed."""
    values = {one.name: getattr(plan, one.field) for one in options_of(Plan)}
    reading = {key: values[key] for key in _READING if values[key] is not None}
    words = flags_of(distill.Options, {**own, **reading}, f"{options.plan}: {name}")
    words += ["--teacher", plan.teacher, "--data", plan.data, "--kind", plan.kind]
    words += [] if plan.length is None else ["--length", str(plan.length)]
    words += ["--out", str(options.out / "students" / name / str(seed)), "--seed", str(seed)]
    words += ["--device", options.device, *([] if options.progress else ["--no-progress"])]
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return parse(distill.Options, words, "fewjump distill")
    except SystemExit:
        line = told.getvalue().strip().removeprefix("fewjump: ")
        raise ValueError(f"{options.plan}: {name}: {line}") from None


def within(budget: int, student: distill.Options) -> distill.Options:
    """A student's options with as many optimiser steps as its teacher evaluations allow.

    What one step asks is found by a trial of a few; it does not depend on how far training is.

    Raises:
        ValueError: for a budget that is less than one step of each round.
    """
    from fewjump.train import read_metrics

    training = student.training
    rounds = len(distill.objective_of(student).in_rounds())
    with TemporaryDirectory() as folder:
        short = replace(training, steps=rounds, warmup=0, progress=False, monitor=False)
        with redirect_stdout(io.StringIO()):
            distill.run(replace(student, out=Path(folder), training=short))
        asked = [line for line in read_metrics(folder) if "loss" in line][-1]["teacher_evaluations"]
    if not asked:
        return student
    steps = int(budget / (asked * training.batch_size))
    if steps < rounds:
        raise ValueError(
            f"{student.out}: teacher_evaluations: {budget} is less than the "
            f"{asked * training.batch_size * rounds:.0f} of its first steps"
        )
    return replace(student, training=replace(training, steps=steps))


def _measured(
    options: Options,
    plan: Plan,
    entry: Entry,
    denoiser: Denoiser,
    meter: DataMeter,
    seed: int,
    target: float | None,
) -> list[dict[str, Any]]:
    """The rows of one model and seed, measured once for the weights that it has.

    ``target`` is the variety at which quality is matched; None leaves that out.
    """
    from fewjump.evaluate import quality
    from fewjump.progress import tell
    from fewjump.train.setup import weights_checksum

    about = [entry.sampler.label, entry.grid, entry.steps, plan.samples, plan.matched_entropy]
    text = json.dumps([*about, weights_checksum(denoiser), plan.data], default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    place = options.out / "measured" / entry.name / f"{seed}-{key}.json"
    if not place.is_file():
        rows = quality(
            denoiser,
            meter,
            entry.steps,
            entry.sampler,
            plan.samples,
            (seed,),
            model=entry.name,
            grid=entry.grid,
            progress=tell if options.progress else None,
        )
        if target is not None:
            rows += _matched(entry, denoiser, meter, plan.samples, seed, target, rows)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    found = json.loads(place.read_text(encoding="utf-8"))
    return [{"seed": seed, **row} for row in found]


def _matched(
    entry: Entry,
    denoiser: Denoiser,
    meter: DataMeter,
    samples: int | None,
    seed: int,
    target: float,
    rows: list[Row],
) -> list[Row]:
    """A row for each number of steps: quality where variety is ``target``."""
    from fewjump.evaluate.meter import as_result, classes_in_turn
    from fewjump.evaluate.text import enclosing, matched
    from fewjump.sampler import run as draw

    assert meter.matched is not None
    metric, variety = meter.matched
    count = samples or meter.num_samples
    out = []
    for steps in entry.steps:

        def measure(temperature: float, steps: int = steps) -> Mapping[str, Interval]:
            result = draw(
                denoiser,
                count,
                steps,
                entry.sampler,
                entry.grid,
                seed,
                temperature=temperature,
                **meter.given(denoiser, count),
                **classes_in_turn(denoiser, count, None),
            )
            return meter.measure(result.samples.cpu(), seed)

        found = matched(enclosing(measure, target), target, metric)
        same = next(row for row in rows if row.steps == steps)
        if found is not None:
            name = f"{metric}_at_matched_{variety}"
            about = (entry.name, same.sampler, steps, same.nfe, same.seconds)
            out.append(as_result(found, name, *about))
    return out


def over_seeds_of(tidy: list[dict[str, Any]]) -> list[Row]:
    """Means over seeds with their intervals: one row for each model, number of steps and metric."""
    from fewjump.evaluate.meter import mean_over_seeds
    from fewjump.report.content import as_row

    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in map(as_row, tidy):
        groups.setdefault((row.model, row.sampler, row.steps, row.metric), []).append(row)
    return [mean_over_seeds(rows) for rows in groups.values()]


def verdicts(rows: list[Row]) -> list[Table]:
    """Every student against the teacher at its most evaluations, where a metric has a direction."""
    from fewjump.report import Table
    from fewjump.report.build import metric_called

    lines = []
    sampled = [row for row in rows if not row.is_reference]
    for metric in dict.fromkeys(row.metric for row in sampled):
        direction = metric_called(metric).better
        if direction is None:
            continue
        mine = [row for row in sampled if row.metric == metric]
        slow = max((r for r in mine if r.model == TEACHER), key=lambda r: r.nfe or 0)
        for row in mine:
            if row.model == TEACHER:
                continue
            (low, high), (slow_low, slow_high) = row.ends, slow.ends
            below, above = high < slow_low, low > slow_high
            better, worse = (below, above) if direction == "lower" else (above, below)
            answer = "better" if better else "worse" if worse else "intervals overlap"
            lines.append((row.model, row.nfe, metric, row.value, slow.value, slow.nfe, answer))
    columns = ("model", "NFE", "metric", "value", "teacher", "its NFE", "verdict")
    caption = (
        "Against the teacher at its most evaluations. Samples at one temperature: look at entropy "
        "or recall beside quality before you call one better."
    )
    return [Table("Verdicts", columns, lines, caption)] if lines else []


def suspects(rows: list[Row]) -> list[Table]:
    """Samples that repeat, copy or lack variety, by intervals that lie apart from real data's.

    A judge likes what is likelier than the data: periodic text, one sequence over and over, shaped
    logits, training data. Each of them is on the wrong side of the data in some metric.
    """
    from fewjump.report import Table
    from fewjump.report.build import metric_called

    real = {row.metric: row for row in rows if row.is_reference}
    lines = []
    for row in rows:
        data = real.get(row.metric) or real.get(row.metric.partition("_at_")[0])
        side = metric_called(row.metric).suspect
        if row.is_reference or data is None or side is None:
            continue
        (low, high), (data_low, data_high) = row.ends, data.ends
        if high < data_low if side == "below" else low > data_high:
            lines.append((row.model, row.nfe, row.metric, row.value, data.value, side))
    columns = ("model", "NFE", "metric", "value", "data", "side")
    caption = (
        "Where samples lie on that side of real data on which a generator is degenerate: it "
        "repeats itself, copies, lacks variety, or pleases the judge more than real data do. What "
        "stands here is not better for it, whatever its verdict."
    )
    return [Table("Degenerate?", columns, lines, caption)] if lines else []


def cost_of(folder: Path) -> dict[str, Any]:
    """What a student took, all rounds together: optimiser steps, teacher evaluations, seconds.

    An evaluation is that of one sequence.
    """
    from fewjump.checkpoint import read_config
    from fewjump.runs import ROUNDS

    parts = [*sorted((folder / ROUNDS).glob("*")), folder]
    trainings = [read_config(part / "model")["training"] for part in parts]
    batch = trainings[-1]["batch_size"]
    return {
        "steps": sum(one["steps"] for one in trainings),
        "batch_size": batch,
        "teacher_evaluations": round(batch * sum(map(_asked, parts))),
        "seconds": round(sum(one["seconds"] or 0.0 for one in trainings), 1),
    }


def _asked(folder: Path) -> float:
    """How often a training asked its teacher for each sequence of a batch, over all steps."""
    from fewjump.train import read_metrics

    total, before = 0.0, 0
    for line in read_metrics(folder):
        if "loss" in line:
            # A line holds the mean over the steps since the last one.
            total += line.get("teacher_evaluations", 0.0) * (line["step"] - before)
            before = line["step"]
    return total


def cost_table(costs: list[dict[str, Any]]) -> list[Table]:
    """What the students took to train."""
    from fewjump.report import Table

    columns = ("model", "seed", "steps", "batch_size", "teacher_evaluations", "seconds")
    lines = [tuple(cost[name] for name in columns) for cost in costs]
    heads = ("student", "seed", "optimiser steps", "batch size", "teacher evaluations", "seconds")
    return [Table("Cost of training", heads, lines)] if lines else []
