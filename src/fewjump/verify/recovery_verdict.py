"""What the rows of ``recovery`` come to, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewjump.report import short
from fewjump.verify.recovery_cases import METHODS, SOURCES

Rows = Sequence[Mapping[str, Any]]
#: The source of ratios that families and methods are compared by.
NOISY = "noise 1%"


def verdict_of(rows: Rows) -> list[str]:
    """A sentence or two for each family, and on precision and methods where they were compared."""
    words = []
    largest = {r["family"]: r for r in of_largest(rows, NOISY, "exact")}
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
        for row in of_largest(rows, s.name, "exact")
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
        m: next((r for r in of_largest(rows, NOISY, m) if r["family"] == "uniform"), None)
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


def of_largest(rows: Rows, source: str, method: str) -> list[Mapping[str, Any]]:
    """For each family the row of its largest vocabulary."""
    mine = [r for r in rows if (r["source"], r["method"]) == (source, method)]
    best: dict[str, Mapping[str, Any]] = {}
    for row in mine:
        if row["family"] not in best or row["vocab_size"] > best[row["family"]]["vocab_size"]:
            best[row["family"]] = row
    return list(best.values())
