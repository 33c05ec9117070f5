"""The named checks of ``fewjump verify NAME``: which there are, what they take, what they answer.

To add one: a line in :data:`CHECKS`, and a file ``fewjump/verify/<name>.py`` (``-`` becomes ``_``)
with a dataclass that subclasses :class:`Check`. Its fields are the options, their lines of
"Attributes" the help, and the rest of its docstring the page's note. The file imports torch and the
like inside its methods, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from fewjump.reading import ReadingOptions, given_flags, reading_values
from fewjump.report import (
    Chart,
    KeyNumber,
    Note,
    Reference,
    Report,
    Role,
    Series,
    Table,
    short,
)
from fewjump.results import machine_facts

#: Name on the command line → class in the file of that name.
CHECKS: dict[str, str] = {
    "recovery": "Recovery",
    "commutation": "Commutation",
    "step-size": "StepSize",
    "warm-start": "WarmStart",
    "times": "Times",
}
RESULTS_FILE = "results.json"
Rows = Sequence[Mapping[str, Any]]
#: Rows of one point → their mean and the ends of its 95% interval.
Measure = Callable[[Rows], tuple[float, float, float]]


@dataclass(frozen=True)
class CheckResult:
    """One check's answer.

    Attributes:
        name: as on the command line.
        question: what was asked, one sentence.
        rows: every measured number, plain data.
        verdict: the answer in plain words, the most important sentence first.
        charts: at least one; the first is drawn large.
        tables: what is worth reading as numbers.
        key_numbers: at most three, for the page's opening.
        failures: what should hold and does not; the command then exits with code 1.
        notes: what the reader must know to judge it.
        settings: what was asked for: seeds, sizes, the user's own files.
    """

    name: str
    question: str
    rows: Rows
    verdict: Sequence[str]
    charts: Sequence[Chart]
    tables: Sequence[Table] = ()
    key_numbers: Sequence[KeyNumber] = ()
    failures: Sequence[str] = ()
    notes: Sequence[Note] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all that should hold does."""
        return not self.failures

    def content(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite become None, for which JSON has a word."""
        from fewjump.checkpoint.folder import plain

        return plain({**asdict(self), "check": self.name}, self.name)

    def save(self, folder: str | Path, **facts: Any) -> Path:
        """Write ``results.json`` and ``report.html`` to a folder; returns the page's path.

        Args:
            folder: made if needed.
            facts: of the run, such as its seconds; the machine is added.
        """
        from fewjump.files import write_text
        from fewjump.report import write

        folder, facts = Path(folder), {**facts, "machine": machine_facts()}
        text = json.dumps({**self.content(), **facts}, indent=1, allow_nan=False, default=str)
        write_text(folder / RESULTS_FILE, text + "\n")
        page = Report(
            title=self.question,
            subtitle=f"fewjump verify {self.name}",
            summary=[*self.verdict, *(f"**Does not hold:** {text}" for text in self.failures)],
            key_numbers=self.key_numbers,
            charts=self.charts,
            charts_heading="What was measured",
            tables=self.tables,
            notes=self.notes,
            facts={**self.settings, **facts},
        )
        return write(page, folder)


@dataclass
class Check(ABC):
    """A named check and its options; each check's own class adds to them.

    Attributes:
        name: on the command line.
        about: what it asks, for the list of checks.
        question: what it asks, as its page's title.
        out: folder for results.json and report.html. Default: verify-NAME.
        seed: seed of every random draw.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    question: ClassVar[str]

    out: Path | None = None
    seed: int = 0

    @abstractmethod
    def validate(self) -> None:
        """Raise ValueError for options outside their range, before anything is computed."""

    @abstractmethod
    def measure(self) -> list[dict[str, Any]]:
        """Tidy rows: a dictionary for each measured thing."""

    @abstractmethod
    def answer(self, rows: Rows) -> CheckResult:
        """What the rows say; ends in :meth:`result`."""

    def run(self) -> CheckResult:
        """Validate, measure, answer. Writes nothing."""
        self.validate()
        return self.answer(self.measure())

    def result(
        self, rows: Rows, verdict: Sequence[str], charts: Sequence[Chart], **more: Any
    ) -> CheckResult:
        """The result, with what every check says of itself; ``more`` are its other fields."""
        words, _, _ = inspect.cleandoc(type(self).__doc__ or "").partition("\n\nAttributes:")
        note = Note("What is measured", words.split("\n\n"))
        about = {"notes": [note], "settings": self.settings()}
        return CheckResult(self.name, self.question, rows, verdict, charts, **more, **about)

    def settings(self) -> dict[str, Any]:
        """What was asked for, for the page."""
        return {k: v for k, v in vars(self).items() if k != "out" and v is not None}


@dataclass
class ModelCheck(ReadingOptions, Check):
    """A check that also measures a user's model.

    Attributes:
        model: a saved model, the run folder that holds it, or a checkpoint of SEDD, MDLM, UDLM or
            Duo, to measure in place of the problem (recovery: beside it).
        data: what the model was trained on: a file, `digits` or `text`. Default: its own samples.
        seeds: repetitions, for the intervals.
    """

    model: Path | None = None
    data: str | None = None
    seeds: int = 3

    def validate(self) -> None:
        """Raise ValueError for options that go with ``--model`` where there is none."""
        if self.seeds < 1:
            raise ValueError("--seeds must be at least 1")
        if self.model is None and self.data is not None:
            raise ValueError("--data belongs to --model")
        if self.model is None and (flags := given_flags(reading_values(self))):
            raise ValueError(f"{flags[0]} belongs to --model")

    def all_seeds(self) -> range:
        """The seeds of the repetitions."""
        return range(self.seed, self.seed + self.seeds)

    def settings(self) -> dict[str, Any]:
        reading = {} if self.model else {f.name for f in fields(ReadingOptions)}
        return {k: v for k, v in super().settings().items() if k not in reading}


def check_called(name: str) -> type[Check]:
    """The class of a check.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in CHECKS:
        near = get_close_matches(name, CHECKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"checks: {', '.join(CHECKS)}"
        raise ValueError(f"there is no check {name!r}; {hint}")
    module = importlib.import_module(f"fewjump.verify.{name.replace('-', '_')}")
    return getattr(module, CHECKS[name])


def run_check(name: str, **options: Any) -> CheckResult:
    """Run a check from Python; ``options`` are the fields of its class. Writes nothing.

    Raises:
        ValueError: for an unknown check.
        TypeError: for an unknown option.
    """
    return check_called(name)(**options).run()


def describe_checks() -> str:
    """The checks' names and what each asks, one a line."""
    width = max(len(name) for name in CHECKS)
    return "\n".join(f"  {name:<{width}}  {check_called(name).about}" for name in CHECKS)


# -- from tidy rows to tables and charts: selection, means over seeds, pivots ---------------------


def pick(rows: Rows, **where: Any) -> list[Mapping[str, Any]]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in where.items())]


def distinct(rows: Rows, key: str) -> list[Any]:
    """The values of a key, in the order of their first rows, without None."""
    return list(dict.fromkeys(row[key] for row in rows if row.get(key) is not None))


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean."""
    found = list(values)
    return sum(found) / len(found)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of Student's 95% interval."""
    from fewjump.evaluate.bootstrap import half_width

    return mean(values), half_width(values)


def plus_minus(values: Sequence[float]) -> str:
    """``mean ± half-width`` over seeds; of one seed the value alone."""
    centre, half = interval(values)
    return f"{short(centre)} ± {short(half)}" if len(values) > 1 else short(centre)


def of_seeds(key: str, at_least: float = -math.inf) -> Measure:
    """Mean of a key over rows, one a seed; the interval's lower end is ``at_least`` or more."""

    def measure(rows: Rows) -> tuple[float, float, float]:
        centre, half = interval([row[key] for row in rows])
        return centre, max(at_least, centre - half), centre + half

    return measure


def line(rows: Rows, x: str, y: Measure, label: str, role: Role = "other") -> Series:
    """A line with a band: at each ``x``, ascending, what ``y`` makes of the rows there."""
    xs = sorted(distinct(rows, x))
    points = [y(pick(rows, **{x: value})) for value in xs]
    middle, low, high = ([point[k] for point in points] for k in range(3))
    return Series(label, xs, middle, low, high, role)


def chart(
    title: str,
    series: Iterable[Series],
    x: str,
    y: str,
    log: str = "",
    marks: Mapping[str, float] = MappingProxyType({}),
    caption: str = "",
) -> Chart:
    """A chart of numbers of which less is better.

    Args:
        title, caption: of the chart.
        series: its lines.
        x, y: names of the axes, with units.
        log: which axes are logarithmic: ``""``, ``"x"`` or ``"xy"``.
        marks: label → horizontal line.
    """
    return Chart(
        title,
        list(series),
        [Reference(label, value) for label, value in marks.items()],
        x_label=x,
        y_label=y,
        log_x="x" in log,
        log_y="y" in log,
        better="lower",
        caption=caption,
    )


def pivot(
    title: str,
    rows: Rows,
    index: str,
    lines: Mapping[Any, str],
    columns: Mapping[str, Mapping[str, Any]],
    cell: Callable[[Rows], Any],
    corner: str,
) -> Table:
    """A table of cells: a line for each value of ``index``, a column for each selection.

    Args:
        title: of the table.
        rows: tidy.
        index: a key of the rows.
        lines: its values, and what the table calls them.
        columns: heading → what the rows of that column have.
        cell: the rows of one cell → what it shows.
        corner: heading of the first column.
    """
    body = [
        (name, *(cell(pick(rows, **{index: value}, **where)) for where in columns.values()))
        for value, name in lines.items()
    ]
    return Table(title, (corner, *columns), body)
