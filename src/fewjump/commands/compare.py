"""``fewjump compare``: several students of one teacher, trained and judged under one protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewjump.commands import distill
from fewjump.commands.compare_budget import cost_of, steps_within, tried
from fewjump.commands.compare_plan import (
    NETWORK,
    Network,
    Plan,
    check_student,
    network_alone,
    read_plan,
    student_options,
    told_of,
    untrained,
)
from fewjump.commands.compare_problem import EXACT, TEACHER, open_problem, trained
from fewjump.commands.evaluate import judge_facts, meter_for
from fewjump.commands.shared import document_values, make_sampler
from fewjump.config import read_yaml
from fewjump.files import check_file_writable, write_text
from fewjump.lock import sole_writer
from fewjump.reading import reading_values

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.denoiser import Denoiser
    from fewjump.evaluate.bootstrap import Interval
    from fewjump.evaluate.meter import DataMeter
    from fewjump.report import Row, Table
    from fewjump.sampler import Sampler


@dataclass
class Options:
    """Train several students of one teacher under one budget, and judge all under one protocol.

    The plan is a YAML file: teacher and data, or problem, a law that is known, network, the sizes
    of its students, and teacher, how a network learns from its draws, if the exact posterior shall
    not be the teacher; steps, teacher_steps, seeds, samples; shared, what `fewjump distill` is
    told for all students; students, a name for each and what else it is told; models, names and
    places of models that others trained; samplers, a name and the sampler, sampler-options and grid
    of other ways to sample the teacher; autoregressive, how a network of the teacher's size is
    trained on the data alone. Each student is trained in OUT/students/NAME/SEED, and what is
    finished is not made again: the same command goes on where it was stopped. rows.json has every
    number by seed, results.json their means with intervals, report.html charts of quality against
    evaluations, times, costs, and a verdict wherever intervals separate.

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
        sampler: that steps it; None for the model's default.
        steps: numbers of steps.
        grid: spacing of the steps.
        make: its denoiser by seed, and what that took.
    """

    name: str
    sampler: Sampler | None
    grid: Any
    steps: list[int]
    make: Callable[[int], tuple[Denoiser, dict[str, Any]]]


def run(options: Options) -> int:
    from fewjump.denoiser.left_to_right import sized
    from fewjump.denoiser.network import parameter_counts
    from fewjump.publish.models import check_alike, open_data_like, open_model, open_models
    from fewjump.report import from_results, machine_facts, write, write_results
    from fewjump.sampler.run import check_budgets
    from fewjump.train.setup import weights_checksum

    content = read_yaml(options.plan)
    plan, students, models, samplers, network, problem = read_plan(content, str(options.plan))
    here = {"progress": options.progress, "device": options.device}
    made = {}
    for name, own in students.items():
        for seed in plan.seeds:
            more = ["--out", str(options.out / "students" / name / str(seed))]
            more += ["--device", options.device, *([] if options.progress else ["--no-progress"])]
            made[name, seed] = student_options(plan, own, seed, more, f"{options.plan}: {name}")
    ways = {
        name: (make_sampler(one.sampler, one.sampler_options), one.grid)
        for name, one in samplers.items()
    }
    places, given, exact = [Path(place) for place in models.values()], None, None
    if problem is not None:
        with told_of(f"{options.plan}: problem"):
            given, meter, exact, alike = open_problem(problem, plan.samples)
        teacher, data = given.teacher, given.data
        others = open_models(places, options.device)
    else:
        places = [Path(plan.teacher), *places]
        teacher, *others = open_models(places, options.device, reading_values(plan))
        documents = document_values(plan)
        data = open_data_like(teacher, plan.data, plan.kind, plan.length, **documents)
        meter, alike = meter_for(data, plan, options.device), teacher.denoiser
    check_alike([teacher, *others], data)
    long = plan.teacher_steps or plan.steps
    for name, (way, grid) in ways.items():
        if name not in students:
            with told_of(f"{options.plan}: {name}"):
                check_budgets(teacher.denoiser, long, way, grid, data.length)
    if network is not None:
        with told_of(f"{options.plan}: autoregressive"):
            sized(data.vocab_size, parameter_counts(alike)["total"], network.layers)
        network = network._replace(training=replace(network.training, **here))
    learned = None if problem is None else problem.training
    if given is not None and learned is not None:
        place = options.out / TEACHER
        if not (place / "model").exists():
            for name in students:
                with told_of(f"{options.plan}: {name}"):
                    check_student(made[name, plan.seeds[0]], given)
        given = trained(given, replace(learned, **here), place)
        teacher = given.teacher
    trials = options.out / "trials.json"
    found = json.loads(trials.read_text(encoding="utf-8")) if trials.is_file() else {}
    budgeted = plan.teacher_evaluations is not None
    about = [weights_checksum(teacher.denoiser), *_held_by(data)] if budgeted else []
    for name in students:
        mine = [key for key in made if key[0] == name]
        with told_of(f"{options.plan}: {name}"):
            asked = None
            if plan.teacher_evaluations is not None:
                asked = tried(made[mine[0]], found, about, given)
                steps = steps_within(plan.teacher_evaluations, made[mine[0]], asked)
                for key in mine:
                    training = replace(made[key].training, steps=steps)
                    made[key] = replace(made[key], training=training)
            # Seeds differ in nothing that is checked, but for what lies in their folders; what was
            # tried has been begun.
            for key in {made[key].out.exists(): key for key in reversed(mine)}.values():
                if asked is None or made[key].out.exists():
                    check_student(made[key], given)
            if ways[name] != (None, None):
                sizes = None if given is None else given.network
                begun = untrained(made[mine[0]], teacher.denoiser, data.length, sizes)
                check_budgets(begun, plan.steps, *ways[name], data.length)

    def student(name: str) -> Callable[[int], tuple[Denoiser, dict[str, Any]]]:
        def make(seed: int) -> tuple[Denoiser, dict[str, Any]]:
            distill.run(made[name, seed], given=given)
            folder = made[name, seed].out
            return open_model(folder / "model", options.device).denoiser, cost_of(folder)

        return make

    entries = [Entry(TEACHER, None, None, long, lambda _: (teacher.denoiser, {}))]
    if exact is not None and exact is not teacher.denoiser:
        entries.append(Entry(EXACT, None, None, long, lambda _: (exact, {})))
    entries += [
        Entry(name, way, grid, long, lambda _: (teacher.denoiser, {}))
        for name, (way, grid) in ways.items()
        if name not in students
    ]
    entries += [
        Entry(name, None, None, plan.steps, lambda _, model=model: (model.denoiser, {}))
        for name, model in zip(models, others)
    ]
    entries += [Entry(name, *ways[name], plan.steps, student(name)) for name in students]
    if network is not None:
        # What is drawn position by position needs no second step.
        place = options.out / "autoregressive"

        def alone(seed: int, chosen: Network = network) -> tuple[Denoiser, dict[str, Any]]:
            return network_alone(alike, data, chosen, seed, place / str(seed))

        entries.append(Entry(NETWORK, None, None, [1], alone))
    target = None
    if plan.matched_entropy and meter.matched is not None:
        reference = data.all("test", plan.samples or meter.num_samples)
        target = meter.measure(reference)[meter.matched[1]].value
    with sole_writer(options.out):
        for name in ("rows.json", "results.json", "report.html"):
            check_file_writable(options.out / name)
        if found:
            write_text(trials, json.dumps(found, indent=1) + "\n")
        tidy, costs = [], []
        if learned is not None:
            cost = cost_of(options.out / TEACHER)
            costs.append({"model": TEACHER, "seed": learned.seed, **cost})
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
            "teacher": plan.teacher if learned is None else f"trained on draws; {plan.teacher}",
            "samples": plan.samples or len(data.test),
            "seeds": ", ".join(map(str, plan.seeds)),
            **judge_facts(meter),
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


def _held_by(data: Dataset) -> list[list[int]]:
    """What the data hold, told by a checksum: a file of the same name may be another one by now."""
    from fewjump.train.data import TokenData

    parts = (data.train, data.test)
    return [TokenData(part, data.vocab_size, 0).fingerprint() for part in parts]


def _measured(
    options: Options,
    plan: Plan,
    entry: Entry,
    denoiser: Denoiser,
    meter: DataMeter,
    seed: int,
    target: float | None,
) -> list[dict[str, Any]]:
    """The rows of one model and seed, measured once for its weights and these data.

    ``target`` is the variety at which quality is matched; None leaves that out.
    """
    from fewjump.evaluate import quality
    from fewjump.progress import tell
    from fewjump.train.setup import weights_checksum

    parts = _held_by(meter.dataset)
    way = denoiser.samplers if entry.sampler is None else entry.sampler.label
    about = [way, entry.grid, entry.steps, plan.samples, plan.matched_entropy]
    about += judge_facts(meter).values()
    if plan.judge is not None:
        about += [plan.judge_tokenizer]
    if next(denoiser.parameters(), None) is None:
        # An exact posterior is known by what it is of.
        about += [plan.teacher]
    text = json.dumps([*about, weights_checksum(denoiser), parts], default=str)
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

        found = matched(enclosing(measure, target, variety=variety), target, metric, variety)
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
        # A sampler that was learned is another one for each seed.
        groups.setdefault((row.model, row.steps, row.metric), []).append(row)
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
        slow = max((r for r in mine if r.model == TEACHER), key=lambda r: r.nfe or 0, default=None)
        for row in mine:
            # What is known of one evaluation may not be known of the teacher's numbers of steps.
            if slow is None or row.model == TEACHER:
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


def cost_table(costs: list[dict[str, Any]]) -> list[Table]:
    """What the students took to train."""
    from fewjump.report import Table

    columns = ("model", "seed", "steps", "batch_size", "teacher_evaluations", "seconds")
    lines = [tuple(cost[name] for name in columns) for cost in costs]
    heads = ("student", "seed", "optimiser steps", "batch size", "teacher evaluations", "seconds")
    return [Table("Cost of training", heads, lines)] if lines else []
