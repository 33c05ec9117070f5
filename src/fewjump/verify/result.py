"""What a named check answers: rows, charts and a verdict in plain words, as data and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fewjump.report import Chart, KeyNumber, Note, Reference, Report, Series, Table

RESULTS_FILE = "results.json"


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
        write_content(folder / RESULTS_FILE, {**self.content(), **facts})
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


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain data as JSON, in one move."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        json.dumps(content, indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8"
    )
    temporary.replace(path)


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
    own["tables"] = [Table(**table) for table in own["tables"]]
    own["notes"] = [Note(**note) for note in own["notes"]]
    own["key_numbers"] = [KeyNumber(**number) for number in own["key_numbers"]]
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
