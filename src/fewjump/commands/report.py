"""``fewjump report``: results of finished runs as one page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewjump.files import check_writable

if TYPE_CHECKING:
    from fewjump.report import Chart, SampleGroup, Table
    from fewjump.results import Row


@dataclass
class Options:
    """Turn the results of one or more runs into a single HTML page that opens offline.

    Each folder must hold a results.json, as `fewjump evaluate` and `fewjump demo` write it. With
    several folders their curves share the charts. Saved samples and training records in the
    folders are shown too.

    Attributes:
        runs: run folders, or results.json files.
        out: where to write. Default: report.html in the first folder.
        title: headline of the page.
        headline: metric of the large first chart. Default: the first one measured.
    """

    runs: Annotated[list[Path], tyro.conf.Positional]
    out: Path | None = None
    title: str | None = None
    headline: str | None = None


def run(options: Options) -> int:
    from dataclasses import replace

    from fewjump.report import from_results, write
    from fewjump.report.verdicts import COMPARISON, comparison_tables, cost_table
    from fewjump.results import read_results

    if not options.runs:
        raise ValueError("name at least one run folder")
    first = options.runs[0]
    out = options.out or (first if first.is_dir() else first.parent)
    check_writable(out.parent if out.suffix else out)
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    samples: list[SampleGroup] = []
    training: list[Chart] = []
    tables: list[Table] = []
    title = options.title
    for path in options.runs:
        own_rows, own_facts = read_results(path)
        folder = path if path.is_dir() else path.parent
        _check_model(folder, own_facts.pop("weights", None))
        name = folder.resolve().name
        costs = own_facts.pop("costs", None)
        if len(options.runs) > 1:
            own_rows = [replace(row, model=_within(name, row)) for row in own_rows]
            own_facts = {name: own_facts}
            tables += cost_table([{**c, "model": f"{c['model']} ({name})"} for c in costs or ()])
        elif costs is not None:
            tables += comparison_tables(own_rows, costs)
            title = title or COMPARISON
        rows += own_rows
        facts |= own_facts
        samples += _saved_samples(folder, name if len(options.runs) > 1 else "")
        charts, watched = _training(folder, name)
        training += charts
        tables += watched
    page = from_results(
        list(dict.fromkeys(rows)),
        title=title,
        samples=samples,
        training=training,
        tables=tables,
        facts=facts,
        headline=options.headline,
    )
    print(f"report: {write(page, out)}")
    return 0


def _check_model(folder: Path, weights: str | None) -> None:
    """Raise ValueError if a run's model is no longer the one that was evaluated."""
    from fewjump.checkpoint.folder import WEIGHTS_FILE
    from fewjump.files import checksum

    file = folder / "model" / WEIGHTS_FILE
    if weights is not None and file.is_file() and checksum(file) != weights:
        raise ValueError(
            f"the results in {folder} are of an earlier model than {folder / 'model'} is now; run "
            "`fewjump evaluate` again"
        )


def _within(run: str, row: Row) -> str:
    """A model's name on a page of several runs; references are shared between them."""
    return row.model if row.is_reference else f"{row.model} ({run})"


def _training(folder: Path, name: str) -> tuple[list[Chart], list[Table]]:
    """Training curves of the folder itself and of the models inside it, and their warnings."""
    from fewjump.report import monitor_charts, monitor_table, role_of, training_charts

    charts, tables = [], []
    for record in sorted(folder.glob("**/metrics.jsonl")):
        inner = record.parent.relative_to(folder)
        label = name if str(inner) == "." else str(inner)
        charts += training_charts(record, label, role_of(label))
        charts += monitor_charts(record, label)
        if (table := monitor_table(record, label)) is not None:
            tables.append(table)
    return charts, tables


def _saved_samples(folder: Path, run: str) -> list[SampleGroup]:
    """What ``samples.json`` of an evaluation holds: texts or images by model and evaluations."""
    path = folder / "samples.json"
    if not path.is_file():
        return []
    import numpy as np

    from fewjump.report import ImageSamples, SampleGroup, TextSamples, role_of

    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); run `fewjump evaluate` again, or remove it"
        ) from None
    groups: dict[int, list[ImageSamples | TextSamples]] = {}
    references: list[ImageSamples | TextSamples] = []
    for entry in entries:
        role = role_of(entry["model"])
        title = f"{entry['model']} ({run})" if run else entry["model"]
        panel = (
            TextSamples(title, entry["texts"], role)
            if "texts" in entry
            else ImageSamples(title, np.array(entry["images"], dtype=np.uint8), role)
        )
        count = entry["nfe"]
        (groups.setdefault(count, []) if count else references).append(panel)
    return [
        SampleGroup(f"{count} evaluation{'' if count == 1 else 's'}", [*panels, *references])
        for count, panels in groups.items()
    ]
