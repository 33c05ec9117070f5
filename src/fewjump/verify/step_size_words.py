"""What the rows of ``step-size`` say: tables, charts and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewjump.report import Chart, KeyNumber, Note, Reference, Role, Series, Table, short
from fewjump.verify.result import CheckResult
from fewjump.verify.step_size_measure import DRAWS, break_points
from fewjump.verify.verdicts import half_width

if TYPE_CHECKING:
    from fewjump.verify.step_size import Options

Rows = Sequence[Mapping[str, Any]]
WORDS = {
    "student-euler": "Euler",
    "student-exact": "exact step",
    "student-trapezoidal": "second order",
    "forward": "forward pair",
    "teacher": "teacher",
}
_ROLES: dict[str, Role] = {
    "student-euler": "student",
    "student-exact": "teacher",
    "student-trapezoidal": "data",
    "forward": "other",
    "teacher": "other",
}


def answer(rows: Rows, options: Options, unit: str) -> CheckResult:
    """The whole check from what was measured.

    Args:
        rows: see :func:`fewjump.verify.step_size_measure.measure`.
        options: what was asked for.
        unit: of the rows' ``kl``.
    """
    families = list(dict.fromkeys(r["family"] for r in rows))
    charts, tables, verdict, key_numbers = [], [], [], []
    breaks = []
    for family in families:
        mine = [r for r in rows if r["family"] == family]
        steps = [r for r in mine if r["grid"] is None]
        charts.append(_against_gap(steps, family, unit))
        tables.append(_table(steps, family, unit))
        found = {draw: break_points(steps, draw) for draw in DRAWS}
        breaks += [{"family": family} | b for b in found.values()]
        verdict += _verdict(steps, family, found)
        euler = found["student-euler"]
        if euler["at"] is not None:
            key_numbers.append(
                KeyNumber(short(euler["at"]), f"Δt from which Euler draws do harm ({family})")
            )
        charts.append(_clipped(steps, family))
        gridded = [r for r in mine if r["grid"] is not None]
        if gridded:
            charts.append(_against_grid(gridded, family))
            tables.append(_grid_table(gridded, family))
            verdict.append(_grid_verdict(gridded, family))
    return CheckResult(
        name="step-size",
        question="How large may the step from x_t to x_s be?",
        verdict=verdict,
        rows=[*rows, *breaks],
        charts=charts,
        tables=[_break_table(breaks), *tables],
        notes=[_NOTE],
        key_numbers=key_numbers[:3],
        settings={
            name: getattr(options, name)
            for name in ("seed", "seeds", "steps", "gaps", "grids", "teacher_error", "model")
        },
    )


_NOTE = Note(
    "What is measured",
    (
        "Conditional matching teaches a student at t what the teacher says at s, with t − s drawn "
        "uniformly up to Δt. The teacher is the exact posterior with an error of its logits that "
        "grows with t, so that a longer step has more to gain; the student is a free table, "
        "started at the teacher, so that no network's error is mixed in. Quality is the exact KL "
        "of the student's posterior, over ten times.",
        "The **break point** of a draw is the Δt from which its student is worse than the teacher "
        "that it learned from. The forward pair (data noised to s, then to t) is the reference: it "
        "is exact. Bands and ± are 95% intervals over seeds.",
    ),
)


def _against_gap(rows: Rows, family: str, unit: str) -> Chart:
    teacher = _mean([r["kl"] for r in rows if r["draw"] == "teacher"])
    return Chart(
        f"Error of the student against the step size: {family}",
        [_line(rows, draw, "kl") for draw in DRAWS],
        [Reference("the teacher itself", teacher)],
        "largest t − s",
        unit,
        log_x=False,
        better="lower",
        caption="Left: little is learned. Right: much is learned from cleaner states, if x_s is "
        "drawn well enough.",
    )


def _clipped(rows: Rows, family: str) -> Chart:
    return Chart(
        f"Probability that a draw asked for and could not have: {family}",
        [_line(rows, draw, "clipped") for draw in ("student-euler", "student-trapezoidal")],
        (),
        "largest t − s",
        "mass per position",
        log_x=False,
        better="lower",
        caption="Euler: what its probabilities sum to above 1. Second order: negative rates.",
    )


def _line(rows: Rows, draw: str, key: str) -> Series:
    gaps = sorted({r["gap"] for r in rows if r["draw"] == draw})
    values = [[r[key] for r in rows if (r["draw"], r["gap"]) == (draw, g)] for g in gaps]
    return _band(WORDS[draw], gaps, values, _ROLES[draw])


def _band(label: str, xs: Sequence[float], values: Sequence[Sequence[float]], role: Role) -> Series:
    means, halves = [_mean(v) for v in values], [half_width(v) for v in values]
    low = [max(0.0, m - h) for m, h in zip(means, halves)]
    return Series(label, xs, means, low, [m + h for m, h in zip(means, halves)], role)


def _against_grid(rows: Rows, family: str) -> Chart:
    counts = sorted({r["grid"] for r in rows})
    series = []
    for draw in (*DRAWS, "teacher"):
        values = [
            [r[f"output_kl_{k}"] for r in rows if (r["draw"], r["grid"]) == (draw, k)]
            for k in counts
        ]
        series.append(_band(WORDS[draw], counts, values, _ROLES[draw]))
    floors = [
        _mean([r["floor"] for r in rows if r["draw"] == "teacher" and r["grid"] == k])
        for k in counts
    ]
    series.append(Series("product floor", counts, floors, role="data"))
    return Chart(
        f"Students of a grid, sampled on it: {family}",
        series,
        (),
        "jumps from noise to data",
        "KL of the samples' law, nats",
        log_y=True,
        better="lower",
        caption="Each student is trained for its own grid. The floor is what exact posteriors, one "
        "table per position, reach.",
    )


def _break_table(breaks: Rows) -> Table:
    return Table(
        "Where a student becomes worse than its teacher: Δt",
        ("process", "draw of x_s", "break point", "95% interval", "by seed"),
        [
            (
                b["family"],
                WORDS[b["draw"]],
                "never" if b["at"] is None and not any(b["by_seed"]) else _or_some(b["at"]),
                "" if b["at"] is None else f"{short(b['low'])} – {short(b['high'])}",
                ", ".join("never" if v is None else short(v) for v in b["by_seed"]),
            )
            for b in breaks
        ],
        caption="Within the steps that were tried. A break point is given if all seeds have one.",
    )


def _or_some(value: float | None) -> str:
    return "in some seeds" if value is None else short(value)


def _table(rows: Rows, family: str, unit: str) -> Table:
    gaps = sorted({r["gap"] for r in rows if r["gap"] is not None})
    found = {
        (draw, g): [r["kl"] for r in rows if (r["draw"], r["gap"]) == (draw, g)]
        for draw in DRAWS
        for g in gaps
    }
    teacher = [r["kl"] for r in rows if r["draw"] == "teacher"]
    lines: list[tuple[Any, ...]] = [
        (WORDS[draw], *(_with_half(found[draw, g]) for g in gaps)) for draw in DRAWS
    ]
    lines.append(("the teacher itself", *(_with_half(teacher) for _ in gaps)))
    heads = tuple(f"Δt ≤ {short(g)}" for g in gaps)
    return Table(f"Error against the step size: {family} ({unit})", ("draw of x_s", *heads), lines)


def _grid_table(rows: Rows, family: str) -> Table:
    counts = sorted({r["grid"] for r in rows})
    lines = [
        (
            WORDS[draw],
            *(
                _with_half(
                    [r[f"output_kl_{k}"] for r in rows if (r["draw"], r["grid"]) == (draw, k)]
                )
                for k in counts
            ),
        )
        for draw in (*DRAWS, "teacher")
    ]
    heads = tuple(f"{k} jump{'s' * (k > 1)}" for k in counts)
    return Table(f"Students of a grid: KL of the samples' law ({family})", ("x_s", *heads), lines)


def _verdict(rows: Rows, family: str, breaks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    teacher = _mean([r["kl"] for r in rows if r["draw"] == "teacher"])
    best = {d: _best(rows, d) for d in DRAWS}
    euler = breaks["student-euler"]
    gap, value = best["student-euler"]
    if euler["at"] is not None:
        end = (
            f"from Δt = {short(euler['at'])} (95% interval {short(euler['low'])} to "
            f"{short(euler['high'])}) it is worse than the teacher it learned from"
        )
    elif any(b is not None for b in euler["by_seed"]):
        end = "in some seeds it ends up worse than the teacher it learned from"
    else:
        end = "it never becomes worse than the teacher it learned from"
    others = ", ".join(
        f"{WORDS[d]} {short(best[d][1])} at Δt ≤ {short(best[d][0])}" for d in DRAWS[1:]
    )
    words = [
        f"**{family.capitalize()}**: with Euler draws the student is best at Δt ≤ {short(gap)} "
        f"({short(value)}; teacher {short(teacher)}), and {end}. The others at their best: "
        f"{others}."
    ]
    largest = max(r["gap"] for r in rows if r["gap"] is not None)
    late = [r for r in rows if r["gap"] == largest]
    clipped = _mean([r["clipped"] for r in late if r["draw"] == "student-euler"])
    spikes = {d: _mean([r["spike"] for r in late if r["draw"] == d]) for d in DRAWS}
    if clipped < 1e-3 and family == "absorbing":
        words.append(
            "Under a log-linear schedule a masked position is revealed with probability "
            "(t − s)/t, linear in the step: Euler's formula is exact there, and its student is "
            "that of the exact step."
        )
    else:
        words.append(
            f"**Stability ({family})**: at Δt ≤ {short(largest)} Euler asks for "
            f"{short(clipped)} more probability per position than there is. The loss does not show "
            f"it: its largest late value over the median is {short(spikes['student-euler'])} for "
            f"Euler and {short(spikes['forward'])} for the forward pair."
        )
    return words


def _grid_verdict(rows: Rows, family: str) -> str:
    parts = []
    for k in sorted({r["grid"] for r in rows}):
        value = {
            d: _mean([r[f"output_kl_{k}"] for r in rows if (r["draw"], r["grid"]) == (d, k)])
            for d in ("student-euler", "forward", "teacher")
        }
        parts.append(
            f"{k} jump{'s' * (k > 1)}: {short(value['student-euler'])} with Euler, "
            f"{short(value['forward'])} with the forward pair, teacher {short(value['teacher'])}"
        )
    return f"**Trained for a grid ({family})**, KL of the samples' law. {'; '.join(parts)}."


def _best(rows: Rows, draw: str) -> tuple[float, float]:
    gaps = sorted({r["gap"] for r in rows if r["draw"] == draw})
    means = [
        (_mean([r["kl"] for r in rows if (r["draw"], r["gap"]) == (draw, g)]), g) for g in gaps
    ]
    value, gap = min(means)
    return gap, value


def _with_half(values: Sequence[float]) -> str:
    return f"{short(_mean(values))} ± {short(half_width(values))}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
