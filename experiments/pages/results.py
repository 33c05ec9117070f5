"""Tables of problems with a known law, and of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.pages.markdown import (
    MISSING,
    Row,
    code,
    form,
    mean,
    pivot,
    plus_minus,
    select,
    steps_head,
    table,
    where,
)
from experiments.pages.road import load

EXACT = "exact product teacher"


def sampler_order() -> str:
    """Slopes of the mild joint and of the rough one."""
    rows = sorted(load("sampler_order")["rows"], key=lambda r: r["roughness"])
    index = {"sampler": code("sampler"), "stated order": "order"}
    return pivot(rows, index, "process", lambda both: " / ".join(f"{r['slope']:.2f}" for r in both))


def sampler_laws(process: str) -> str:
    """TV at 2, 4, 8 and 64 steps: a line per sampler, a column per problem."""
    rows = [r for r in where(load("sampler_laws")["rows"], process=process) if r["steps"] > 1]

    def cell(found: Sequence[Row]) -> str:
        values = [r["tv"] for r in sorted(found, key=lambda r: r["steps"])]
        shown = ["0" if v < 1e-12 else f"{v:.2g}" if v < 0.01 else f"{v:.3f}" for v in values]
        return " / ".join(shown)

    return pivot(rows, {"sampler": code("sampler")}, "problem", cell)


def decoding_speed() -> str:
    """Speed against the walk, passes and acceptance, by the number drawn together."""
    rows = load("decoding_speed")["rows"]

    def cell(found: Sequence[Row]) -> str:
        (row,) = found
        return f"{row['speed_up']:.2f}×"

    def passes(row: Row) -> str:
        return MISSING if row["passes"] is None else f"{typical(row, 'passes'):.1f}"

    def accepted(row: Row) -> str:
        return MISSING if row["acceptance"] is None else f"{typical(row, 'acceptance'):.0%}"

    def typical(row: Row, key: str) -> float:
        most = max(r["batch"] for r in rows)
        (chosen,) = where(rows, student=row["student"], way=row["way"], batch=most)
        return chosen[key]

    others = [row for row in rows if row["way"] != "sequential"]
    index = {"student": "student", "drawn by": "way", "passes": passes, "accepted": accepted}
    return pivot(others, index, "batch", cell, lambda n: f"{n} together")


def error_terms() -> str:
    """Under uniform noise; the second-order sampler is in the file."""
    names = {"factorization": "factorization", "Euler": "euler"}
    names |= {"network": "network", "total": "total"}

    def term(key: str) -> Any:
        return lambda row: "0" if abs(row[key]) < 1e-9 else f"{row[key]:.3g}"

    rows = where(load("error_terms")["rows"], process="uniform")
    rows = [row for row in rows if row["sampler"] != "theta-trapezoidal"]
    columns = {"sampler": code("sampler"), "steps": "steps"}
    return select(rows, columns | {head: term(key) for head, key in names.items()})


def markov_curve() -> str:
    """Bigram total variation; intervals of several seeds are those of their mean."""

    def cell(rows: Sequence[Row]) -> str:
        half = sum(((r["high"] - r["low"]) / 2) ** 2 for r in rows) ** 0.5 / len(rows)
        return f"{mean(rows, 'bigram_tv'):.3f} ± {half:.3f}"

    rows = sorted(load("markov_curve")["rows"], key=lambda r: r["steps"])
    return pivot(rows, {"steps": "steps"}, "model", cell)


def markov_against_teacher() -> str:
    """Student minus teacher; bold where the interval leaves out 0."""
    found = load("markov_curve")["against_teacher"]
    rows = [{"student": name, **row} for name, entries in found.items() for row in entries]
    rows.sort(key=lambda r: r["steps"])

    def cell(rows: Sequence[Row]) -> str:
        text = f"{rows[0]['difference']:+.3f} ± {rows[0]['half_width']:.3f}"
        return text if rows[0]["within"] else f"**{text}**"

    return pivot(rows, {"steps": "steps"}, "student", cell)


def pictures(name: str, metric: str) -> str:
    """An image metric of models against numbers of steps, and of the reference."""
    mine = where(load(name)["rows"], metric=metric)
    (reference,) = (r for r in mine if not r["steps"])
    rows = [r for r in mine if r["steps"]]
    count = len({r["steps"] for r in rows})
    body = pivot(rows, {"model": "model"}, "steps", lambda r: _interval(r[0]), "{} steps".format)
    last = (f"*{reference['model']}*", _interval(reference), *[""] * (count - 1))
    return f"{body}\n| " + " | ".join(last) + " |"


def picture_likelihood() -> str:
    """What one evaluation gives to unseen pictures, and to those it was trained on."""
    rows = load("digits")["one_evaluation_nll"]
    lines = []
    for model in dict.fromkeys(r["model"] for r in rows):
        mine = where(rows, model=model)
        lines.append((model, *(f"{mean(mine, part):.3f}" for part in ("test", "train"))))
    return table(("model", "unseen pictures", "training pictures"), lines)


def joint_markov() -> str:
    """Every student and seed in one evaluation, beside fresh samples."""
    content, lines = load("joint_markov"), []
    for reference in content["references"]:
        problem, length = reference["problem"], reference["length"]
        fresh = (f"{reference['exact_bigram_tv']:.3g}", f"{reference['exact_nll']:.3f}")
        lines.append((problem, length, "*fresh samples*", MISSING, *fresh))
        mine = where(content["rows"], problem=problem, length=length)
        for r in sorted(mine, key=lambda r: (r["student"], r["process"])):
            tv = f"{r['bigram_tv']:.4f} ({r['bigram_tv_low']:.4f}–{r['bigram_tv_high']:.4f})"
            nll = f"{r['nll']:.3f} ({r['nll_low']:.3f}–{r['nll_high']:.3f})"
            lines.append((problem, length, r["student"], r["process"], tv, nll))
    return table(("problem", "L", "student", "noise", "bigram TV", "nats per token"), lines)


def joint_exact() -> str:
    """KL and TV at each number of steps, and the share of the floor that one step removes."""
    content, lines = load("joint_exact"), []
    for summary in content["summary"]:
        problem = summary["problem"]
        shares = [f"{100 * summary[k]:.1f}%" for k in ("removed", "removed_least")]
        removed = "{} (least {})".format(*shares).replace("-0.0%", "0.0%")
        students = [(summary["student"], removed)]
        if summary["student"] == "product":
            students.insert(0, (EXACT, "0%"))
        for student, share in students:
            mine = where(content["rows"], problem=problem, student=student)
            cells = [_mean_at(mine, k, metric) for metric in ("kl", "tv") for k in (1, 2, 4)]
            lines.append((problem, student, *cells, share))
    heads = [f"{metric}, {steps_head(k)}" for metric in ("KL", "TV") for k in (1, 2, 4)]
    return table(("problem", "student", *heads, "floor removed"), lines)


def hybrid_noise(metric: str) -> str:
    """A metric of samples against steps, a line for each noise and model."""
    return pivot(
        load("hybrid_noise")["means"],
        {"noise": "noise", "model": "model"},
        "steps",
        lambda rows: plus_minus(rows[0], metric),
        steps_head,
    )


def hybrid_pairs() -> str:
    """Two-step samples by who answers at each evaluation."""
    rows = [
        {**row, "metric": word, "key": key}
        for row in load("hybrid_steps")["pair_means"]
        for key, word in (("bigram_tv", "bigram TV"), ("nll", "nats per token"))
    ]
    return pivot(
        rows,
        {"noise": "noise", "": "metric"},
        lambda row: f"{row['first']}, then {row['second']}",
        lambda rows: plus_minus(rows[0], rows[0]["key"]),
    )


def hybrid_excess() -> str:
    """KL from the exact law, by time."""
    rows = load("hybrid_steps")["excess_means"]
    return pivot(
        rows,
        {"noise": "noise", "model": "model"},
        "time",
        lambda rows: plus_minus(rows[0], "excess", 4),
        lambda t: f"t = {t:g}",
        list(dict.fromkeys(r["time"] for r in rows)),
    )


def chain() -> str:
    """The README's: one evaluation on the Markov chain of 32 positions."""
    content = load("joint_markov")
    first = {"problem": "Markov V=8", "process": "masked", "seed": 0, "length": 32}
    rows = where(content["rows"], **first)
    fresh = where(content["references"], problem="Markov V=8", length=32)[0]

    def of(student: str) -> Row:
        return where(rows, student=student)[0]

    shown: list[Mapping[str, Any]] = [
        {"": "exact teacher, per position: no such student can beat it", **of(EXACT)},
        {"": "chain student, distilled from it", **of("chain")},
        {
            "": "fresh samples of the chain",
            "bigram_tv": fresh["exact_bigram_tv"],
            "nll": fresh["exact_nll"],
        },
    ]
    columns = {
        "": "",
        "bigram error (total variation)": form("bigram_tv", ".3f"),
        "nats per token": form("nll", ".3f"),
    }
    return select(shown, columns)


def demo_seconds() -> str:
    """What the digits demo took in all."""
    return f"{sum(v for k, v in load('demo_digits').items() if k.startswith('seconds, ')):.0f}"


def _interval(row: Row) -> str:
    return f"{row['value']:.3g} ({row['low']:.3g}–{row['high']:.3g})"


def _mean_at(rows: Sequence[Row], steps: int, metric: str) -> str:
    """Over seeds, or a dash where there is no such number."""
    known = [row for row in where(rows, steps=steps) if metric in row]
    return f"{mean(known, metric):.3g}" if known else MISSING
