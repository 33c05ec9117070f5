"""``fewjump verify vocabulary``: what recovery and a distillation step cost as V grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fewjump.report import KeyNumber, Series, Table
from fewjump.verify.checks import CheckOptions, CheckResult
from fewjump.verify.summary import Role, Rows, chart, distinct, pick, pivot, short

FAMILIES = (
    "uniform",
    "absorbing",
    "random prior",
    "low-rank rate",
    "low-rank and diagonal",
    "sparse rate",
    "sparse rate, near targets",
)
ROLES: tuple[Role, ...] = ("teacher", "student", "data", "other", "teacher", "student", "data")
#: Key of the rows → what is measured, of what, unit, positions.
MEASURES = {
    "recovery_seconds": ("time", "recovery", "processor seconds", "16"),
    "step_seconds": ("time", "a distillation step", "processor seconds", "2×8"),
    "recovery_bytes": ("memory", "recovery", "bytes", "16"),
    "step_bytes": ("memory", "a distillation step", "bytes", "2×8"),
}


@dataclass
class Options(CheckOptions):
    """Time and memory of recovery and of a distillation step, from V = 2⁸ to 2¹⁷.

    Structured processes, low-rank rates (8 clusters) with equal exit rates and with any, and sparse
    rates (8 targets a token, anywhere or near). Time is the processor's, the least of several runs
    after a first; memory is the most that was allocated at once. The slope is that of the
    logarithms over the upper half of the sizes, where fixed costs no longer show. The dense route
    must refuse what would not fit.
    """

    families: list[str] = field(default_factory=lambda: list(FAMILIES))
    """Which processes."""

    smallest: int = 8
    """Smallest vocabulary, as a power of two."""

    largest: int = 17
    """Largest vocabulary, as a power of two."""

    repeats: int = 3
    """Times that everything is measured, of which the quickest counts."""

    limit: float = 1.1
    """Largest slope that counts as linear."""


def run(options: Options) -> CheckResult:
    """Measure, fit slopes, and see that the dense route refuses.

    Raises:
        ValueError: for options outside their range.
    """
    unknown = [name for name in options.families if name not in FAMILIES]
    if unknown:
        raise ValueError(f"unknown family {unknown[0]!r}; known: {', '.join(FAMILIES)}")
    if not 2 <= options.smallest < options.largest <= 20 or options.repeats < 1:
        raise ValueError("2 ≤ --smallest < --largest ≤ 20 and --repeats at least 1 are needed")

    from fewjump.verify.vocabulary_measure import measure, refusals

    sizes = [2**k for k in range(options.smallest, options.largest + 1)]
    rows = measure(options.families, sizes, options.repeats, options.seed)
    return summarise([*rows, *refusals(2 ** max(17, options.largest))], options)


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Least-squares exponent of a power law in V."""
    xs, ys = [math.log(v) for v in sizes], [math.log(max(v, 1e-12)) for v in values]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mx) ** 2 for x in xs)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / spread


def upper_slope(rows: Rows, key: str) -> float:
    """Exponent of V over the upper half of the vocabularies."""
    found = sorted((r["vocab_size"], r[key]) for r in rows)
    upper = found[len(found) // 2 :] if len(found) > 3 else found
    return slope([v for v, _ in upper], [y for _, y in upper])


def summarise(rows: Rows, options: Options) -> CheckResult:
    """The check from what was measured, and from what the dense route said."""
    costs, refused = [r for r in rows if "family" in r], [r for r in rows if "asked" in r]
    families, largest = distinct(costs, "family"), max(distinct(costs, "vocab_size"))
    slopes = {
        (family, key): upper_slope(pick(costs, family=family), key)
        for family in families
        for key in MEASURES
    }
    words = {
        (family, key): f"the {MEASURES[key][0]} of {MEASURES[key][1]} ({family})"
        for family, key in slopes
    }
    worst = max(slopes, key=lambda pair: slopes[pair])
    over = {pair: value for pair, value in slopes.items() if value > options.limit}
    silent = [row["asked"] for row in refused if row["said"] is None]
    charts = []
    for key, (what, of, unit, positions) in MEASURES.items():
        series = []
        for family, role in zip(families, ROLES):
            mine = sorted((r["vocab_size"], r[key]) for r in pick(costs, family=family))
            series.append(Series(family, [v for v, _ in mine], [y for _, y in mine], role=role))
        title = f"{what.capitalize()} of {of}, {positions} positions"
        charts.append(chart(title, series, "vocabulary", unit, "xy"))
    names = {family: family for family in families}
    exponents = [
        {"family": family, "measure": key, "slope": round(value, 4)}
        for (family, key), value in slopes.items()
    ]
    at_largest = pick(costs, vocab_size=largest)
    tables = [
        pivot(
            "Exponents of V",
            [{**row, "slope": slopes[row["family"], row["measure"]]} for row in exponents],
            "family",
            names,
            {
                f"{of.split()[-1]}, {what}": {"measure": key}
                for key, (what, of, _, _) in MEASURES.items()
            },
            lambda cell: f"{cell[0]['slope']:.2f}",
            "process",
        ),
        Table(
            f"At V = {largest:,}",
            ("process", "recovery, s", "step, s", "recovery, MB", "step, MB"),
            [
                (
                    row["family"],
                    *(float(f"{row[key]:.3g}") for key in ("recovery_seconds", "step_seconds")),
                    *(round(row[key] / 1e6, 1) for key in ("recovery_bytes", "step_bytes")),
                )
                for row in at_largest
            ],
        ),
        Table(
            "What the dense route says where it would not fit",
            ("asked for", "said"),
            [(row["asked"], row["said"] or "nothing: it tried") for row in refused],
        ),
    ]
    failures = [
        f"{words[pair]} grows as V to the power {value:.2f}, above {options.limit}"
        for pair, value in over.items()
    ]
    return CheckResult(
        name="vocabulary",
        question="What do recovery and a distillation step cost as the vocabulary grows?",
        verdict=[
            f"From V = {min(distinct(costs, 'vocab_size')):,} to {largest:,} the steepest growth "
            f"is that of {words[worst]}: V to the power {slopes[worst]:.2f}; {len(over)} of "
            f"{len(slopes)} exponents are above {options.limit}.",
            f"Recovery of 16 posteriors at V = {largest:,}: "
            + ", ".join(f"{short(r['recovery_seconds'])} s ({r['family']})" for r in at_largest)
            + ".",
            *_sparse(costs, slopes, options.limit),
            f"The dense route was asked for {len(refused)} things that would not fit and refused "
            f"{len(refused) - len(silent)}.",
        ],
        rows=[*costs, *exponents, *refused],
        charts=charts,
        tables=tables,
        notes=[options.note()],
        key_numbers=[KeyNumber(f"{slopes[worst]:.2f}", f"steepest slope: {words[worst]}")],
        settings=options.settings(),
        failures=failures + [f"{name} was not refused where it would not fit" for name in silent],
    )


def _sparse(rows: Rows, slopes: Mapping[tuple[str, str], float], limit: float) -> list[str]:
    """How much of the cost of sparse products is where they read, if both kinds were measured."""
    keys = ("recovery_seconds", "step_seconds")
    kinds = ("sparse rate", "sparse rate, near targets")
    if not all((kind, key) in slopes for kind in kinds for key in keys):
        return []
    far, near = ([slopes[kind, key] for key in keys] for kind in kinds)
    said = (
        f"Sparse rates to 8 tokens anywhere: exponents {far[0]:.2f} (recovery) and {far[1]:.2f} "
        f"(step); to 8 tokens near by: {near[0]:.2f} and {near[1]:.2f}."
    )
    sizes = sorted(distinct(rows, "vocab_size"))
    ends = (sizes[len(sizes) // 2], sizes[-1])
    costs = [[pick(rows, family=k, vocab_size=v)[0][keys[0]] for k in kinds] for v in ends]
    times = [other / next_to for other, next_to in costs]
    if far[0] > limit and times[1] > times[0]:
        # Operations are as many: what grows is the cost of reading beyond the processor's caches.
        said += (
            f" Reading at random makes recovery {times[0]:.1f} times as slow at V = {ends[0]:,} "
            f"and {times[1]:.1f} times at V = {ends[1]:,}, beyond the processor's caches."
        )
    return [said]
