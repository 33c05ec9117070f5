"""What a comparison trains: its students, the network that learns alone, and what refuses them."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from fewjump.commands import distill
from fewjump.commands.arguments import flags_of, parse
from fewjump.commands.compare_budget import cost_of
from fewjump.commands.compare_plan import READING, Network, Plan
from fewjump.commands.shared import named_values, told_of
from fewjump.config import options_of

if TYPE_CHECKING:
    from fewjump.data import Dataset
    from fewjump.denoiser import Denoiser


def student_options(
    plan: Plan, own: dict[str, Any], seed: int, more: list[str], where: str
) -> distill.Options:
    """What `fewjump distill` is told for one student and seed.

    Args:
        plan: which says teacher and data.
        own: the student's options by name.
        seed: of the training.
        more: flags that are no matter of the plan.
        where: the student stands, for messages.

    Raises:
        ValueError: for what `fewjump distill` would refuse.
    """
    values = {one.name: getattr(plan, one.field) for one in options_of(Plan)}
    reading = {key: values[key] for key in READING if values[key] is not None}
    words = flags_of(distill.Options, {**own, **reading}, where)
    words += ["--teacher", plan.teacher, "--data", plan.data, "--kind", plan.kind]
    words += [] if plan.length is None else ["--length", str(plan.length)]
    words += ["--seed", str(seed), *more]
    told = io.StringIO()
    with told_of(where):
        try:
            with redirect_stderr(told):
                chosen = parse(distill.Options, words, "fewjump distill")
        except SystemExit:
            raise ValueError(told.getvalue().strip().removeprefix("fewjump: ")) from None
        distill.objective_of(chosen)
    return chosen


class _MayBegin(Exception):  # noqa: N818 - it is no error
    """Nothing stands against a training."""


Accepted: TypeAlias = Callable[[Path], None]


def check_student(
    student: distill.Options,
    given: distill.Given | None = None,
    started: Denoiser | None = None,
) -> None:
    """Refuse a student that `fewjump distill` would refuse, without training it.

    Its training is begun in another folder, with few pairs, up to where it would write.

    Args:
        student: to be trained.
        given: teacher and data, if no files hold them.
        started: of the kind of what it starts at, if that is not there yet.

    Raises:
        ValueError: as `fewjump distill` does.
    """
    short = replace(student, training=replace(student.training, progress=False))
    if started is not None and _begun(student.out):
        # Its configuration says at which weights it started.
        return
    if distill.objective_of(student).coupled:
        if _begun(student.out):
            # Its pairs say whose run it is, and are not drawn for a check.
            return
        short = replace(short, coupling=replace(student.coupling, pairs=2, pair_steps=1))

    def begin(folder: Path, accepted: Accepted) -> None:
        distill.run(replace(short, out=folder), accepted, given, started)

    _check_beginning(begin, student.out, student.training.steps)


def _begun(out: Path) -> list[Path]:
    """The configurations that a run wrote."""
    from fewjump.runs import ROUNDS, RUN_CONFIG

    return [*out.glob(RUN_CONFIG), *out.glob(f"{ROUNDS}/*/{RUN_CONFIG}")]


def _check_beginning(begin: Callable[[Path, Accepted], object], out: Path, steps: int) -> None:
    """Refuse a training of ``steps`` that ``out`` would refuse, with nothing written there.

    A run that is there already is known by its configurations, which are copied.
    """
    from fewjump.train import read_metrics
    from fewjump.train.log import METRICS_FILE

    def stop(_: Path) -> None:
        raise _MayBegin

    lines = read_metrics(out) if (out / METRICS_FILE).exists() else []
    done = max((line["step"] for line in lines), default=0)
    if done > steps:
        raise ValueError(
            f"{out} has done {done} steps, more than the {steps} asked for: give {done} or more, "
            "or another --out"
        )
    with TemporaryDirectory() as folder, suppress(_MayBegin):
        for config in _begun(out):
            place = Path(folder) / config.relative_to(out)
            place.parent.mkdir(parents=True, exist_ok=True)
            copyfile(config, place)
        try:
            begin(Path(folder), stop)
        except ValueError as error:
            raise ValueError(str(error).replace(folder, str(out))) from None


def untrained(
    student: distill.Options,
    teacher: Denoiser,
    length: int,
    network: dict[str, Any] | None = None,
) -> Denoiser:
    """What a student is before its training: its laws are of the same kind afterwards.

    Args:
        student: as `fewjump distill` is told.
        teacher: of it.
        length: of the data's sequences.
        network: options of its transformer; the teacher's by default.
    """
    from fewjump.assembly import build_student

    if distill.objective_of(student).keeps_network:
        return teacher
    head = named_values("head", student.head)
    guidance = student.guidance or teacher.guidance_range
    return build_student(
        teacher, student.student, network, head, student.warm_start, length, 0, guidance
    )


def check_network(
    teacher: Denoiser, data: Dataset, network: Network, seed: int, folder: Path
) -> None:
    """Refuse what :func:`network_alone` would refuse, without training.

    Raises:
        ValueError: for a teacher that is smaller than any such network, or a folder of another run.
    """
    quiet = network._replace(training=replace(network.training, progress=False))

    def begin(place: Path, accepted: Accepted) -> None:
        network_alone(teacher, data, quiet, seed, place, accepted)

    _check_beginning(begin, folder, network.training.steps)


def network_alone(
    teacher: Denoiser,
    data: Dataset,
    network: Network,
    seed: int,
    folder: Path,
    accepted: Accepted | None = None,
) -> tuple[Denoiser, dict[str, Any]]:
    """The autoregressive network of the teacher's size, trained in a folder, and what that took."""
    from fewjump.api import train_teacher
    from fewjump.denoiser.left_to_right import left_to_right
    from fewjump.denoiser.network import parameter_counts
    from fewjump.objective import CrossEntropyELBO

    size = parameter_counts(teacher)["total"]
    made = left_to_right(data.vocab_size, data.length, size, network.layers, seed)
    found = train_teacher(
        data,
        made.process,
        network=made.to(teacher.device),
        # Everything is hidden: what is left of the objective is the likelihood.
        objective=CrossEntropyELBO(min_time=0.999),
        config=replace(network.training, seed=seed),
        out=folder,
        accepted=accepted,
    )
    return found, cost_of(folder)
