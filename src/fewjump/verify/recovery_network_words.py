"""What the rows of trained networks and of saved models say, in ``recovery``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewjump.report import Chart, Role, Series, Table, short
from fewjump.verify.recovery_cases import METHODS
from fewjump.verify.recovery_network import POSTERIOR_NETWORK, exceeds

Rows = Sequence[Mapping[str, Any]]
ROLES: tuple[Role, ...] = ("teacher", "student", "data", "other")
METHOD_WORDS = {
    "exact": "closed form",
    "clip": "clipped",
    "project": "projected",
    "multiplicative": "non-negative iterations",
}


def network_verdict(networks: Rows) -> list[str]:
    words = []
    for family in values_of(networks, "family"):
        mine = [r for r in networks if r["family"] == family]
        low = min(r["alpha"] for r in mine if r["alpha"] >= 0.01)
        at = {m: _mean(mine, m, low, "l1") for m in ("exact", "clip", POSTERIOR_NETWORK)}
        ratio = _mean(mine, "exact", low, "ratio_error")
        words.append(
            f"**A trained score network, {family} noise**: at α = {short(low)} its ratios are off "
            f"by {ratio:.1%}, and what is recovered by {short(at['exact'])} (closed form; "
            f"{short(_mean(mine, 'exact', low, 'predicted'))} predicted) or {short(at['clip'])} "
            f"(clipped). A network of the same size and training that gives posteriors is off by "
            f"{short(at[POSTERIOR_NETWORK])}."
        )
    return words


def network_chart(networks: Rows, family: str) -> Chart:
    mine = [r for r in networks if r["family"] == family]
    alphas = sorted({r["alpha"] for r in mine}, reverse=True)
    inverse = [1 / a for a in alphas]
    names: dict[str, Role] = {
        "exact": "teacher",
        "project": "student",
        POSTERIOR_NETWORK: "data",
    }
    series = [
        Series(
            METHOD_WORDS.get(m, m), inverse, [_mean(mine, m, a, "l1") for a in alphas], role=role
        )
        for m, role in names.items()
    ]
    predicted = [_mean(mine, "exact", a, "predicted") for a in alphas]
    return Chart(
        f"A trained score network: {family} noise",
        [*series, Series("predicted by 1/α", inverse, predicted, role="other")],
        (),
        "1/α",
        "E‖p̂ − p‖₁",
        log_y=True,
        better="lower",
        caption="A Markov chain of 8 tokens and 8 positions, where the exact posterior is known. "
        "The prediction amplifies the network's own relative error by 1/α.",
    )


def network_table(networks: Rows) -> Table:
    out = []
    for family in values_of(networks, "family"):
        mine = [r for r in networks if r["family"] == family]
        for method in (*METHODS, POSTERIOR_NETWORK):
            errors = [_mean(mine, method, a, "l1") for a in (0.5, 0.1, 0.01)]
            clipped = _mean(mine, method, 0.01, "clipped")
            out.append((family, METHOD_WORDS.get(method, method), *errors, clipped))
    return Table(
        "From a trained network: E‖p̂ − p‖₁",
        ("process", "method", "α = 0.5", "α = 0.1", "α = 0.01", "clipped mass at 0.01"),
        out,
    )


def saved_chart(saved: Rows) -> Chart:
    series = []
    for role, method in zip(ROLES, METHODS):
        mine = [r for r in saved if r["method"] == method and r["nll"] is not None]
        if mine:
            xs, ys = [1 / r["alpha"] for r in mine], [r["nll"] for r in mine]
            series.append(Series(METHOD_WORDS[method], xs, ys, role=role))
    return Chart(
        "Your model: how surprised the recovered posterior is by the true token",
        series,
        (),
        "1/α",
        "nats per position",
        better="lower",
    )


def saved_table(saved: Rows) -> Table:
    alphas = sorted({r["alpha"] for r in saved}, reverse=True)
    found = {(r["alpha"], r["method"]): r for r in saved}
    rows = [
        (
            a,
            *(found[a, "exact"][key] for key in ("time", "condition", "clipped")),
            *(found[a, m]["nll"] for m in METHODS),
        )
        for a in alphas
    ]
    heads = [f"{METHOD_WORDS[m]}, nll" for m in METHODS]
    return Table("Your model", ("α", "t", "condition number", "clipped mass", *heads), rows)


def saved_verdict(saved: Rows) -> str:
    at = exceeds(saved, "exact", "clipped", 0.1)
    known = [r for r in saved if r["nll"] is not None]
    total = {m: sum(r["nll"] for r in known if r["method"] == m) for m in METHODS}
    best = min(total, key=lambda m: total[m])
    where = (
        "At no α does the closed form put a tenth of its mass below zero"
        if at is None
        else f"From α = {short(at)} on the closed form puts more than a tenth of its mass below "
        "zero, or the kernel is singular: do not trust it there"
    )
    return f"**Your model**: {where}. Over all α the method to use is `{best}`."


def _mean(rows: Rows, method: str, alpha: float, key: str) -> float:
    values = [r[key] for r in rows if r["method"] == method and r["alpha"] == alpha]
    return sum(values) / len(values)


def values_of(rows: Rows, key: str) -> list[Any]:
    return list(dict.fromkeys(r[key] for r in rows))
