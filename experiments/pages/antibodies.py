"""Tables and logos of the antibodies."""

from __future__ import annotations

from experiments.antibody_models import ROLLOUT_STEPS
from experiments.pages.logos import logos
from experiments.pages.markdown import MISSING, Row, plus_minus, table, where
from experiments.pages.road import load
from fewjump.demo.parts import TEACHER

HEADER = (
    "samples",
    "valid",
    "germline identity",
    "H / K / L",
    "amino acids, TV",
    "pairs, TV",
    "between two samples",
    "unique",
    "to the nearest rollout",
)


def cells() -> str:
    """What the judge says of every model at every number of evaluations."""
    rows = sorted(load("antibodies")["rows"], key=lambda r: (r["student"] != TEACHER, r["steps"]))
    lines = [(f"{row['student']}, {row['steps']}", *_judged(row)) for row in rows]
    return table(("evaluations", *HEADER), lines)


def sharpened() -> str:
    """The same at temperatures below 1: the teacher's most evaluations, students' one."""
    lines = [
        (f"{row['student']}, {row['steps']}", f"{row['temperature']:g}", *_judged(row))
        for row in load("antibodies")["sharpened"]
    ]
    return table(("evaluations", "temperature", *HEADER), lines)


def _judged(row: Row) -> tuple[str, ...]:
    """A row's numbers; the teacher's samples that others are compared with are not with it."""
    itself = (row["student"], row["steps"], row["temperature"]) == (TEACHER, ROLLOUT_STEPS, 1)
    return (
        str(row["n"]),
        plus_minus(row, "valid", 2),
        plus_minus(row, "identity"),
        _chains(row),
        MISSING if itself else plus_minus(row, "letters_tv"),
        MISSING if itself else plus_minus(row, "pairs_tv"),
        plus_minus(row, "between", 1),
        f"{row['unique']:.3f}",
        MISSING if itself else plus_minus(row, "nearest", 1),
    )


def learning() -> str:
    """−log p of the teacher's samples in one evaluation: seen and unseen; the head's training."""
    found = load("antibodies")
    lines = []
    for name, unseen in found["held_out_nll"].items():
        trained = found["trained"].get(name)
        lines.append(
            (
                name,
                MISSING if trained is None else f"{trained['head']:,}",
                MISSING if trained is None else f"{trained['core_seconds'] / 60:.1f}",
                f"{found['learned_nll'][name]:.3f}",
                f"{unseen:.3f}",
            )
        )
    header = (
        "one evaluation",
        "parameters of the head",
        "training, minutes of a core",
        "nats per residue, learned from",
        "held out",
    )
    return table(header, lines)


def speed() -> str:
    """Seconds of a core for one sample drawn alone."""
    rows = load("antibodies")["alone"]
    slow = where(rows, student=TEACHER)[0]["seconds"]
    lines = [
        (f"{r['student']}, {r['steps']}", f"{r['seconds']:.3f}", f"{slow / r['seconds']:.0f}×")
        for r in rows
    ]
    return table(("evaluations", "seconds", "the teacher's 64 over it"), lines)


def designs() -> str:
    """Loops of known chains filled anew."""
    lines = [
        (
            row["loops"],
            row["student"],
            row["n"],
            plus_minus(row, "valid", 2),
            plus_minus(row, "identity"),
            f"{row['unique']:.2f}",
            plus_minus(row, "letters_tv"),
            plus_minus(row, "pairs_tv"),
        )
        for row in load("antibodies")["designs"]
    ]
    header = (
        "loops",
        "filled by",
        "fillings",
        "valid",
        "germline identity",
        "unique",
        "amino acids, TV",
        "pairs, TV",
    )
    return table(header, lines)


def loops(framework: str, *students: str) -> str:
    """Logos of the third loop of one chain."""
    return f"![{_title(framework)}](experiments/{'-'.join([framework, *students])}.svg)"


def loops_drawing(framework: str, *students: str) -> str:
    """The SVG behind :func:`loops`; the teacher's, one residue an evaluation, comes first."""
    found = load("antibodies")["loops"]
    panels = {}
    for name in (f"{TEACHER}, one by one", *students):
        (mine,) = where(found[name], framework=framework)
        said = name if name not in students else f"{name}, one evaluation"
        panels[said] = mine["letters"]
    return logos(panels, _title(framework))


def cell(student: str, steps: str, key: str, temperature: str = "1") -> str:
    """One number of the first table with half of its interval; of the second at a temperature."""
    found = load("antibodies")
    rows = [*found["rows"], *found["sharpened"]]
    here = {"student": student, "steps": int(steps), "temperature": float(temperature)}
    (row,) = where(rows, **here)
    return plus_minus(row, key, {"valid": 2, "between": 1}.get(key, 3))


def _chains(row: Row) -> str:
    count = row["chains"]
    return " / ".join(f"{100 * count.get(kind, 0) / row['n']:.0f}%" for kind in "HKL")


def _title(framework: str) -> str:
    return f"The third loop of {framework}'s heavy chain"
