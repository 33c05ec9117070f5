"""What the rows of ``recovery`` say: tables and charts, and the whole check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewjump.report import Chart, Note, Reference, Role, Series, Table, short
from fewjump.verify.recovery_cases import METHODS, SOURCES
from fewjump.verify.recovery_network_words import (
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
from fewjump.verify.recovery_verdict import NOISY, Rows, of_largest, verdict_of
from fewjump.verify.result import CheckResult

if TYPE_CHECKING:
    from fewjump.verify.recovery import Options


def answer(rows: Rows, networks: Rows, saved: Rows | None, options: Options) -> CheckResult:
    """The whole check from what was measured."""
    charts = [_families(rows, options.threshold), *_others(rows, options.threshold)]
    tables = [_breaks(rows), _methods(rows)]
    verdict = verdict_of(rows)
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
    for role, row in zip(ROLES * 2, of_largest(rows, NOISY, "exact")):
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
    noisy = [r for r in mine if r["source"] == NOISY]
    methods = [_line(METHOD_WORDS[r["method"]], r, "l1", role) for role, r in zip(ROLES, noisy)]
    predicted = _line("predicted by 1/α", noisy[0], "predicted", "other")
    largest = of_largest(rows, NOISY, "exact")
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
    noisy = [r for r in rows if r["source"] == NOISY]
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


def _line(label: str, row: Mapping[str, Any], key: str, role: Role) -> Series:
    xs = [1 / a for a in row["alpha"]]
    return Series(label, *_pairs(xs, row[key]), role=role)


def _pairs(xs: Sequence[float], ys: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """The points to show: without refused ones, and errors that mean nothing any more."""
    kept = [(x, y) for x, y in zip(xs, ys) if y is not None and 1e-18 < y < 100]
    return [x for x, _ in kept], [y for _, y in kept]


def _tiny(value: float | None) -> bool:
    return value is not None and value < 1e-9
