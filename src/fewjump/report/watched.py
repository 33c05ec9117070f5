"""What the monitors of a distillation saw, from its ``metrics.jsonl``: a table, and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewjump.files import read_json_lines
from fewjump.report.content import Chart, Series, Table

Lines = Sequence[Mapping[str, Any]]
_MOST_POINTS = 160


def monitor_table(path: str | Path, title: str) -> Table | None:
    """Warnings of a run: kind, when, how often, and what the first one says to try.

    Args:
        path: a run's folder or its ``metrics.jsonl``.
        title: what the run is called.

    Returns:
        A table that says so where a run was watched and nothing was found; None for a run that was
        not watched, or has no such file.
    """
    lines = _lines(path)
    if not any("student_support" in line or "warnings" in line for line in lines):
        return None
    first: dict[str, Mapping[str, Any]] = {}
    steps: dict[str, list[int]] = {}
    for line in lines:
        for kind in line.get("warnings", ()):
            first.setdefault(kind, line)
            steps.setdefault(kind, []).append(int(line["step"]))
    rows = [
        (kind, steps[kind][0], steps[kind][-1], len(steps[kind]), _advice(line, kind))
        for kind, line in first.items()
    ]
    logged = sum("loss" in line for line in lines)
    about = "collapse, overshooting draws, ill-conditioned recovery and a miscalibrated teacher"
    nothing = ("none", None, None, 0, f"{about} were looked for at every log line")
    return Table(
        f"What the monitors saw: {title}",
        ("trouble", "first step", "last step", "log lines", "what it says, and what to try"),
        rows or [nothing],
        caption=f"{logged} lines were logged. A warning does not stop a training; its result "
        "should not be trusted unseen.",
    )


def monitor_charts(path: str | Path, title: str) -> list[Chart]:
    """Variety of the student against the teacher's as it trained, and the teacher's calibration.

    Arguments as for :func:`monitor_table`; empty for a run that was not watched.
    """
    lines = _lines(path)
    charts = []
    for name, about, unit in (
        ("support", "Tokens that one-step draws really use", "e^entropy of a token"),
        ("distinct", "Distinct runs of three tokens in one-step draws", "share of all runs"),
    ):
        seen = [line for line in lines if line.get(f"student_{name}") is not None]
        seen = seen[:: -(-len(seen) // _MOST_POINTS) or 1]
        if len(seen) > 1:
            steps = [line["step"] for line in seen]
            series = [
                Series(who, steps, [line[f"{who}_{name}"] for line in seen], role=who)
                for who in ("student", "teacher")
            ]
            charts.append(Chart(f"{about}: {title}", series, (), "step", unit, log_x=False))
    bins = next((line["calibration"] for line in lines if line.get("calibration")), None)
    if bins:
        times = [one["t"] for one in bins]
        low = [one["realised"] - 1.96 * one["error"] for one in bins]
        high = [one["realised"] + 1.96 * one["error"] for one in bins]
        charts.append(
            Chart(
                f"The teacher's surprise at true tokens: {title}",
                [
                    Series("as it is", times, [o["realised"] for o in bins], low, high, "data"),
                    Series("as it predicts", times, [o["predicted"] for o in bins], role="teacher"),
                ],
                (),
                "t",
                "nats per position",
                log_x=False,
                caption="They agree for a calibrated teacher. The band is a 95% interval.",
            )
        )
    return charts


def _advice(line: Mapping[str, Any], kind: str) -> str:
    return line.get("advice", {}).get(kind, "")


def _lines(path: str | Path) -> list[dict[str, Any]]:
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        return []
    return read_json_lines(path)
