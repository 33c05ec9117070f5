"""What the rows of ``vocabulary`` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewjump.report import Chart, KeyNumber, Note, Role, Series, Table, short
from fewjump.verify.result import CheckResult
from fewjump.verify.vocabulary_measure import slope

if TYPE_CHECKING:
    from fewjump.verify.vocabulary import Options

Rows = Sequence[Mapping[str, Any]]
_ROLES: tuple[Role, ...] = ("teacher", "student", "data", "other", "teacher", "student", "data")
MEASURES = {
    "recovery_seconds": ("Time of recovery, 16 positions", "processor seconds"),
    "step_seconds": ("Time of a distillation step, 2×8 positions", "processor seconds"),
    "recovery_bytes": ("Memory of recovery, 16 positions", "bytes"),
    "step_bytes": ("Memory of a distillation step, 2×8 positions", "bytes"),
}


def answer(rows: Rows, refused: Rows, options: Options) -> CheckResult:
    """The whole check from what was measured."""
    families = list(dict.fromkeys(r["family"] for r in rows))
    slopes = {
        (family, key): upper_slope([r for r in rows if r["family"] == family], key)
        for family in families
        for key in MEASURES
    }
    worst = max(slopes, key=lambda pair: slopes[pair])
    largest = max(r["vocab_size"] for r in rows)
    over = {pair: value for pair, value in slopes.items() if value > options.limit}
    silent = [r["asked"] for r in refused if r["said"] is None]
    verdict = [
        f"From V = {min(r['vocab_size'] for r in rows):,} to {largest:,}, the steepest growth is "
        f"that of {_words(worst)}: V to the power {slopes[worst]:.2f}. "
        + (
            f"All are at most {options.limit}: nothing grows faster than the vocabulary itself."
            if not over
            else f"{len(over)} of {len(slopes)} are above {options.limit}."
        ),
        f"At V = {largest:,} the closed form recovers 16 posteriors in "
        + ", ".join(f"{short(_at(rows, f, largest)['recovery_seconds'])} s ({f})" for f in families)
        + ".",
        *_sparse(rows, slopes, options.limit),
        f"The dense route was asked for {len(refused)} things that would not fit, and refused "
        + ("each with an error that names the way around." if not silent else f"not: {silent}."),
    ]
    return CheckResult(
        name="vocabulary",
        question="What do recovery and a distillation step cost as the vocabulary grows?",
        verdict=verdict,
        rows=[
            *rows,
            *({"family": f, "measure": k, "slope": round(v, 4)} for (f, k), v in slopes.items()),
            *refused,
        ],
        charts=[_chart(rows, families, key) for key in MEASURES],
        tables=[_slopes(slopes, families), _largest(rows, families, largest), _refused(refused)],
        notes=[_NOTE],
        key_numbers=[KeyNumber(f"{slopes[worst]:.2f}", f"steepest slope: {_words(worst)}")],
        settings={k: getattr(options, k) for k in ("seed", "smallest", "largest", "repeats")},
        failures=[
            f"{_words(pair)} grows as V to the power {value:.2f}, above {options.limit}"
            for pair, value in over.items()
        ]
        + [f"{name} was not refused where it would not fit" for name in silent],
    )


_NOTE = Note(
    "What is measured",
    (
        "Recovery is the closed form alone: the rank-one formula, the r×r form of low-rank rates, "
        "the inverse's action for low-rank rates with any diagonal and for sparse ones, which make "
        "no kernel. Sparse rates lead to 8 tokens: drawn from the whole vocabulary, or (near "
        "targets) the 7 next and a mask. A step is the loss, its gradients and AdamW for a "
        "transformer of width 32, whose embedding and output grow with V themselves. The first "
        "call of each, which fills caches and has the system map memory, does not count. Slopes "
        "are fitted over the upper half of the sizes.",
    ),
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
        f"(step); to 8 tokens near by, as many entries: {near[0]:.2f} and {near[1]:.2f}."
    )
    sizes = sorted({r["vocab_size"] for r in rows})
    ends = [sizes[len(sizes) // 2], sizes[-1]]
    costs = [[_at(rows, kind, v)[keys[0]] for kind in kinds] for v in ends]
    times = [other / next_to for other, next_to in costs]
    if far[0] > limit and times[1] > times[0]:
        said += (
            " Operations grow in proportion to V in both: reading at random in place of near by "
            f"makes recovery {times[0]:.1f} times as slow at V = {ends[0]:,} and {times[1]:.1f} "
            f"times at V = {ends[1]:,}, where vectors no longer fit the processor's caches."
        )
    return [said]


def upper_slope(rows: Rows, key: str) -> float:
    """Exponent of V over the upper half of the vocabularies."""
    found = sorted((r["vocab_size"], r[key]) for r in rows)
    upper = found[len(found) // 2 :] if len(found) > 3 else found
    return slope([v for v, _ in upper], [y for _, y in upper])


def _words(pair: tuple[str, str]) -> str:
    family, key = pair
    what, of = key.split("_")
    name = "recovery" if what == "recovery" else "a distillation step"
    return f"the {'time' if of == 'seconds' else 'memory'} of {name} ({family})"


def _at(rows: Rows, family: str, size: int) -> Mapping[str, Any]:
    return next(r for r in rows if (r["family"], r["vocab_size"]) == (family, size))


def _chart(rows: Rows, families: Sequence[str], key: str) -> Chart:
    title, unit = MEASURES[key]
    series = []
    for family, role in zip(families, _ROLES):
        mine = sorted((r["vocab_size"], r[key]) for r in rows if r["family"] == family)
        series.append(Series(family, [v for v, _ in mine], [y for _, y in mine], role=role))
    return Chart(title, series, (), "vocabulary", unit, log_y=True, better="lower")


def _slopes(slopes: Mapping[tuple[str, str], float], families: Sequence[str]) -> Table:
    return Table(
        "Exponents of V",
        ("process", "recovery, time", "step, time", "recovery, memory", "step, memory"),
        [(f, *(f"{slopes[f, key]:.2f}" for key in MEASURES)) for f in families],
    )


def _largest(rows: Rows, families: Sequence[str], size: int) -> Table:
    return Table(
        f"At V = {size:,}",
        ("process", "recovery, s", "step, s", "recovery, MB", "step, MB"),
        [
            (
                f,
                *(float(f"{_at(rows, f, size)[k]:.3g}") for k in list(MEASURES)[:2]),
                *(round(_at(rows, f, size)[k] / 1e6, 1) for k in list(MEASURES)[2:]),
            )
            for f in families
        ],
    )


def _refused(rows: Rows) -> Table:
    return Table(
        "What the dense route says where it would not fit",
        ("asked for", "said"),
        [(r["asked"], r["said"] or "nothing: it tried") for r in rows],
    )
