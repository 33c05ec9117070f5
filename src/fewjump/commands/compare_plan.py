"""The plan of a comparison: what its file may say, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from fewjump.commands.compare_problem import EXACT, TEACHER, ProblemPlan, read_problem
from fewjump.commands.shared import (
    DocumentOptions,
    JudgeOptions,
    SamplerOptions,
    check_draws,
    told_of,
)
from fewjump.config import changed, check_count, one_of, options_of, unknown_key
from fewjump.options.training import TEACHER_TRAINING, TrainConfig
from fewjump.reading import DataKind, ReadingOptions

if TYPE_CHECKING:
    from fewjump.denoiser.left_to_right import Layers

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")
NETWORK = "autoregressive network"


@dataclass(kw_only=True)
class Plan(ReadingOptions, DocumentOptions, JudgeOptions):
    """What is compared: the content of the plan file.

    How a teacher and documents are read is said as for `fewjump distill`, a language model that
    judges texts as for `fewjump evaluate`.

    Attributes:
        teacher: what `fewjump sample` takes; with a problem, how a network learns from its draws.
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
            sequence, what the student that it starts at asked included: it is trained for as many
            steps as that allows. A student that asks nothing takes its own ``steps``; one may have
            ``teacher_evaluations`` of its own.
    """

    teacher: str = ""
    data: str = ""
    kind: DataKind = "auto"
    length: int | None = None
    steps: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    teacher_steps: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    samples: int | None = None
    matched_entropy: bool = True
    teacher_evaluations: int | None = None

    @property
    def long(self) -> list[int]:
        """Numbers of steps of the teacher."""
        return self.teacher_steps or self.steps

    def check(self) -> None:
        """Raise ValueError for what is missing or cannot be."""
        for name in ("teacher", "data"):
            if not getattr(self, name):
                raise ValueError(f"the plan needs {name}: …")
        check_draws([*self.steps, *self.teacher_steps], self.samples, ("steps", "samples"))
        if self.samples == 1:
            raise ValueError("samples must be at least 2: one has no interval")
        if self.teacher_evaluations is not None:
            check_count(self.teacher_evaluations, "teacher_evaluations")
        for name in ("steps", "teacher_steps", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values) or (not values and name != "teacher_steps"):
                raise ValueError(f"{name} must name at least one number, each once; got {values}")
        if not all(0 <= seed < 2**63 for seed in self.seeds):
            raise ValueError(f"seeds must lie in [0, 2^63), got {self.seeds}")


#: How a teacher and documents are read, by option.
READING = [one.name for part in (ReadingOptions, DocumentOptions) for one in options_of(part)]
#: What a sampler is said by.
_SAMPLER = tuple(one.name for one in options_of(SamplerOptions))
#: What holds names of its own.
_PARTS = ("shared", "students", "models", "samplers", "autoregressive", "problem", "network")
#: The plan says these for every student.
_SHARED = ("teacher", "data", "kind", "length", "out", "seed", "device", *READING)


class Network(NamedTuple):
    """An autoregressive network with as many parameters as the teacher, trained on data alone.

    Attributes:
        layers: transformer or recurrent.
        training: how it is trained.
    """

    layers: Layers
    training: TrainConfig


class Contents(NamedTuple):
    """What a plan file holds.

    Attributes:
        plan: what is compared.
        students: options by name.
        models: places by name.
        samplers: of the teacher, and of students that name one, by name.
        sampled: the student or model that such a sampler draws from, if not the teacher, by name.
        starts: the student that a student starts at, by name.
        budgets: what a student may ask of the teacher, where that is its own, by name.
        network: the autoregressive one, if it is wanted.
        problem: in place of teacher and data.
    """

    plan: Plan
    students: dict[str, dict[str, Any]]
    models: dict[str, str]
    samplers: dict[str, SamplerOptions]
    sampled: dict[str, str]
    starts: dict[str, str]
    budgets: dict[str, int]
    network: Network | None
    problem: ProblemPlan | None

    def drawn_by(self, sampler: str) -> str:
        """The model that a sampler draws from."""
        own = sampler if sampler in self.students else TEACHER
        return self.sampled.get(sampler, own)


def read_plan(content: Any, where: str) -> Contents:
    """The content of a plan file.

    Raises:
        ValueError: for what is no plan, with the place.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a plan: teacher, data, students, … as name: value")
    parts: dict[str, dict[str, Any]] = {}
    rest = _normal(content, where, "the plan")
    known = [*_PARTS, *(one.name for one in options_of(Plan))]
    for key in rest:
        if key not in known:
            raise ValueError(f"{where}: {unknown_key(key, known)}")
    wanted, known_law = (rest.get(part) is not None for part in ("autoregressive", "problem"))
    for part in _PARTS:
        found = rest.pop(part, None)
        found = {} if found is None else found
        if not isinstance(found, dict):
            raise ValueError(f"{where}: {part} must hold name: value lines")
        parts[part] = found
    problem = training = None
    if known_law and isinstance(rest.get("teacher"), dict):
        training = _training(rest.pop("teacher"), where, "teacher")
    own, network = (_normal(parts[part], where, part) for part in ("problem", "network"))
    with told_of(where):
        if known_law:
            problem = _problem(rest, own, network, training)
            rest |= {"teacher": problem.posterior, "data": "draws of the problem"}
        elif parts["network"]:
            raise ValueError(
                "network: is of the students of a problem:; those of a saved teacher have its own"
            )
        (plan,) = changed(rest, Plan())
        plan.check()
    network = None
    if wanted:
        from fewjump.denoiser.left_to_right import Layers

        with told_of(f"{where}: autoregressive"):
            own = _normal(parts["autoregressive"], where, "autoregressive")
            layers = own.pop("layers", "transformer")
            one_of("layers", layers, get_args(Layers))
            if "seed" in own:
                raise ValueError("seed is for the plan to say")
        network = Network(layers, _training(own, where, "autoregressive"))
    students = {
        name: {**_normal(parts["shared"], where, "shared"), **_normal(own, where, name)}
        for name, own in parts["students"].items()
    }
    models = parts["models"]
    if not all(isinstance(place, str) for place in models.values()):
        raise ValueError(f"{where}: models must be lines of name: what `fewjump sample` takes")
    names, own_names = [*students, *models, *parts["samplers"]], (TEACHER, EXACT, NETWORK)
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in own_names:
            raise ValueError(
                f"{where}: {name!r} cannot be a name here; take letters, digits and ' ._+-' (in "
                f"quotes where YAML reads a number), and none of {', '.join(own_names)}"
            )
    # Names are those of folders, and not every disk tells "A" from "a", or "a " from "a".
    folders = [name.casefold().strip() for name in names]
    if twice := sorted({name for name, one in zip(names, folders) if folders.count(one) > 1}):
        raise ValueError(f"{where}: {', '.join(twice)} would share a name, and a folder")
    if not names and not wanted:
        raise ValueError(
            f"{where} names no students:, models:, samplers: or autoregressive: to compare"
        )
    samplers, sampled = {}, {}
    for name, own in parts["samplers"].items():
        one = _normal(own, where, name)
        if unknown := set(one) - {*_SAMPLER, "of"}:
            raise ValueError(
                f"{where}: {name} has {', '.join(sorted(unknown))}; a sampler has sampler, "
                "sampler-options, grid and of"
            )
        if (of := one.pop("of", TEACHER)) != TEACHER:
            if of not in (known := [*students, *models]):
                raise ValueError(
                    f"{where}: {name} is of {of!r}, which is neither the teacher nor a student or "
                    f"model of the plan; give one of {', '.join([TEACHER, *known])}"
                )
            sampled[name] = of
        samplers[name] = _sampler(one, where, name)
    starts, budgets = _starts(students, where), {}
    for name, own in students.items():
        if "teacher_evaluations" in own:
            with told_of(f"{where}: {name}"):
                budgets[name] = _own_budget(own.pop("teacher_evaluations"), plan)
        if shared := [key for key in own if key in _SHARED]:
            raise ValueError(f"{where}: {', '.join(shared)} of {name} is for the plan to say")
        mine = {key: own.pop(key) for key in _SAMPLER if key in own}
        samplers[name] = _sampler(mine, where, name)
    return Contents(plan, students, models, samplers, sampled, starts, budgets, network, problem)


def _starts(students: Mapping[str, dict[str, Any]], where: str) -> dict[str, str]:
    """Which students start at another of the plan; a start of another name is a place."""
    found: dict[str, str] = {}
    for place, (name, own) in enumerate(students.items()):
        if not isinstance(own.get("start"), str):
            continue
        if own["start"] not in students:
            if not own["start"].startswith("hf:") and not Path(own["start"]).exists():
                before = ", ".join(list(students)[:place]) or "these"
                raise ValueError(
                    f"{where}: {name} starts at {own['start']!r}, which is neither a student of "
                    f"the plan nor a path; give one of {before}"
                )
            continue
        found[name] = own.pop("start")
        if found[name] not in list(students)[:place]:
            raise ValueError(
                f"{where}: {name} starts at {found[name]}, which must stand before it in students"
            )
    return found


def _own_budget(budget: Any, plan: Plan) -> int:
    if plan.teacher_evaluations is None:
        raise ValueError(
            "teacher_evaluations of one student needs that of the plan, for all the others"
        )
    check_count(budget, "teacher_evaluations")
    return budget


def _training(options: Any, where: str, name: str) -> TrainConfig:
    """How a network of the plan is trained on the data."""
    own = _normal(options, where, name)
    with told_of(f"{where}: {name}"):
        if "device" in own:
            raise ValueError("device is for `fewjump compare --device` to say")
        return changed(own, TEACHER_TRAINING)[0]


def _problem(
    rest: Mapping[str, Any],
    own: Mapping[str, Any],
    network: Mapping[str, Any],
    training: TrainConfig | None,
) -> ProblemPlan:
    """What stands in `problem:`, in a plan that says nothing against it."""
    theirs = (*_SHARED, *(one.name for one in options_of(JudgeOptions)))
    if said := [name for name in theirs if name in rest]:
        raise ValueError(
            f"a problem: has its exact posterior as teacher, or a network that learns from its "
            f"draws (teacher: {{steps: …}}), these draws as data and its law as judge: leave out "
            f"{', '.join(said)}, or the problem"
        )
    return read_problem(own, network, training)


def _normal(options: Any, where: str, name: str) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ValueError(f"{where}: {name} must hold options as name: value lines")
    out: dict[str, Any] = {}
    for key, value in options.items():
        known = str(key).replace("-", "_")
        if known in out:
            raise ValueError(f"{where}: {name} gives {known} twice, with - and with _")
        out[known] = value
    return out


def _sampler(own: dict[str, Any], where: str, name: str) -> SamplerOptions:
    with told_of(f"{where}: {name}"):
        return changed(own, SamplerOptions())[0]
