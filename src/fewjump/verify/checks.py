"""The named checks of ``fewjump verify NAME``: which there are, what they take, what they answer.

To add one: a line in :data:`CHECKS`, and a file ``fewjump/verify/<name>.py`` (``-`` becomes
``_``) with a dataclass ``Options``, a subclass of :class:`CheckOptions` whose docstrings are the
help and the page's note, and a function ``run(options)`` that returns a :class:`CheckResult`. The
file imports torch and the like inside its functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from fewjump.reading import ReadingOptions, given_flags, reading_values
from fewjump.report import Chart, KeyNumber, Note, Reference, Report, Series, Table

CHECKS: dict[str, str] = {
    "recovery": "where recovery of posteriors from concrete scores breaks",
    "commutation": "whether the generators of different times commute, and the error if not",
    "step-size": "how far a student's draw of x_s may reach before it does harm",
    "warm-start": "what starting the student at the teacher is worth",
    "times": "whether times that adapt beat uniform ones, for sampling and for training",
    "vocabulary": "what recovery and a distillation step cost as the vocabulary grows",
}
RESULTS_FILE = "results.json"


@dataclass
class CheckOptions:
    """Options of every named check; each check's own class adds to them."""

    out: Path | None = None
    """Folder for results.json and report.html. Default: verify-NAME."""

    seed: int = 0
    """Seed of every random draw."""

    def settings(self) -> dict[str, Any]:
        """What was asked for, for the page."""
        return {k: v for k, v in vars(self).items() if k != "out" and v is not None}

    def note(self) -> Note:
        """What is measured, in the words of the help."""
        return Note("What is measured", inspect.cleandoc(type(self).__doc__ or "").split("\n\n"))


@dataclass
class ModelOptions(ReadingOptions, CheckOptions):
    """Options of a check that also measures a user's model."""

    model: Path | None = None
    """A saved model, the run folder that holds it, or a checkpoint of SEDD, MDLM, UDLM or Duo, to
    measure in place of the problem (recovery: beside it)."""

    data: str | None = None
    """What the model was trained on: a file, `digits` or `text`. Default: its own samples."""

    seeds: int = 3
    """Repetitions, for the intervals."""

    def all_seeds(self) -> range:
        """The seeds of the repetitions."""
        return range(self.seed, self.seed + self.seeds)

    def settings(self) -> dict[str, Any]:
        reading = {} if self.model else {f.name for f in fields(ReadingOptions)}
        return {k: v for k, v in super().settings().items() if k not in reading}

    def refuse_without_model(self) -> None:
        """Raise ValueError for options that go with ``--model`` where there is none."""
        if self.model is not None:
            return
        if self.data is not None:
            raise ValueError("--data belongs to --model")
        if flags := given_flags(reading_values(self)):
            raise ValueError(f"{flags[0]} belongs to --model")


def check_module(name: str) -> ModuleType:
    """The module of a check, with its ``Options`` and ``run``.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in CHECKS:
        near = get_close_matches(name, CHECKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"checks: {', '.join(CHECKS)}"
        raise ValueError(f"there is no check {name!r}; {hint}")
    return importlib.import_module(f"fewjump.verify.{name.replace('-', '_')}")


def run_check(name: str, **options: Any) -> CheckResult:
    """Run a check from Python; ``options`` are the fields of its ``Options``. Writes nothing.

    Raises:
        ValueError: for an unknown check.
        TypeError: for an unknown option.
    """
    module = check_module(name)
    return module.run(module.Options(**options))


def describe_checks() -> str:
    """The checks' names and what each asks, one a line."""
    width = max((len(name) for name in CHECKS), default=0)
    return "\n".join(f"  {name:<{width}}  {about}" for name, about in CHECKS.items())


@dataclass(frozen=True)
class CheckResult:
    """One check's answer.

    Attributes:
        name: as on the command line.
        question: what was asked, one sentence.
        verdict: the answer in plain words, the most important sentence first.
        rows: every measured number, plain data.
        charts: at least one; the first is drawn large.
        tables: what is worth reading as numbers.
        notes: what the reader must know to judge it.
        key_numbers: at most three, for the page's opening.
        settings: what was asked for: seeds, sizes, the user's own files.
        failures: what should hold and does not; the command then exits with code 1.
    """

    name: str
    question: str
    verdict: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    charts: Sequence[Chart]
    tables: Sequence[Table] = ()
    notes: Sequence[Note] = ()
    key_numbers: Sequence[KeyNumber] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    failures: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether all that should hold does."""
        return not self.failures

    def content(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite become None, for which JSON has a word."""
        return _finite({**asdict(self), "check": self.name})

    def save(self, folder: str | Path, facts: Mapping[str, Any] | None = None) -> Path:
        """Write ``results.json`` and ``report.html`` to a folder; returns the page's path.

        Args:
            folder: made if needed.
            facts: of the run: machine, seconds. Those of this machine when None.
        """
        from fewjump.report import write
        from fewjump.verify.results import machine_facts

        facts = {"machine": machine_facts()} if facts is None else dict(facts)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.content(), **facts}, indent=1, allow_nan=False, default=str)
        temporary = folder / f"{RESULTS_FILE}.tmp"
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(folder / RESULTS_FILE)
        return write(self.report(facts), folder)

    def report(self, facts: Mapping[str, Any]) -> Report:
        """The check as a page."""
        return Report(
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


def read_result(path: str | Path) -> tuple[CheckResult, dict[str, Any]]:
    """A saved check and the facts of its run, from ``results.json`` or its folder.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file holds no check.
    """
    path = Path(path)
    path = path / RESULTS_FILE if path.is_dir() else path
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("check", None) is None:
        raise ValueError(f"{path} was not written by `fewjump verify NAME`")
    own = {key: content.pop(key) for key in CheckResult.__dataclass_fields__}
    own["charts"] = [_chart(chart) for chart in own["charts"]]
    for key, kind in (("tables", Table), ("notes", Note), ("key_numbers", KeyNumber)):
        own[key] = [kind(**one) for one in own[key]]
    return CheckResult(**own), content


def _chart(content: Mapping[str, Any]) -> Chart:
    series = [Series(**one) for one in content["series"]]
    references = [Reference(**one) for one in content["references"]]
    return Chart(**{**content, "series": series, "references": references})


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return str(value) if isinstance(value, Path) else value
