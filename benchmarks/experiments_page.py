"""Write docs/experiments.md and its charts from the committed checks: nothing there is typed.

Run: python benchmarks/experiments_page.py   (a test fails when the page is out of date)

A result is benchmarks/results/checks/NAME.json, as ``python -m fewjump.verify.NAME`` writes it.
Its question, verdict, charts and tables are the page's; a new file needs no change here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fewjump.report.axis import short
from fewjump.report.content import Table
from fewjump.report.svg import standalone
from fewjump.verify.checks import CheckResult, read_result

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "checks"
PAGE = ROOT / "docs" / "experiments.md"
CHARTS = ROOT / "docs" / "experiments"
#: The order of the page; results that are not named here follow by name.
ORDER = (
    "recovery",
    "commutation",
    "step_size",
    "warm_start",
    "times",
    "vocabulary",
    "monitor_overhead",
)
#: Charts drawn for each result: the first ones.
MOST_CHARTS = 6

OPENING = """# Experiments: where the method holds, and where it breaks

Each section is one named check, `fewjump verify NAME`: the question, the answer in plain words, the
charts and the tables. The same command runs it on this or on your own problem (`--help` says how;
several take `--model` and `--data`), and `fewjump.verify.checks.run_check(name, …)` does so in
Python:

```python
from fewjump.verify.checks import run_check

result = run_check("recovery", families=["uniform"], vocab_sizes=[4], seeds=1, network_steps=0)
assert result.passed
print(*result.verdict, sep="\\n")
page = result.save("recovery")  # results.json and report.html
```

Everything below is made from the committed result files by `benchmarks/experiments_page.py`.

## Failures while training

Every distillation watches itself. At each log line a probe draws from the student and, once, looks
at the teacher; what it sees goes into `metrics.jsonl`, and into the report page.

| warning | fires when | what to try |
|---|---|---|
| `collapse` | the student's entropy, the tokens its draws use, or their distinct runs fall below half the teacher's | lower `lr`, lower `max_gap`, `intermediate="forward"`; raise `data_weight` |
| `clipping` | the draw of x_s asks for more than 0.05 of probability outside [0, 1] | lower `max_gap`, more grid steps, `student-exact` or `forward` |
| `ill-conditioned` | recovery from ratios puts more than 0.1 below zero | less noise at the end, `method="project"`, a network that gives posteriors |
| `miscalibrated` | the teacher's surprise at true tokens differs from its entropy by 15% and four standard errors, in some bin of t | train the teacher longer there, other data, keep the grid away |

The probe draws from streams of its own, so that the weights are the same with it and without it
(`monitor=False`); what it costs is the last section.
"""


def results() -> list[tuple[str, CheckResult, dict[str, Any]]]:
    """Stem, check and facts of every committed result, in the order of the page."""
    stems = [path.stem for path in RESULTS.glob("*.json")]
    place = {stem: number for number, stem in enumerate(ORDER)}
    stems.sort(key=lambda stem: (place.get(stem, len(ORDER)), stem))
    return [(stem, *read_result(RESULTS / f"{stem}.json")) for stem in stems]


def render() -> str:
    """The page."""
    return "\n".join([OPENING, *(section(*one) for one in results())])


def section(stem: str, check: CheckResult, facts: dict[str, Any]) -> str:
    """One check's part of the page."""
    parts = [f"## {check.question}\n", f"`fewjump verify {check.name}` · {provenance(facts)}\n"]
    parts += [f"- {text}" for text in check.verdict]
    parts += [f"- **Does not hold:** {text}" for text in check.failures]
    for number, chart in enumerate(check.charts[:MOST_CHARTS]):
        parts.append(f"\n![{chart.title}](experiments/{stem}-{number}.svg)")
        if chart.caption:
            parts.append(f"\n{chart.caption}")
    parts += [markdown(table) for table in check.tables]
    for note in check.notes:
        parts.append(f"\n*{note.title}.* " + " ".join(note.paragraphs))
    return "\n".join(parts) + "\n"


def provenance(facts: dict[str, Any]) -> str:
    """Where the numbers come from: script, seed, time, machine."""
    machine = facts["machine"]
    return (
        f"`python -m fewjump.verify.{facts['experiment']}` · seed {facts['seed']} · "
        f"{facts['seconds']:.0f} s on a shared {machine['cpu_count']}-core CPU, "
        f"{machine['torch_threads']} torch thread(s), torch {machine['torch']}"
    )


def markdown(table: Table) -> str:
    """A table; numbers in three digits."""
    head = "| " + " | ".join(table.columns) + " |"
    rule = "|" + "---|" * len(table.columns)
    rows = ["| " + " | ".join(cell(value) for value in row) + " |" for row in table.rows]
    after = f"\n{table.caption}" if table.caption else ""
    return "\n".join([f"\n**{table.title}**\n", head, rule, *rows]) + (
        "\n" + after if after else ""
    )


def cell(value: Any) -> str:
    """One cell, with nothing in it that Markdown would read."""
    if value is None or value == "":
        return "–"
    text = short(value) if isinstance(value, int | float) else str(value)
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def drawings() -> dict[str, str]:
    """File name → SVG text of every chart of the page."""
    return {
        f"{stem}-{number}.svg": standalone(chart)
        for stem, check, _ in results()
        for number, chart in enumerate(check.charts[:MOST_CHARTS])
    }


def main() -> None:
    """Write the page and its charts, and remove charts that are no longer shown."""
    PAGE.write_text(render(), encoding="utf-8")
    CHARTS.mkdir(exist_ok=True)
    wanted = drawings()
    for name, text in wanted.items():
        (CHARTS / name).write_text(text, encoding="utf-8")
    for path in CHARTS.glob("*.svg"):
        if path.name not in wanted:
            path.unlink()
    print(f"{PAGE}: {len(wanted)} charts")


if __name__ == "__main__":
    main()
