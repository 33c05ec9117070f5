"""Tables of guidance and of the students that take its scale."""

from __future__ import annotations

from experiments.pages.markdown import Row, mean, pivot, where
from experiments.pages.road import load
from fewjump.evaluate.meter import mean_over_seeds
from fewjump.results import as_row


def scales(metric: str, digits: str = "2") -> str:
    """A metric of every model and number of steps, by guidance scale.

    ± is half of a 95% interval: over samples, or over seeds where there are several and it is
    wider.
    """
    rows = where([row for row in load("guidance")["rows"] if row["nfe"]], metric=metric)

    def cell(rows: list[Row]) -> str:
        found = mean_over_seeds([as_row(row) for row in rows])
        low, high = found.ends
        return f"{found.value:.{digits}f} ± {(high - low) / 2:.{digits}f}"

    index = {
        "model": "model",
        "steps": "steps",
        "evaluations": lambda row: _evaluations(rows, row),
    }
    return pivot(rows, index, "scale", cell, lambda scale: f"scale {scale:g}")


def _evaluations(rows: list[Row], row: Row) -> str:
    """What the steps cost: at some scales the half."""
    same = where(rows, model=row["model"], steps=row["steps"])
    return "–".join(f"{count:g}" for count in sorted({other["nfe"] for other in same}))


def real(metric: str, spec: str = ".2f") -> str:
    """The same of the test pictures."""
    rows = [row for row in load("guidance")["rows"] if not row["nfe"]]
    return format(mean(where(rows, metric=metric), "value"), spec)
