"""``fewjump verify recovery``: when can a posterior be recovered from scores (Eq. 8–10)?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewjump.config import one_of
from fewjump.report import Chart, Role, Series, Table, short
from fewjump.verify.checks import CheckResult, ModelCheck, Rows, chart, distinct, mean, pick, pivot
from fewjump.verify.ratio_sources import (
    DENSE,
    METHODS,
    NOISY,
    POSTERIOR_NETWORK,
    SOURCES,
    STRUCTURED,
)

ERROR = "E‖p̂ − p‖₁"
ROLES: tuple[Role, ...] = ("teacher", "student", "data", "other") * 2


@dataclass
class Recovery(ModelCheck):
    """Recover posteriors from ratios until it breaks: every process, precision and method.

    Exact ratios (in float64, float32 and bfloat16), ratios with noise, and those of a small score
    network that is trained here, against exact posteriors: E‖p̂ − p‖₁, at most 2 for two laws. With
    --model, a saved model's own ratios too: the clipped mass, and how surprised each method's
    posterior is by the true token.

    Attributes:
        families: which processes.
        vocab_sizes: vocabularies. Structured processes take any; 50257 takes about two minutes.
            Those that take long are measured with one seed.
        dense_limit: largest vocabulary of the processes with a dense kernel. Up to 1024 in a few
            minutes.
        threshold: recovery breaks where E‖p̂ − p‖₁ passes this.
        network_steps: optimiser steps of the score networks; 0 for none.
    """

    name = "recovery"
    about = "where recovery of posteriors from concrete scores breaks"
    question = "When can a posterior be recovered from concrete scores?"

    families: list[str] = field(default_factory=lambda: [*STRUCTURED, *DENSE])
    vocab_sizes: list[int] = field(default_factory=lambda: [4, 64, 256])
    dense_limit: int = 256
    threshold: float = 0.1
    network_steps: int = 300

    def validate(self) -> None:
        super().validate()
        for family in self.families:
            one_of("family", family, STRUCTURED + DENSE)
        if not self.vocab_sizes or min(self.vocab_sizes) < 3:
            raise ValueError("--vocab-sizes must be at least 3 (a mask included)")
        fits = min(self.vocab_sizes) <= self.dense_limit
        if not any(family in STRUCTURED or fits for family in self.families):
            raise ValueError(
                "--families and --dense-limit leave nothing to measure: raise --dense-limit, or "
                f"name one of {', '.join(STRUCTURED)}"
            )
        if not 0 < self.threshold < 2 or self.network_steps < 0:
            raise ValueError("--threshold lies between 0 and 2, --network-steps is at least 0")

    def measure(self) -> list[dict[str, Any]]:
        """Rows of exact laws, of trained networks, and of the user's model."""
        from fewjump.verify import ratio_errors
        from fewjump.verify.subjects import open_saved, tokens_for

        saved: list[dict[str, Any]] = []
        if self.model is not None:
            # A model that cannot be opened should not cost minutes first.
            model = open_saved(self)
            tokens = tokens_for(model, self.data, count=128, seed=self.seed)
            saved = ratio_errors.measure_checkpoint(model.denoiser, tokens, self.seed)
        seeds = self.all_seeds()
        rows = ratio_errors.measure(
            self.families, self.vocab_sizes, seeds, self.threshold, self.dense_limit
        )
        for family in STRUCTURED[:2] if self.network_steps else ():
            for seed in seeds:
                rows += ratio_errors.measure_trained(family, self.network_steps, seed)
        return [*rows, *saved]

    def answer(self, rows: Rows) -> CheckResult:
        exact = [row for row in rows if "source" in row]
        networks = [row for row in rows if "ratio_error" in row]
        saved = [row for row in rows if "nll" in row]
        charts, tables = _exact_charts(exact, self.threshold), _exact_tables(exact)
        verdict = [*_told(exact), *_precision(exact), *_gain(exact)]
        if networks:
            charts += [_network_chart(networks, family) for family in distinct(networks, "family")]
            tables.append(_network_table(networks))
            verdict += [_network_told(networks, family) for family in distinct(networks, "family")]
        if saved:
            charts, tables = [_saved_chart(saved), *charts], [_saved_table(saved), *tables]
            verdict = [_saved_told(saved), *verdict]
        failures = [
            f"{row['family']}, V = {row['vocab_size']}: exact float64 ratios at α = 0.9 give an "
            f"error of {row['l1'][0]}"
            for row in pick(exact, source=SOURCES[0].name, method="exact")
            if row["l1"][0] is None or row["l1"][0] >= 1e-9
        ]
        return self.result(rows, verdict, charts, tables=tables, failures=failures)


def of_largest(rows: Rows, source: str = NOISY, method: str = "exact") -> Rows:
    """For each family the row of its largest vocabulary."""
    mine = pick(rows, source=source, method=method)
    families = (pick(mine, family=family) for family in distinct(mine, "family"))
    return [max(family, key=lambda row: row["vocab_size"]) for family in families]


def _told(rows: Rows) -> list[str]:
    """A sentence for each family: where it breaks, and what 1/α and the condition number say."""
    words = []
    for row in of_largest(rows):
        family = row["family"][0].upper() + row["family"][1:]
        about = f"**{family}, V = {row['vocab_size']}, 1% noise**"
        if row["family"] == "absorbing":
            words.append(
                f"{about}: nothing is amplified; the error stays between {short(min(row['l1']))} "
                f"and {short(max(row['l1']))} to α = {short(row['alpha'][-1])}, while the "
                f"condition number rises to {row['condition'][-1]:.1e}."
            )
            continue
        said = f"{about}: breaks at {_place(row, 'α = ')}"
        if row["family"] in DENSE:
            refused = [a for a, error in zip(row["alpha"], row["l1"]) if error is None]
            if refused:
                said += f"; singular in float64 from α = {short(refused[0])} on"
        else:
            shares = [a / p for a, p in zip(row["l1"], row["predicted"]) if a and p]
            said += f"; the error is {min(shares):.2f} to {max(shares):.2f} times what 1/α predicts"
        words.append(f"{said}.")
    return words


def _precision(rows: Rows) -> list[str]:
    """What the precision of exact ratios costs uniform noise."""
    parts = [
        f"{source.dtype} {_place(row, 'α = ')}"
        for source in SOURCES
        if not source.noise
        for row in pick(of_largest(rows, source.name), family="uniform")
    ]
    if len(parts) < 3:
        return []
    return [f"**Precision** (exact ratios, uniform noise), breaks: {', '.join(parts)}."]


def _gain(rows: Rows) -> list[str]:
    """What keeping p ≥ 0 is worth, where the closed form breaks by noise."""
    known = {
        method: row["break_alpha"]
        for method in METHODS
        for row in pick(of_largest(rows, NOISY, method), family="uniform")
        if row["break_alpha"] is not None
    }
    if len(known) < len(METHODS):
        return []
    best = min(known, key=lambda method: known[method])
    return [
        f"**Methods** (uniform noise, 1% noise): `{best}` holds longest, to α = "
        f"{short(known[best])} against {short(known['exact'])} for the closed form."
    ]


def _place(row: Mapping[str, Any], lead: str = "") -> str:
    """Where a curve breaks: α with its interval over seeds as a factor, and the usual time."""
    at = row["break_alpha"]
    if at is None:
        return "never"
    if at >= row["alpha"][0]:
        return "from the first α"
    spread = math.sqrt(row["break_high"] / row["break_low"])
    around = "" if spread < 1.005 else f" ×/÷ {spread:.2f}" if spread < 10 else ", seeds differ"
    time = row["break_time"]
    return f"{lead}{short(at)}{around} ({f't = {time:.3f}' if time <= 1 else 'after t = 1'})"


def _curve(label: str, xs: Iterable[float], ys: Sequence[float | None], role: Role) -> Series:
    """The points to show: without refused ones, and errors that mean nothing any more."""
    kept = [(x, y) for x, y in zip(xs, ys) if y is not None and 1e-18 < y < 100]
    return Series(label, [x for x, _ in kept], [y for _, y in kept], role=role)


def _exact_charts(rows: Rows, threshold: float) -> list[Chart]:
    def drawn(title: str, series: Sequence[Series], x_label: str = "1/α") -> Chart:
        return chart(title, series, x_label, ERROR, "xy", {"breaks": threshold})

    def curves(labels: Mapping[str, Mapping[str, Any]]) -> list[Series]:
        return [
            _curve(label, [1 / a for a in row["alpha"]], row["l1"], role)
            for role, (label, row) in zip(ROLES, labels.items())
        ]

    largest = of_largest(rows)
    mine = pick(rows, family=rows[0]["family"])
    mine = pick(mine, vocab_size=max(distinct(mine, "vocab_size")))
    where = f"{mine[0]['family']}, V = {mine[0]['vocab_size']}"
    noisy = pick(mine, source=NOISY)
    inverse = [1 / a for a in noisy[0]["alpha"]]
    predicted = _curve("predicted by 1/α", inverse, noisy[0]["predicted"], "other")
    by_condition = [
        _curve(row["family"], row["condition"], row["l1"], role)
        for role, row in zip(ROLES, largest)
    ]
    ends = [min(x for series in by_condition for x in series.x), 2 / 0.008]
    bound = Series("1% × condition number", ends, [0.008 * x for x in ends], role="other")
    return [
        drawn(
            "Error of the closed form, from ratios with 1% noise",
            curves({f"{row['family']}, V = {row['vocab_size']}": row for row in largest}),
        ),
        drawn(
            f"Precision and noise of the ratios: {where}",
            curves({row["source"]: row for row in pick(mine, method="exact")}),
        ),
        drawn(
            f"Ways to recover, 1% noise: {where}",
            [*curves({METHODS[row["method"]]: row for row in noisy}), predicted],
        ),
        drawn(
            "The same errors against the condition number of P_{t|0}",
            [*by_condition, bound],
            "condition number",
        ),
    ]


def _exact_tables(rows: Rows) -> list[Table]:
    closed, noisy = pick(rows, method="exact"), pick(rows, source=NOISY)
    names = [source.name for source in SOURCES]
    breaks, methods = [], []
    for family in distinct(closed, "family"):
        for size in distinct(pick(closed, family=family), "vocab_size"):
            by_source = {r["source"]: r for r in pick(closed, family=family, vocab_size=size)}
            by_method = {r["method"]: r for r in pick(noisy, family=family, vocab_size=size)}
            worst = max(c for c in by_source[names[0]]["condition"] if c is not None)
            places = [_place(by_source[name]) for name in names]
            breaks.append((family, size, *places, f"{worst:.1e}"))
            found = [by_method[method] for method in METHODS]
            errors = [row["l1"][row["alpha"].index(0.01)] for row in found]
            methods.append((family, size, *(_place(row) for row in found), *errors))
    return [
        Table(
            "Where the closed form breaks: α (and t on the log-linear schedule)",
            ("process", "V", *names, "largest condition number"),
            breaks,
            caption="The largest α at which the error passes the threshold; ×/÷ is the 95% "
            "interval over seeds.",
        ),
        Table(
            "Where each method breaks, 1% noise: α; and its error at α = 0.01",
            ("process", "V", *METHODS.values(), *(f"{name}, error" for name in METHODS.values())),
            methods,
            caption="A dash: the kernel is singular in float64 there, and recovery is refused.",
        ),
    ]


def _at(rows: Rows, method: str, alpha: float, key: str) -> float:
    return mean(row[key] for row in pick(rows, method=method, alpha=alpha))


def _network_told(networks: Rows, family: str) -> str:
    mine = pick(networks, family=family)
    at = {method: _at(mine, method, 0.01, "l1") for method in ("exact", "clip", POSTERIOR_NETWORK)}
    return (
        f"**A trained score network, {family} noise**, at α = 0.01: ratios off by "
        f"{_at(mine, 'exact', 0.01, 'ratio_error'):.1%}, what is recovered by "
        f"{short(at['exact'])} ({short(_at(mine, 'exact', 0.01, 'predicted'))} predicted) or "
        f"{short(at['clip'])} (clipped); a network that gives posteriors is off by "
        f"{short(at[POSTERIOR_NETWORK])}."
    )


def _network_chart(networks: Rows, family: str) -> Chart:
    mine = pick(networks, family=family)
    alphas = sorted(distinct(mine, "alpha"), reverse=True)
    lines: dict[str, tuple[str, str, Role]] = {
        METHODS["exact"]: ("exact", "l1", "teacher"),
        METHODS["project"]: ("project", "l1", "student"),
        POSTERIOR_NETWORK: (POSTERIOR_NETWORK, "l1", "data"),
        "predicted by 1/α": ("exact", "predicted", "other"),
    }
    inverse = [1 / alpha for alpha in alphas]
    series = [
        Series(label, inverse, [_at(mine, m, alpha, key) for alpha in alphas], role=role)
        for label, (m, key, role) in lines.items()
    ]
    return chart(f"A trained score network: {family} noise", series, "1/α", ERROR, "xy")


def _network_table(networks: Rows) -> Table:
    lines = []
    for family in distinct(networks, "family"):
        mine = pick(networks, family=family)
        for method, name in {**METHODS, POSTERIOR_NETWORK: POSTERIOR_NETWORK}.items():
            errors = [_at(mine, method, alpha, "l1") for alpha in (0.5, 0.1, 0.01)]
            lines.append((family, name, *errors, _at(mine, method, 0.01, "clipped")))
    return Table(
        "From a trained network: E‖p̂ − p‖₁",
        ("process", "method", "α = 0.5", "α = 0.1", "α = 0.01", "clipped mass at 0.01"),
        lines,
    )


def exceeds(rows: Rows, method: str, key: str, limit: float) -> float | None:
    """The largest α at which ``key`` of a method's rows is above ``limit``, or was refused."""
    over = [r["alpha"] for r in pick(rows, method=method) if r[key] is None or not r[key] <= limit]
    return max(over, default=None)


def _saved_told(saved: Rows) -> str:
    # Where a method is refused the others pay for what it does not.
    shared = {row["alpha"] for row in saved} - {r["alpha"] for r in saved if r["nll"] is None}
    known = [row for row in saved if row["alpha"] in shared]
    total = {m: sum(row["nll"] for row in pick(known, method=m)) for m in METHODS}
    at = exceeds(saved, "exact", "clipped", 0.1)
    where = (
        "at no α does the closed form put a tenth of its mass below zero"
        if at is None
        else f"from α = {short(at)} on the closed form puts more than a tenth of its mass below "
        "zero, or is singular: do not trust it there"
    )
    if not shared:
        return f"**Your model**: {where}. At no α do all methods answer, to be compared."
    best = min(total, key=lambda method: total[method])
    everywhere = all(row["alpha"] in shared for row in saved)
    over = "Over all α" if everywhere else "Where all answer"
    return f"**Your model**: {where}. {over} the method to use is `{best}`."


def _saved_chart(saved: Rows) -> Chart:
    known = [row for row in saved if row["nll"] is not None]
    series = [
        Series(METHODS[m], [1 / r["alpha"] for r in mine], [r["nll"] for r in mine], role=role)
        for role, m in zip(ROLES, METHODS)
        if (mine := pick(known, method=m))
    ]
    title = "Your model: how surprised the recovered posterior is by the true token"
    return chart(title, series, "1/α", "nats per position", "x")


def _saved_table(saved: Rows) -> Table:
    keys = {"t": "time", "condition number": "condition", "clipped mass": "clipped"}
    columns = {head: {"method": "exact", "key": key} for head, key in keys.items()}
    columns |= {f"{name}, nll": {"method": m, "key": "nll"} for m, name in METHODS.items()}
    long = [
        {**row, "key": key, "value": row[key]} for row in saved for key in (*keys.values(), "nll")
    ]
    alphas = {alpha: alpha for alpha in sorted(distinct(saved, "alpha"), reverse=True)}
    return pivot("Your model", long, "alpha", alphas, columns, lambda cell: cell[0]["value"], "α")
