"""``fewjump compare``: several students of one teacher, trained and judged under one protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias, TypeVar

import tyro

from fewjump.commands import distill
from fewjump.commands.compare_budget import asks, cost_of, steps_within, sum_of, tried
from fewjump.commands.compare_measure import Entry, Judging, Making, held_by, over_seeds_of
from fewjump.commands.compare_plan import NETWORK, Contents, read_plan
from fewjump.commands.compare_problem import EXACT, TEACHER, open_problem, trained
from fewjump.commands.compare_training import (
    check_network,
    check_student,
    network_alone,
    student_options,
    untrained,
)
from fewjump.commands.evaluate import PAGE, RESULTS, ROWS, TRIALS, judge_facts, meter_for
from fewjump.commands.shared import document_values, make_sampler, told_of
from fewjump.config import read_yaml
from fewjump.files import check_file_writable, write_text
from fewjump.lock import sole_writer
from fewjump.options.training import TrainConfig
from fewjump.reading import reading_values

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.denoiser import Denoiser
    from fewjump.evaluate.meter import DataMeter
    from fewjump.publish.models import Model
    from fewjump.sampler import Sampler


@dataclass
class Options:
    """Train several students of one teacher under one budget, and judge all under one protocol.

    The plan is a YAML file (docs/comparing.md in the repository): teacher and data, or problem, a
    law that is known, with network and teacher; steps, teacher_steps, seeds, samples; students, a
    name for each and what `fewjump distill` is told, and shared, what it is told for all; models
    that others trained; samplers; autoregressive. Each student is trained in
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

    def here(self, training: TrainConfig) -> TrainConfig:
        """A training where, and as visibly, as the comparison is made."""
        return replace(training, progress=self.progress, device=self.device)


Made: TypeAlias = dict[tuple[str, int], distill.Options]
Ways: TypeAlias = "dict[str, tuple[Sampler | None, Any]]"
_Key = TypeVar("_Key")
_STUDENTS = "students"


class Opened(NamedTuple):
    """What a plan compares, ready to be learned from and judged.

    Attributes:
        teacher: with its vocabulary.
        data: of it.
        meter: the judge.
        alike: a network of the size that the autoregressive one gets.
        others: the plan's models, by name.
        given: teacher and data of `fewjump distill`, if no files hold them.
        exact: the exact posterior of a problem.
    """

    teacher: Model
    data: Dataset
    meter: DataMeter
    alike: Denoiser
    others: dict[str, Denoiser]
    given: distill.Given | None
    exact: Denoiser | None


def run(options: Options) -> int:
    contents = read_plan(read_yaml(options.plan), str(options.plan))
    plan = contents.plan
    more = ["--device", options.device, *([] if options.progress else ["--no-progress"])]
    made: dict[tuple[str, int], distill.Options] = {}
    for name, own in contents.students.items():
        for seed in plan.seeds:
            place = ["--out", str(_folder(options, name, seed)), *more]
            if name in contents.starts:
                place += ["--start", str(_folder(options, contents.starts[name], seed))]
            made[name, seed] = student_options(plan, own, seed, place, f"{options.plan}: {name}")
    ways: Ways = {}
    for name, one in contents.samplers.items():
        with told_of(f"{options.plan}: {name}"):
            ways[name] = make_sampler(one.sampler, one.sampler_options), one.grid
    _check_place(options.out)
    opened = _opened(options, contents)
    _check(options, contents, opened, ways)
    if contents.problem is not None and contents.problem.training is not None:
        opened = _taught(options, contents, opened, made, ways)
    trials = _check_students(options, contents, opened, made, ways)
    entries = _entries(options, contents, opened, made, ways)
    with sole_writer(options.out):
        for name in (ROWS, RESULTS, PAGE):
            check_file_writable(options.out / name)
        if trials:
            write_text(options.out / TRIALS, json.dumps(trials, indent=1) + "\n")
        _measure(options, contents, opened, entries)
    return 0


def _check_place(out: Path) -> None:
    """Refuse a folder that holds something else than a comparison."""
    from fewjump.runs import RUN_CONFIG

    if (out / RUN_CONFIG).exists() or (out / "model").exists():
        raise ValueError(f"{out} holds a training run or a model: give another --out")
    if (out / RESULTS).exists() and not (out / ROWS).exists():
        raise ValueError(f"{out} holds results that are no comparison's: give another --out")


def _folder(options: Options, name: str, seed: int) -> Path:
    """Where a student is trained."""
    return options.out / _STUDENTS / name / str(seed)


def _opened(options: Options, contents: Contents) -> Opened:
    from fewjump.publish.models import check_alike, open_data_like, open_models

    plan, problem = contents.plan, contents.problem
    places = [Path(place) for place in contents.models.values()]
    if problem is not None:
        with told_of(f"{options.plan}: problem"):
            given, meter, exact, alike = open_problem(problem, plan.samples)
        teacher, models = given.teacher, open_models(places, options.device)
        data = given.data
    else:
        places = [Path(plan.teacher), *places]
        given = exact = None
        teacher, *models = open_models(places, options.device, reading_values(plan))
        documents = document_values(plan)
        data = open_data_like(teacher, plan.data, plan.kind, plan.length, **documents)
        meter, alike = meter_for(data, plan, options.device), teacher.denoiser
    check_alike([teacher, *models], data)
    others = {name: model.denoiser for name, model in zip(contents.models, models)}
    return Opened(teacher, data, meter, alike, others, given, exact)


def _check(options: Options, contents: Contents, opened: Opened, ways: Ways) -> None:
    """Refuse samplers that do not fit the teacher, and an autoregressive network that cannot be."""
    from fewjump.sampler.arguments import check_budgets

    data, plan = opened.data, contents.plan
    for name, (way, grid) in ways.items():
        if (model := contents.drawn_by(name)) not in contents.students:
            denoiser = opened.others.get(model, opened.teacher.denoiser)
            steps = plan.steps if model in opened.others else plan.long
            with told_of(f"{options.plan}: {name}"):
                check_budgets(denoiser, steps, way, grid, data.length)
    if contents.network is not None:
        with told_of(f"{options.plan}: autoregressive"):
            places = {seed: _alone(options, seed) for seed in contents.plan.seeds}
            for seed in _unlike(places):
                check_network(opened.alike, data, contents.network, seed, places[seed])


def _taught(options: Options, contents: Contents, opened: Opened, made: Made, ways: Ways) -> Opened:
    """With a teacher that has learned from a problem's draws, once no student is refused."""
    assert opened.given is not None
    assert contents.problem is not None
    assert contents.problem.training is not None
    training, place = contents.problem.training, options.out / TEACHER
    if not (place / "model").exists() or _goes_on(training, place, options.out / _STUDENTS):
        for name in contents.students:
            with told_of(f"{options.plan}: {name}"):
                student = made[name, contents.plan.seeds[0]]
                check_student(student, opened.given, _stand_in(name, contents, opened, made))
            _check_ways(options, name, contents, opened, made, ways)
    given = trained(opened.given, options.here(training), place)
    return opened._replace(given=given, teacher=given.teacher)


def _goes_on(training: TrainConfig, place: Path, students: Path) -> bool:
    """Whether a teacher that is there is to be trained longer.

    Raises:
        ValueError: if students have learned from it.
    """
    from fewjump.checkpoint import read_config

    found, clock = read_config(place / "model")["training"], training.max_seconds
    done = found["steps"]
    if done >= training.steps or (clock is not None and found["seconds"] >= clock):
        return False
    if students.exists():
        raise ValueError(
            f"{place} has done {done} steps, and students in {students} learned from it; going on "
            f"to {training.steps} would make it another teacher: restore teacher: in the plan, or "
            "give another --out"
        )
    return True


def _unlike(places: dict[_Key, Path]) -> list[_Key]:
    """Of one model's seeds those to check: they differ in nothing but what lies in their folders.

    Args:
        places: the folder of each.
    """
    return list({places[key].exists(): key for key in reversed(places)}.values())


def _alone(options: Options, seed: int) -> Path:
    """Where an autoregressive network is trained."""
    return options.out / "autoregressive" / str(seed)


def _check_students(
    options: Options, contents: Contents, opened: Opened, made: Made, ways: Ways
) -> dict[str, float]:
    """Refuse what cannot be trained, and give each student the steps that the budget allows.

    Returns:
        What trials found, with those of earlier runs.
    """
    from fewjump.denoiser.wrappers import weights_checksum

    plan, given, denoiser = contents.plan, opened.given, opened.teacher.denoiser
    trials, found = options.out / TRIALS, {}
    spent: dict[str, int] = {}
    if trials.is_file():
        found = json.loads(trials.read_text(encoding="utf-8"))
    budgeted = plan.teacher_evaluations is not None
    about = [weights_checksum(denoiser), *held_by(opened.data)] if budgeted else []
    for name in contents.students:
        mine = [key for key in made if key[0] == name]
        with told_of(f"{options.plan}: {name}"):
            if plan.teacher_evaluations is not None:
                budget = contents.budgets.get(name, plan.teacher_evaluations)
                begun = _stand_in(name, contents, opened, made)
                asked = tried(made[mine[0]], found, about, given, begun)
                before = spent.get(contents.starts.get(name, ""), 0)
                steps = steps_within(budget, made[mine[0]], asked, before)
                for key in mine:
                    training = replace(made[key].training, steps=steps)
                    made[key] = replace(made[key], training=training)
                spent[name] = before + asks(made[mine[0]], asked)
            for key in _unlike({key: made[key].out for key in mine}):
                check_student(made[key], given, _stand_in(name, contents, opened, made, key[1]))
        _check_ways(options, name, contents, opened, made, ways)
    return found


def _stand_in(
    name: str, contents: Contents, opened: Opened, made: Made, seed: int | None = None
) -> Denoiser | None:
    """For what a student starts at, where that is yet to be trained: the same, untrained."""
    seed = contents.plan.seeds[0] if seed is None else seed
    before = contents.starts.get(name)
    if before is None or (made[before, seed].out / "model").exists():
        return None
    return _untrained(before, contents, opened, made)


def _line(name: str, contents: Contents) -> list[str]:
    """A student, what it starts at, and so on to the first."""
    line = [name]
    while line[-1] in contents.starts:
        line.append(contents.starts[line[-1]])
    return line


def _untrained(name: str, contents: Contents, opened: Opened, made: Made) -> Denoiser:
    """What a student is before any training."""
    *_, name = _line(name, contents)
    sizes = None if opened.given is None else opened.given.network
    student = made[name, contents.plan.seeds[0]]
    return untrained(student, opened.teacher.denoiser, opened.data.length, sizes)


def _check_ways(
    options: Options, student: str, contents: Contents, opened: Opened, made: Made, ways: Ways
) -> None:
    """Refuse samplers that do not fit the student that they draw from."""
    from fewjump.sampler.arguments import check_budgets

    for name, (way, grid) in ways.items():
        if contents.drawn_by(name) == student and (way, grid) != (None, None):
            with told_of(f"{options.plan}: {name}"):
                begun = _untrained(student, contents, opened, made)
                check_budgets(begun, contents.plan.steps, way, grid, opened.data.length)


def _entries(
    options: Options, contents: Contents, opened: Opened, made: Made, ways: Ways
) -> list[Entry]:
    """Teacher, models, students, other samplers of each, and the autoregressive network."""
    from fewjump.publish.models import open_model

    plan, students = contents.plan, contents.students

    def known(denoiser: Denoiser) -> Making:
        return lambda _: (denoiser, {})

    def finished(name: str) -> Making:
        places = {seed: made[name, seed].out / "model" for seed in plan.seeds}
        return lambda seed: (open_model(places[seed], options.device).denoiser, {})

    def student(name: str) -> Making:
        def make(seed: int) -> tuple[Denoiser, dict[str, Any]]:
            distill.run(made[name, seed], given=opened.given)
            costs = [cost_of(made[each, seed].out) for each in _line(name, contents)]
            return finished(name)(seed)[0], sum_of(costs)

        return make

    teacher = known(opened.teacher.denoiser)
    entries = [Entry(TEACHER, None, None, plan.long, teacher)]
    if opened.exact is not None and opened.exact is not opened.teacher.denoiser:
        entries.append(Entry(EXACT, None, None, plan.long, known(opened.exact)))

    def more(model: str, steps: list[int], make: Making) -> list[Entry]:
        """Other samplers of a model."""
        own = [name for name in ways if name not in students]
        mine = [name for name in own if contents.drawn_by(name) == model]
        return [Entry(name, *ways[name], steps, make) for name in mine]

    entries += more(TEACHER, plan.long, teacher)
    for name, model in opened.others.items():
        entries += [Entry(name, None, None, plan.steps, known(model))]
        entries += more(name, plan.steps, known(model))
    for name in students:
        entries += [Entry(name, *ways[name], plan.steps, student(name))]
        entries += more(name, plan.steps, finished(name))
    if contents.network is not None:
        network = contents.network._replace(training=options.here(contents.network.training))

        def alone(seed: int) -> tuple[Denoiser, dict[str, Any]]:
            return network_alone(opened.alike, opened.data, network, seed, _alone(options, seed))

        # What is drawn position by position needs no second step.
        entries.append(Entry(NETWORK, None, None, [1], alone))
    return entries


def _measure(options: Options, contents: Contents, opened: Opened, entries: list[Entry]) -> None:
    """Train and judge, and write what was found."""
    from fewjump.report import from_results, write
    from fewjump.report.verdicts import COMPARISON, comparison_tables
    from fewjump.results import machine_facts, write_results

    plan, data, meter = contents.plan, opened.data, opened.meter
    learned = None if contents.problem is None else contents.problem.training
    target = None
    if plan.matched_entropy and meter.matched is not None:
        reference = data.all("test", plan.samples or meter.num_samples)
        target = meter.measure(reference)[meter.matched[1]].value
    judging = Judging(options.out, plan, meter, target, options.progress)
    tidy, costs = [], []
    if learned is not None:
        costs.append({"model": TEACHER, "seed": learned.seed, **cost_of(options.out / TEACHER)})
    for entry in entries:
        for seed in plan.seeds:
            denoiser, cost = entry.make(seed)
            tidy += judging.rows(entry, denoiser, seed)
            if cost:
                costs.append({"model": entry.name, "seed": seed, **cost})
    write_text(options.out / ROWS, json.dumps(tidy, indent=1) + "\n")
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
        title=COMPARISON,
        tables=comparison_tables(rows, costs, TEACHER),
        facts={k: v for k, v in facts.items() if k != "costs"},
    )
    print(f"results: {path}\nreport: {write(page, options.out)}")
