"""What the rows of ``recovery`` say: tables, charts and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewjump.experiment.check_result import CheckResult
from fewjump.experiment.recovery_cases import METHODS, SOURCES
from fewjump.experiment.recovery_network_words import (
    METHOD_WORDS,
    ROLES,
    network_chart,
    network_table,
    network_verdict,
    saved_chart,
    saved_table,
    saved_verdict,
    values_of,
)
from fewjump.report.axis import short
from fewjump.report.content import Chart, Note, Reference, Role, Series, Table

if TYPE_CHECKING:
    from fewjump.experiment.recovery import Options

Rows = Sequence[Mapping[str, Any]]
_NOISY = "noise 1%"


def answer(rows: Rows, networks: Rows, saved: Rows | None, options: Options) -> CheckResult:
    """The whole check from what was measured."""
    charts = [_families(rows, options.threshold), *_others(rows, options.threshold)]
    tables = [_breaks(rows), _methods(rows)]
    verdict = _verdict(rows)
    failures = [
        f"{r['family']}, V = {r['vocab_size']}: exact float64 ratios at α = 0.9 give an error of "
        f"{short(r['l1'][0])}"
        for r in rows
        if r["source"] == SOURCES[0].name and r["method"] == "exact" and not _tiny(r["l1"][0])
    ]
    if networks:
        charts += [network_chart(networks, f) for f in values_of(networks, "family")]
        tables.append(network_table(networks))
        verdict += network_verdict(networks)
    if saved is not None:
        charts.insert(0, saved_chart(saved))
        tables.insert(0, saved_table(saved))
        verdict = [saved_verdict(saved), *verdict]
    return CheckResult(
        name="recovery",
        question="When can a posterior be recovered from concrete scores?",
        verdict=verdict,
        rows=[*rows, *networks, *(saved or ())],
        charts=charts,
        tables=tables,
        notes=[_NOTE],
        settings={
            "seed": options.seed,
            "seeds": options.seeds,
            "threshold": options.threshold,
            "vocab_sizes": options.vocab_sizes,
            "network_steps": options.network_steps,
            "model": options.model,
        },
        failures=failures,
    )


_NOTE = Note(
    "What is measured",
    (
        "One position with a known (Zipf) law of its clean token. Its ratios "
        "p_t(y)/p_t(x) are exact up to the precision or the log-normal noise that is named, and "
        "what recovery makes of them is compared with the posterior by Bayes' rule: "
        "`E‖p̂ − p‖₁`, at most 2 for two laws. Recovery **breaks** where this passes the threshold. "
        "α = e^−σ̄ is the noise level; rates are scaled to a spectral gap of 1, so that α means the "
        "same for all. Absorbing noise is looked at where a position is masked.",
        "The prediction takes each ratio's relative error to be amplified by exactly 1/α.",
    ),
)


def _families(rows: Rows, threshold: float) -> Chart:
    series = []
    for role, row in zip(ROLES * 2, _largest(rows, _NOISY, "exact")):
        series.append(_line(f"{row['family']}, V = {row['vocab_size']}", row, "l1", role))
    return Chart(
        "Error of the closed form, from ratios with 1% noise",
        series,
        [Reference("breaks", threshold)],
        "1/α",
        "E‖p̂ − p‖₁",
        log_y=True,
        better="lower",
        caption="Reset processes lose exactly a factor 1/α. Absorbing noise loses nothing. A chain "
        "with fast modes loses far more, because those are forgotten long before the slowest one.",
    )


def _others(rows: Rows, threshold: float) -> list[Chart]:
    family = values_of(rows, "family")[0]
    mine = [r for r in rows if r["family"] == family]
    size = max(r["vocab_size"] for r in mine)
    mine = [r for r in mine if r["vocab_size"] == size]
    where = f"{family}, V = {size}"
    closed = [r for r in mine if r["method"] == "exact"]
    lines = [_line(r["source"], r, "l1", role) for role, r in zip(ROLES * 2, closed)]
    noisy = [r for r in mine if r["source"] == _NOISY]
    methods = [_line(METHOD_WORDS[r["method"]], r, "l1", role) for role, r in zip(ROLES, noisy)]
    predicted = _line("predicted by 1/α", noisy[0], "predicted", "other")
    largest = _largest(rows, _NOISY, "exact")
    by_condition = [
        Series(r["family"], *_pairs(r["condition"], r["l1"]), role=role)
        for role, r in zip(ROLES * 2, largest)
    ]
    floor = min(x for s in by_condition for x in s.x)
    ends = [floor, 2 / 0.008]
    bound = Series("1% × condition number", ends, [0.008 * x for x in ends], role="other")
    axes = {"x_label": "1/α", "y_label": "E‖p̂ − p‖₁", "log_y": True}
    mark = [Reference("breaks", threshold)]
    return [
        Chart(f"Precision and noise of the ratios: {where}", lines, mark, **axes, better="lower"),
        Chart(
            f"Ways to recover, 1% noise: {where}",
            [*methods, predicted],
            mark,
            **axes,
            better="lower",
            caption="Keeping p ≥ 0 bounds the error by 2; it moves the break point little.",
        ),
        Chart(
            "The same errors against the condition number of P_{t|0}",
            [*by_condition, bound],
            mark,
            "condition number",
            "E‖p̂ − p‖₁",
            log_y=True,
            better="lower",
            caption="A guide for uniform noise and for chains with fast modes, where it is an "
            "upper bound; for absorbing noise it warns of what does not happen.",
        ),
    ]


def _breaks(rows: Rows) -> Table:
    closed = [r for r in rows if r["method"] == "exact"]
    keys = list(dict.fromkeys((r["family"], r["vocab_size"]) for r in closed))
    found = {(r["family"], r["vocab_size"], r["source"]): r for r in closed}
    names = [s.name for s in SOURCES]
    return Table(
        "Where the closed form breaks: α (and t on the log-linear schedule)",
        ("process", "V", *names, "largest condition number"),
        [
            (
                *key,
                *(_break_words(found[*key, n]) for n in names),
                _largest_condition(found[*key, names[0]]),
            )
            for key in keys
        ],
        caption="The largest α at which the error passes the threshold, from data towards noise; "
        "± is the 95% interval over seeds, as a factor. α = 1e-3 is where the usual schedule ends.",
    )


def _largest_condition(row: Mapping[str, Any]) -> str:
    return f"{max(c for c in row['condition'] if c is not None):.1e}"


def _methods(rows: Rows) -> Table:
    noisy = [r for r in rows if r["source"] == _NOISY]
    keys = list(dict.fromkeys((r["family"], r["vocab_size"]) for r in noisy))
    found = {(r["family"], r["vocab_size"], r["method"]): r for r in noisy}
    return Table(
        "Where each method breaks, 1% noise: α; and its error at α = 0.01",
        (
            "process",
            "V",
            *(METHOD_WORDS[m] for m in METHODS),
            *(f"{METHOD_WORDS[m]}, error" for m in METHODS),
        ),
        [
            (
                *key,
                *(_break_words(found[*key, m]) for m in METHODS),
                *(_at(found[*key, m], 0.01) for m in METHODS),
            )
            for key in keys
        ],
        caption="A dash: the kernel is singular in float64 there, and recovery is refused.",
    )


def _break_words(row: Mapping[str, Any]) -> str:
    at = row["break_alpha"]
    if at is None:
        return "never"
    if at >= row["alpha"][0]:
        return "from the first α"
    spread = math.sqrt(row["break_high"] / row["break_low"])
    around = "" if spread < 1.005 else f" ×/÷ {spread:.2f}" if spread < 10 else ", seeds differ"
    time = row["break_time"]
    return f"{short(at)}{around} ({f't = {time:.3f}' if time <= 1 else 'after t = 1'})"


def _at(row: Mapping[str, Any], alpha: float) -> float | None:
    return row["l1"][row["alpha"].index(alpha)]


def _verdict(rows: Rows) -> list[str]:
    words = []
    largest = {r["family"]: r for r in _largest(rows, _NOISY, "exact")}
    for family in ("uniform", "random prior"):
        if family in largest:
            row = largest[family]
            share = [a / p for a, p in zip(row["l1"], row["predicted"]) if a and p]
            low, high = min(share), max(share)
            name = family[0].upper() + family[1:]
            words.append(
                f"**{name} noise (V = {row['vocab_size']})**: the error is what 1/α predicts, "
                f"times {low:.2f} to {high:.2f} over all α. With 1% noise on the ratios the closed "
                f"form breaks at {_break_sentence(row)}."
            )
    if "absorbing" in largest:
        row = largest["absorbing"]
        words.append(
            f"**Absorbing noise** amplifies nothing at all: from α = {short(row['alpha'][0])} to "
            f"{short(row['alpha'][-1])} the error stays between {short(min(row['l1']))} and "
            f"{short(max(row['l1']))}, while the condition number rises to "
            f"{row['condition'][-1]:.1e}. At a masked position p(y) is a multiple of r_y, so each "
            "entry keeps its own relative error: the condition number is no guide there."
        )
    for family in ("discretised Gaussian", "random rate"):
        if family in largest:
            row = largest[family]
            refused = [a for a, e in zip(row["alpha"], row["l1"]) if e is None]
            end = (
                f"; from α = {short(refused[0])} on the kernel is singular in float64"
                if refused
                else ""
            )
            words.append(
                f"**{family[0].upper()}{family[1:]} (V = {row['vocab_size']})** breaks at "
                f"{_break_sentence(row)}, where 1/α is still {short(1 / row['break_alpha'])}: its "
                f"fast modes are forgotten sooner than α says{end}."
            )
    return [*words, *_precision(rows), *_gain(rows)]


def _precision(rows: Rows) -> list[str]:
    """What the precision of exact ratios costs uniform noise."""
    found = {
        s.name.removeprefix("exact, "): row
        for s in SOURCES
        if not s.noise
        for row in _largest(rows, s.name, "exact")
        if row["family"] == "uniform"
    }
    if len(found) < 3:
        return []
    parts = [f"in {name} {_precision_words(row)}" for name, row in found.items()]
    return [f"**Precision** (exact ratios, uniform noise): recovery {', '.join(parts)}."]


def _precision_words(row: Mapping[str, Any]) -> str:
    if row["break_alpha"] is None:
        return "never breaks"
    after = row["break_time"] > 1
    where = "past a log-linear schedule's end" if after else f"t = {row['break_time']:.3f}"
    return f"breaks at α = {short(row['break_alpha'])} ({where})"


def _gain(rows: Rows) -> list[str]:
    """What keeping p ≥ 0 is worth, where the closed form breaks by noise."""
    mine = {
        m: next((r for r in _largest(rows, _NOISY, m) if r["family"] == "uniform"), None)
        for m in METHODS
    }
    known = {m: r for m, r in mine.items() if r is not None and r["break_alpha"] is not None}
    if len(known) < len(METHODS):
        return []
    best = min(known, key=lambda m: known[m]["break_alpha"])
    return [
        f"**Methods** (uniform noise, V = {known[best]['vocab_size']}, 1% noise): `{best}` holds "
        f"longest, to α = {short(known[best]['break_alpha'])} against "
        f"{short(known['exact']['break_alpha'])} for the closed form. Keeping p ≥ 0 postpones the "
        "end; it does not remove it."
    ]


def _break_sentence(row: Mapping[str, Any]) -> str:
    if row["break_alpha"] is None:
        return "no α that was tried"
    return f"α = {short(row['break_alpha'])} (t = {row['break_time']:.2f} of a log-linear schedule)"


def _largest(rows: Rows, source: str, method: str) -> list[Mapping[str, Any]]:
    """For each family the row of its largest vocabulary."""
    mine = [r for r in rows if (r["source"], r["method"]) == (source, method)]
    best: dict[str, Mapping[str, Any]] = {}
    for row in mine:
        if row["family"] not in best or row["vocab_size"] > best[row["family"]]["vocab_size"]:
            best[row["family"]] = row
    return list(best.values())


def _line(label: str, row: Mapping[str, Any], key: str, role: Role) -> Series:
    xs = [1 / a for a in row["alpha"]]
    return Series(label, *_pairs(xs, row[key]), role=role)


def _pairs(xs: Sequence[float], ys: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """The points to show: without refused ones, and errors that mean nothing any more."""
    kept = [(x, y) for x, y in zip(xs, ys) if y is not None and 1e-18 < y < 100]
    return [x for x, _ in kept], [y for _, y in kept]


def _tiny(value: float | None) -> bool:
    return value is not None and value < 1e-9
