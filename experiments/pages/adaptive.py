"""Tables of times that adapt: each choice against the uniform one."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.pages.markdown import Row, mean, pivot, table, where
from experiments.pages.road import load

NETWORKS, SMALL = "adaptive_networks", "adaptive_times"
CORPORA = ("names", "text", "digits")
WORDS = {
    "bound": "likelihood bound",
    "matched_nll": "judge NLL at matched entropy",
    "trigram_tv": "trigram TV",
    "frechet": "Fréchet",
}


def comparison(part: str, *left_out: str) -> str:
    """One line a problem, metric and number of steps; one column a choice."""
    rows = sorted(load(NETWORKS)[f"{part}_against_uniform"], key=_in_order)
    choices = dict.fromkeys(r["choice"] for r in load(NETWORKS)[f"{part}_against_uniform"])
    return pivot(
        [r for r in rows if r["process"] not in left_out],
        {
            "problem": "problem",
            "measure": lambda r: _word(r),
            "steps": "steps",
            "uniform": lambda r: f"{r['uniform']:.4f}",
        },
        "choice",
        _change,
        "{} − uniform".format,
        list(choices),
    )


def tally(part: str) -> str:
    """How often each choice is better and worse beyond its interval, and where."""
    rows, lines = load(NETWORKS)[f"{part}_against_uniform"], []
    for choice in dict.fromkeys(r["choice"] for r in rows):
        mine, cells = where(rows, choice=choice), []
        for word in ("better", "worse"):
            hits = where(mine, **{word: True})
            places: dict[str, list[str]] = {}
            for r in hits:
                places.setdefault(r["problem"], []).append(f"{_word(r)} at {r['steps']}")
            told = "; ".join(f"{p}: {', '.join(found)}" for p, found in places.items())
            cells += [len(hits), told]
        lines.append((f"`{choice}`", len(mine), *cells))
    return table(("choice", "comparisons", "better", "where", "worse", "where"), lines)


def promises() -> str:
    """What the fit promises beside what unseen data find, nats per token, mean over seeds."""
    networks = load(NETWORKS)
    fits = where(sorted(networks["grids"], key=_in_order), student="fitted", process="bound")
    lines = []
    for problem, steps in dict.fromkeys((r["problem"], r["steps"]) for r in fits):
        promised = mean(where(fits, problem=problem, steps=steps), "promised")
        kept = where(
            networks["grids_against_uniform"],
            choice="fitted",
            process="bound",
            problem=problem,
            steps=steps,
        )
        lines.append((problem, steps, f"{-promised:+.4f}", _change(kept)))
    return table(("problem", "steps", "promised", "found in the bound"), lines)


def fitted_times(steps: str) -> str:
    """The fitted times of every seed."""
    fits = where(load(NETWORKS)["grids"], steps=int(steps), student="fitted", process="bound")
    lines = [
        (r["problem"], r["seed"], ", ".join(f"{t:.2f}" for t in r["times"]))
        for r in sorted(fits, key=lambda r: (_in_order(r), r["problem"]))
    ]
    return table(("problem", "seed", "times"), lines)


def beside_teacher() -> str:
    """Bounds of the teachers and of their students, on the same paths of the same sequences."""
    networks = load(NETWORKS)

    def bound(part: str, problem: str, student: str, steps: int) -> str:
        rows = where(networks[part], problem=problem, process="bound", student=student, steps=steps)
        return f"{mean(rows, 'loss'):.4f}"

    lines = [
        (
            corpus,
            steps,
            bound("grids", f"{corpus}, masked", "uniform", steps),
            bound("training", f"{corpus}, warm", "uniform", steps),
            bound("training", f"{corpus}, warm", "gap halving", steps),
        )
        for corpus in CORPORA
        for steps in (4, 8)
    ]
    return table(("problem", "steps", "teacher", "student, uniform", "student, gap halving"), lines)


def small_grids() -> str:
    """Grids without networks."""
    rows = [
        {**r, "where": f"{r['problem']}, {r['process']}"}
        for r in load(SMALL)["grids_against_uniform"]
    ]
    rows.sort(key=lambda r: (r["problem"] != "joint", r["process"] == "masked"))
    return pivot(
        rows,
        {"problem, noise": "where", "steps": "steps", "uniform": lambda r: f"{r['uniform']:.4f}"},
        "choice",
        _change,
        "{} − uniform".format,
        ["fitted", "cosine", "log-linear"],
    )


def small_training() -> str:
    """Trainings without networks."""
    heads = {"posterior": "posterior KL − uniform's", "output": "4-step output KL − uniform's"}
    rows = load(SMALL)["training_against_uniform"]
    return pivot(rows, {"choice": "choice"}, "problem", _change, heads.__getitem__, list(heads))


def small_uniform(problem: str) -> str:
    """What uniform times reach in the trainings without networks."""
    return f"{where(load(SMALL)['training_against_uniform'], problem=problem)[0]['uniform']:.4f}"


def budget(corpus: str) -> str:
    """Optimiser steps and sequences a step of a corpus's product students."""
    parts = [load(NETWORKS)[name] for name in ("budget", "text_budget")]
    steps, batch = (
        dict(pair for part in parts for pair in part[key]) for key in ("training", "batch_size")
    )
    return f"{steps[corpus]} steps of {batch[corpus]}"


def comparisons(share: str = "1") -> str:
    """All comparisons with networks, or a share of them."""
    parts = ("grids", "training", "joint")
    many = sum(len(load(NETWORKS)[f"{part}_against_uniform"]) for part in parts)
    return f"{many / int(share):.0f}"


def _change(rows: Sequence[Row]) -> str:
    """Difference and half of its interval; bold where the interval does not hold 0."""
    (row,) = rows
    text = f"{row['difference']:+.4f} ± {(row['high'] - row['low']) / 2:.4f}"
    return f"**{text}**" if row["better"] or row["worse"] else text


def _word(row: Row) -> str:
    process = str(row["process"])
    return WORDS.get(process, process)


def _in_order(row: Row) -> int:
    """Names, text, digits."""
    return CORPORA.index(row["problem"].split(",")[0])
