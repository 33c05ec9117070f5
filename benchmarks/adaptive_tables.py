"""The tables of docs/adaptive-times.md: each choice against the uniform one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from page_parts import Content, table

CORPORA = ("names", "text", "digits")
WORDS = {
    "bound": "likelihood bound",
    "matched_nll": "judge NLL at matched entropy",
    "trigram_tv": "trigram TV",
    "frechet": "Fréchet",
    "1 − precision": "1 − precision",
    "1 − recall": "1 − recall",
    "output": "KL of the exact output",
    "posterior": "KL from the exact posterior",
}


def change(row: Content | None) -> str:
    """Difference and half of its interval; bold where the interval does not hold 0."""
    if row is None:
        return "–"
    text = f"{row['difference']:+.4f} ± {(row['high'] - row['low']) / 2:.4f}"
    return f"**{text}**" if decided(row) else text


def decided(row: Content) -> bool:
    """Whether a choice is told from the uniform one."""
    return bool(row["better"] or row["worse"])


def in_order(row: Content) -> int:
    """Names, text, digits; anything else first."""
    corpus = row["problem"].split(",")[0]
    return CORPORA.index(corpus) if corpus in CORPORA else -1


def comparison(found: Sequence[Content], leave_out: Sequence[str] = ()) -> str:
    """One line a problem, metric and number of steps; one column a choice."""
    choices = list(dict.fromkeys(r["choice"] for r in found))
    found = sorted(found, key=in_order)
    by_place: dict[tuple[str, str, int], dict[str, Content]] = {}
    for row in found:
        if row["process"] not in leave_out:
            place = (row["problem"], row["process"], row["steps"])
            by_place.setdefault(place, {})[row["choice"]] = row
    lines = []
    for (problem, metric, steps), here in by_place.items():
        base = next(iter(here.values()))["uniform"]
        cells = (change(here.get(choice)) for choice in choices)
        lines.append((problem, WORDS.get(metric, metric), steps or "–", f"{base:.4f}", *cells))
    header = ("problem", "measure", "steps", "uniform", *(f"{c} − uniform" for c in choices))
    return table(header, lines)


def tally(found: Sequence[Content]) -> str:
    """How often each choice is better and worse beyond its interval, and where."""
    lines = []
    for choice in dict.fromkeys(r["choice"] for r in found):
        mine = [r for r in found if r["choice"] == choice]
        parts = []
        for word in ("better", "worse"):
            hits = [r for r in mine if r[word]]
            places: dict[str, list[str]] = {}
            for r in hits:
                metric = WORDS.get(r["process"], r["process"])
                places.setdefault(r["problem"], []).append(f"{metric} at {r['steps']}")
            text = "; ".join(f"{p}: {', '.join(where)}" for p, where in places.items())
            parts.append(f"{word} {len(hits)}" + (f" ({text})" if hits else ""))
        lines.append(f"* `{choice}`, {len(mine)} comparisons: {'; '.join(parts)}.")
    return "\n".join(lines)


def promises(networks: Content) -> str:
    """What the fit promises beside what unseen data find, nats per token, mean over seeds."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in sorted(networks["grids"], key=in_order):
        if row["student"] == "fitted" and row["process"] == "bound":
            found.setdefault((row["problem"], row["steps"]), []).append(row["promised"])
    kept = {
        (r["problem"], r["steps"]): r
        for r in networks["grids_against_uniform"]
        if r["choice"] == "fitted" and r["process"] == "bound"
    }
    rows = [
        (problem, steps, f"{-sum(values) / len(values):+.4f}", change(kept[problem, steps]))
        for (problem, steps), values in found.items()
    ]
    return table(("problem", "steps", "promised", "found in the bound"), rows)


def beside_teacher(networks: Content) -> str:
    """Bounds of the teachers and of their students, on the same paths of the same sequences."""

    def mean(part: str, problem: str, student: str, steps: int) -> float | None:
        key = (problem, "bound", student, steps)
        found = [
            r["loss"]
            for r in networks[part]
            if (r["problem"], r["process"], r["student"], r["steps"]) == key
        ]
        return sum(found) / len(found) if found else None

    shared = sorted(
        {r["steps"] for r in networks["grids"]} & {r["steps"] for r in networks["training"]}
    )
    rows = []
    for corpus in CORPORA:
        for steps in shared:
            values = (
                mean("grids", f"{corpus}, masked", "uniform", steps),
                mean("training", f"{corpus}, warm", "uniform", steps),
                mean("training", f"{corpus}, warm", "gap halving", steps),
            )
            rows.append((corpus, steps, *("–" if v is None else f"{v:.4f}" for v in values)))
    return table(("problem", "steps", "teacher", "student, uniform", "student, gap halving"), rows)


def fitted_times(networks: Content, problem: str, steps: int) -> str:
    """The fitted times of every seed, in words."""
    grids = [
        r["times"]
        for r in networks["grids"]
        if (r["problem"], r["steps"], r["student"], r["process"])
        == (problem, steps, "fitted", "bound")
    ]
    return "; ".join(", ".join(f"{t:.2f}" for t in times) for times in grids)


def small_grids(small: Content) -> str:
    """The table of grids without networks."""
    found = {
        (r["problem"], r["process"], r["steps"], r["choice"]): r
        for r in small["grids_against_uniform"]
    }
    rows = []
    for problem, process, steps in dict.fromkeys(key[:3] for key in found):
        here = [found[problem, process, steps, c] for c in ("fitted", "cosine", "log-linear")]
        cells = (f"{here[0]['uniform']:.4f}", *(change(r) for r in here))
        rows.append((f"{problem}, {process}", steps, *cells))
    rows.sort(key=lambda row: (not row[0].startswith("joint"), row[0].endswith("masked")))
    names = ("fitted", "cosine", "log-linear")
    return table(("problem, noise", "steps", "uniform", *(f"{n} − uniform" for n in names)), rows)


def small_training(small: Content) -> str:
    """The table of trainings without networks."""
    found = {(r["problem"], r["choice"]): r for r in small["training_against_uniform"]}
    rows = [
        (choice, change(found["posterior", choice]), change(found["output", choice]))
        for choice in dict.fromkeys(choice for _, choice in found)
    ]
    head = ("choice", "posterior KL − uniform's", "4-step output KL − uniform's")
    return table(head, rows)
