"""What the rows of ``times`` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewjump.report import Chart, KeyNumber, Note, Reference, Role, Series, Table, short
from fewjump.verify.result import CheckResult
from fewjump.verify.verdicts import over_seeds

if TYPE_CHECKING:
    from fewjump.verify.times import Options

Rows = Sequence[Mapping[str, Any]]
_ROLES: dict[str, Role] = {"fitted": "student", "importance": "student"}
_WHAT = {
    "grid": "Grids, at equal evaluations",
    "training": "Training times, at equal optimiser steps",
}
_FLAGS = {
    "grid": "--grid {} of sample and evaluate",
    "training": "--times {} of distill",
}


def answer(rows: Rows, options: Options) -> CheckResult:
    """The whole check from what was measured."""
    parts = [part for part in _WHAT if any(row["part"] == part for row in rows)]
    verdict = [sentence for part in parts for sentence in _verdict(rows, part)]
    most = max(row["steps"] for row in rows)
    key_numbers = []
    if most > 1:
        few = min(row["steps"] for row in rows if row["steps"] > 1)
        mean, low, _ = _difference(rows, "grid", "fitted", few)
        key_numbers.append(
            KeyNumber(
                f"{short(mean)} ± {short(mean - low)}",
                f"nats per token: the fitted grid against the uniform one, {few} evaluations",
            )
        )
    return CheckResult(
        name="times",
        question="Do times that adapt beat uniform ones?",
        verdict=verdict,
        rows=rows,
        charts=[*(_chart(rows, part) for part in parts), _times_chart(rows, most)],
        tables=[_table(rows, part) for part in parts],
        notes=[_NOTE],
        key_numbers=key_numbers,
        settings={
            name: getattr(options, name)
            for name in ("seed", "seeds", "sequences", "training", "teacher_steps", "model")
        },
    )


_NOTE = Note(
    "What is measured",
    (
        "A bound on −log p of unseen sequences under the ancestral sampler with its grid, in nats "
        "per token; less is better. All choices see the same sequences and nearly the same noise, "
        "so that differences are known far better than the bounds. ± is the wider of two 95% "
        "intervals: over sequences, and over seeds. Students are drawn on uniform grids. At one "
        "evaluation all grids are the same.",
    ),
)


def _choices(rows: Rows, part: str) -> list[str]:
    found = dict.fromkeys(row["choice"] for row in rows if row["part"] == part)
    return [name for name in found if name != "uniform"]


def _counts(rows: Rows, part: str) -> list[int]:
    return sorted({row["steps"] for row in rows if row["part"] == part})


def _difference(rows: Rows, part: str, choice: str, steps: int) -> tuple[float, float, float]:
    mine = [r for r in rows if (r["part"], r["choice"], r["steps"]) == (part, choice, steps)]
    return over_seeds(mine, "difference")


def _verdict(rows: Rows, part: str) -> list[str]:
    """Which choices are better than the uniform one everywhere, somewhere, or worse."""
    counts = [count for count in _counts(rows, part) if part == "training" or count > 1]
    if not counts:
        return []
    always, mixed = [], []
    for choice in _choices(rows, part):
        found = {count: _difference(rows, part, choice, count) for count in counts}
        better = [count for count, (_, _, high) in found.items() if high < 0]
        worse = [count for count, (_, low, _) in found.items() if low > 0]
        if len(better) == len(counts):
            gains = ", ".join(f"{short(-mean)} at {count}" for count, (mean, _, _) in found.items())
            flag = _FLAGS[part].format(choice.replace(" ", "-"))
            always.append(
                f"**{_WHAT[part]}: {choice} is better than uniform** at every number of "
                f"evaluations, by {gains} nats per token (`{flag}`)."
            )
        else:
            told = [
                f"{word} at {' and '.join(map(str, where))}"
                for word, where in (("better", better), ("worse", worse))
                if where
            ]
            mixed.append(f"{choice} ({', '.join(told) or 'no difference can be told'})")
    if mixed:
        lead = f"**{_WHAT[part]}:** " if not always else ""
        always.append(f"{lead}Against uniform: {', '.join(mixed)}.")
    return always


def _chart(rows: Rows, part: str) -> Chart:
    series = []
    for choice in _choices(rows, part):
        counts = _counts(rows, part)
        mean, low, high = zip(*(_difference(rows, part, choice, count) for count in counts))
        series.append(Series(choice, counts, mean, low, high, _ROLES.get(choice, "other")))
    return Chart(
        f"{_WHAT[part]}: the bound, less that of uniform times",
        series,
        [Reference("uniform times", 0.0)],
        y_label="nats per token",
        better="lower",
    )


def _times_chart(rows: Rows, steps: int) -> Chart:
    """Where the fitted grid of the most steps has its times, by seed."""
    found = [r for r in rows if "times" in r and r["steps"] == steps]
    numbers = list(range(steps + 1))
    series = [Series(f"seed {r['seed']}", numbers, r["times"], role="student") for r in found]
    even = Series("uniform", numbers, [1 - k / steps for k in numbers], role="other")
    return Chart(
        f"The fitted times of {steps} evaluations",
        [*series, even],
        x_label="evaluations done",
        y_label="t",
        log_x=False,
    )


def _table(rows: Rows, part: str) -> Table:
    counts, lines = _counts(rows, part), []
    uniform = [r for r in rows if (r["part"], r["choice"]) == (part, "uniform")]
    bounds = []
    for count in counts:
        values = [r["bound"] for r in uniform if r["steps"] == count]
        bounds.append(short(sum(values) / len(values)))
    lines.append(("uniform: the bound", *bounds))
    for choice in _choices(rows, part):
        cells = []
        for count in counts:
            mean, low, _ = _difference(rows, part, choice, count)
            cells.append(f"{mean:+.4f} ± {mean - low:.4f}")
        lines.append((choice, *cells))
    heads = tuple(f"{count} evaluation{'s' * (count > 1)}" for count in counts)
    return Table(f"{_WHAT[part]} (nats per token, less that of uniform)", ("times", *heads), lines)
