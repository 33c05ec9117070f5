"""Sections of docs/results.md on Markov chains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from page_parts import Content, number, table


def markov_curve(content: Content) -> str:
    names = list(dict.fromkeys(row["model"] for row in content["rows"]))
    steps = sorted({row["steps"] for row in content["rows"]})

    def cell(name: str, k: int) -> str:
        mine = [r for r in content["rows"] if (r["model"], r["steps"]) == (name, k)]
        mean = sum(r["bigram_tv"] for r in mine) / len(mine)
        half = (sum(((r["high"] - r["low"]) / 2) ** 2 for r in mine)) ** 0.5 / len(mine)
        return f"{mean:.3f} ± {half:.3f}"

    rows = [(k, *(cell(name, k) for name in names)) for k in steps]
    below = [
        f"{name} at {entry['steps']} steps"
        for name, entries in content["against_teacher"].items()
        for entry in entries
        if entry["below"]
    ]
    outside = [
        f"{name} at {entry['steps']} ({entry['difference']:+.3f} ± {entry['half_width']:.3f})"
        for name, entries in content["against_teacher"].items()
        for entry in entries
        if not entry["within"]
    ]
    seeds = len(content["sizes"]["seeds"])
    return f"""Bigram total variation of samples, Markov chain with V = 8, L = 32, uniform noise, entropy rate
{content["entropy_rate"]:.3f} nats; {seeds} seed(s) of {content["sizes"]["samples"]} samples, 95% intervals.
Closed form of the one-step error: {content["one_step_tv_closed_form"]:.3f}. Fresh samples of the chain
score {content["sampling_floor"]:.4f}.

{table(("steps", *names), rows)}

Below the teacher's curve by more than the interval: {"; ".join(below) or "nothing"}. Off it by more than
the interval: {"; ".join(outside) or "nothing"}. The exact teacher's marginals *are* the optimum of
the objective, so a student can reach the curve and not pass it. The forward pair draws x_s from the
true reverse conditional; Algorithm 1's student-Euler draw does not (positions are drawn
independently, and long Euler steps are clipped), which is a bias of its fixed point. (The floor is a statement about KL. Total variation of a product with slightly
wrong marginals may come out a little lower than that of the exact product, and of the
{len(names[1:]) * len(steps)} comparisons one is expected to fall just outside a 95% interval.)"""


def joint_markov(content: Content) -> str:
    rows = []
    for reference in content["references"]:
        problem, length = reference["problem"], reference["length"]
        rows.append(
            (
                problem,
                length,
                "*fresh samples*",
                "–",
                number(reference["exact_bigram_tv"]),
                f"{reference['exact_nll']:.3f}",
            )
        )
        mine = [r for r in content["rows"] if (r["problem"], r["length"]) == (problem, length)]
        for r in sorted(mine, key=lambda r: (r["student"], r["process"])):
            tv = f"{r['bigram_tv']:.4f} ({r['bigram_tv_low']:.4f}–{r['bigram_tv_high']:.4f})"
            nll = f"{r['nll']:.3f} ({r['nll_low']:.3f}–{r['nll_high']:.3f})"
            rows.append((problem, length, r["student"], r["process"], tv, nll))
    seeds = len({r["seed"] for r in content["rows"]})
    return f"""**One** evaluation, from an exact per-position teacher; {seeds} seed(s), 95% intervals over samples. The
students of L = 32 are used unchanged at L = 512. Nats per token are under the true chain.

{table(("problem", "L", "student", "noise", "bigram TV", "nats per token"), rows)}"""


def _with_half(row: Content, key: str, digits: int = 3) -> str:
    """A value and half of its interval."""
    half = (row[f"{key}_high"] - row[f"{key}_low"]) / 2
    return f"{row[key]:.{digits}f} ± {half:.{digits}f}"


def hybrid_noise(content: Content) -> str:
    """Bigram error and likelihood against steps, one row for each noise and model."""
    found: dict[tuple[str, str], dict[int, Content]] = {}
    for row in content["means"]:
        found.setdefault((row["noise"], row["model"]), {})[row["steps"]] = row
    counts = sorted({row["steps"] for row in content["means"]})

    def rows(key: str) -> Iterable[Sequence[Any]]:
        for (noise, model), by_steps in found.items():
            cells = (by_steps.get(k) for k in counts)
            yield (
                noise,
                model,
                *("–" if r is None else _with_half(r, key) for r in cells),
            )

    header = ("noise", "model", *(f"{k} step{'s' * (k > 1)}" for k in counts))
    floor, sizes = content["reference"], content["sizes"]
    return f"""A Markov chain of 8 tokens, 32 positions; {sizes["samples"]} samples, mean of \
{len(content["seeds"])} seeds (of data, trainings and draws), 95% intervals over samples and seeds. Teachers of one size, {sizes["teacher_steps"]} training \
steps; students {sizes["student_steps"]}.

Total variation of the bigram law; exact samples of the same number score {floor["bigram_tv"]:.3f}:

{table(header, rows("bigram_tv"))}

Negative log-likelihood under the true chain, nats per token; its entropy is \
{floor["entropy_per_token"]:.3f}:

{table(header, rows("nll"))}"""


def hybrid_steps(content: Content) -> str:
    """Two-step samples by who answers at each evaluation, and what each law misses, by time."""
    pairs: dict[str, dict[tuple[str, str], Content]] = {}
    for row in content["pair_means"]:
        pairs.setdefault(row["noise"], {})[row["first"], row["second"]] = row
    columns = list(next(iter(pairs.values())))

    def rows() -> Iterable[Sequence[Any]]:
        for noise, found in pairs.items():
            for key, word in (("bigram_tv", "bigram TV"), ("nll", "nats per token")):
                yield (noise, word, *(_with_half(found[c], key) for c in columns))

    laws: dict[tuple[str, str], dict[float, Content]] = {}
    for row in content["excess_means"]:
        laws.setdefault((row["noise"], row["model"]), {})[row["time"]] = row
    times = list(next(iter(laws.values())))
    missed = [(n, m, *(_with_half(r[t], "excess", 4) for t in times)) for (n, m), r in laws.items()]
    fresh, sizes = content["fresh_samples"], content["sizes"]
    return f"""Two steps over t = 1, ½, 0, each evaluation answered by the exact joint posterior or by the chain
student; {sizes["samples"]} samples, mean of {len(content["seeds"])} seeds, 95% intervals over samples and seeds. Exact samples of the chain score \
{fresh["bigram_tv"]:.3f} and {fresh["nll"]:.3f}:

{table(("noise", "", *(f"{a}, then {b}" for a, b in columns)), rows())}

KL from the exact law of x₀ given x_t in nats per token, by t: of the student's joint law from the joint
posterior, and of the trained teacher's marginals from the exact ones; {sizes["scored"]} sequences:

{table(("noise", "model", *(f"t = {t:g}" for t in times)), missed)}"""
