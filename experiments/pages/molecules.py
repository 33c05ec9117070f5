"""Tables and pictures of the molecules; ``which`` result is a notation and a number of tokens."""

from __future__ import annotations

from experiments.molecules import ONE_BY_ONE
from experiments.pages.markdown import MISSING, Row, plus_minus, table, where
from experiments.pages.road import load
from fewjump.demo.parts import TEACHER

#: The benchmark's table (arXiv 1811.12823; the numbers of its package's page): a mean over three
#: trainings on all molecules, of 30,000 samples each.
PUBLISHED = {
    "CharRNN, published": {
        "valid": 0.9748,
        "unique@1000": 1.0,
        "unique@10000": 0.9994,
        "FCD/Test": 0.0732,
        "FCD/TestSF": 0.5204,
        "SNN/Test": 0.6015,
        "SNN/TestSF": 0.5649,
        "Frag/Test": 0.9998,
        "Frag/TestSF": 0.9983,
        "Scaf/Test": 0.9242,
        "Scaf/TestSF": 0.1101,
        "IntDiv": 0.8562,
        "Filters": 0.9943,
        "Novelty": 0.8419,
    },
    "NGram, published": {
        "valid": 0.2376,
        "unique@1000": 0.974,
        "unique@10000": 0.9217,
        "FCD/Test": 5.5069,
        "FCD/TestSF": 6.2306,
        "SNN/Test": 0.5209,
        "SNN/TestSF": 0.4997,
        "Frag/Test": 0.9846,
        "Frag/TestSF": 0.9815,
        "Scaf/Test": 0.5302,
        "Scaf/TestSF": 0.0977,
        "IntDiv": 0.8738,
        "Filters": 0.9582,
        "Novelty": 0.9694,
    },
}


def curve(which: str) -> str:
    """Validity of the teacher's samples, one by one, while it was trained."""
    lines = [
        (f"{row['teacher_steps']:,}", plus_minus(row, "valid", 2), f"{row['different']:.2f}")
        for row in load(f"molecules_{which}")["curve"]
    ]
    return table(("teacher steps", "valid", "valid and different"), lines)


def training(which: str) -> str:
    """What every model's training took."""
    lines = [
        (name, f"{m['parameters']:,}", f"{m['steps']:,}", f"{m['seconds'] / 60:.0f}")
        for name, m in load(f"molecules_{which}")["trained"].items()
    ]
    return table(("model", "parameters", "optimiser steps", "minutes"), lines)


def cells(which: str) -> str:
    """Validity of every model at every number of evaluations."""
    lines = [
        (
            _said(row),
            row["n"],
            plus_minus(row, "valid"),
            f"{row['different']:.3f}",
            f"{1000 * row['core_seconds'] / row['n']:.1f}",
        )
        for row in _rows(which)
    ]
    header = ("evaluations", "samples", "valid", "valid and different")
    return table((*header, "seconds of a core for 1,000"), lines)


def benchmark(which: str) -> str:
    """The benchmark's metrics, beside its own table."""
    rows = [(_said(r), r["n"], r["moses"]) for r in _rows(which) if "moses" in r]
    rows += [(name, 30_000, found) for name, found in PUBLISHED.items()]
    keys = list(PUBLISHED["CharRNN, published"])
    lines = [
        (said, f"{n:,}", *(f"{found[key]:.3f}" if key in found else MISSING for key in keys))
        for said, n, found in rows
    ]
    return table(("evaluations", "samples", *keys), lines)


def designs(which: str) -> str:
    """Given parts completed."""
    lines = [
        (
            row["design"],
            _said(row),
            row["n"],
            plus_minus(row, "valid", 2),
            f"{row['different']:.2f}",
            f"{row['a_second']:.1f}",
        )
        for row in load(f"molecules_{which}")["designs"]
    ]
    header = ("parts", "evaluations", "completions", "valid", "valid and different")
    return table((*header, "of these in a second of a core"), lines)


def cell(which: str, student: str, steps: str, key: str) -> str:
    """One number of the first table with half of its interval."""
    rows = where(load(f"molecules_{which}")["rows"], student=student, steps=int(steps))
    return plus_minus(rows[0], key)


def speedup(which: str, student: str, steps: str) -> str:
    """How many times as fast as the teacher in all steps, at so many samples at once."""
    rows = load(f"molecules_{which}")["rows"]
    length = load(f"molecules_{which}")["length"]
    slow, fast = (
        where(rows, student=name, steps=k)[0]["core_seconds"]
        for name, k in ((TEACHER, length), (student, int(steps)))
    )
    return f"{slow / fast:.0f}"


def one_by_one(which: str, key: str) -> str:
    """One number of the teacher drawn symbol by symbol."""
    return plus_minus(where(load(f"molecules_{which}")["rows"], student=ONE_BY_ONE)[0], key)


def pictures(which: str, design: str, student: str) -> str:
    """Some of the molecules that a student made of given parts in one evaluation."""
    title = f"{design.capitalize()} by {student} in one evaluation"
    return f"![{title}](experiments/{'-'.join([which, design, student])}.svg)"


def pictures_drawing(which: str, design: str, student: str) -> str:
    """The SVG behind :func:`pictures`."""
    rows = load(f"molecules_{which}")["designs"]
    row = where(rows, design=design, student=student, steps=1)[0]
    start, end, rest = row["picture"].partition(">")
    if start.startswith("<?"):
        more, end, rest = rest.partition(">")
        start = f"{start}>{more}"
    said = f"<title>{design} by {student}</title><desc>{', '.join(row['examples'])}</desc>"
    return f"{start}{end}{said}{rest}"


def _rows(which: str) -> list[Row]:
    rows = load(f"molecules_{which}")["rows"]
    return sorted(rows, key=lambda r: (not r["student"].startswith(TEACHER), r["steps"]))


def _said(row: Row) -> str:
    return f"{row['student']}, {row['steps']}"
