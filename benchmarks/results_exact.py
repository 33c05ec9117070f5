"""Sections of docs/results.md on problems that are enumerated: nothing is sampled there."""

from __future__ import annotations

from page_parts import Content, number, table


def sampler_order(content: Content) -> str:
    mild = min(row["roughness"] for row in content["rows"])
    processes = list(dict.fromkeys(row["process"] for row in content["rows"]))
    samplers = list(dict.fromkeys(row["sampler"] for row in content["rows"]))
    found = {(r["roughness"], r["process"], r["sampler"]): r for r in content["rows"]}
    rows = []
    for sampler in samplers:
        cells = []
        for process in processes:
            both = [r for (_, p, s), r in sorted(found.items()) if (p, s) == (process, sampler)]
            cells.append(" / ".join(f"{r['slope']:.2f}" for r in both))
        rows.append((f"`{sampler}`", both[0]["order"], *cells))
    return f"""Slope of −log TV against log steps, exact output laws on a random joint of 4³ states (no Monte
Carlo). First number: a mild joint (log-roughness {mild}); second: a rough one (1.0), where
`theta-trapezoidal` has to clamp negative rates and loses its order. `theta-rk2` is first order: its
two stages forget where positions jumped together, which the joint law notices.

{table(("sampler", "stated order", *processes), rows)}"""


def error_terms(content: Content) -> str:
    rows = []
    for row in content["rows"]:
        if row["sampler"] in ("euler", "tau-leaping", "ancestral") and row["process"] == "uniform":
            terms = [number(row[k]) for k in ("factorization", "euler", "network", "total")]
            terms = ["0" if abs(float(t)) < 1e-9 else t for t in terms]
            rows.append((f"`{row['sampler']}`", row["steps"], *terms))
    return f"""KL(data ‖ output law) in nats on a random joint of 4³ states, uniform noise, with a small trained
network, split into what independent draws cost, what the sampler's formula adds and what the
network adds. The file has the absorbing process and `theta-trapezoidal` too.

{table(("sampler", "steps", "factorization", "Euler", "network", "total"), rows)}"""


def joint_exact(content: Content) -> str:
    def mean(problem: str, student: str, steps: int, metric: str) -> str:
        key = (problem, student, steps)
        mine = [r for r in content["rows"] if (r["problem"], r["student"], r["steps"]) == key]
        values = [r[metric] for r in mine if metric in r]
        return number(sum(values) / len(values)) if values else "–"

    def cells(problem: str, student: str) -> list[str]:
        return [mean(problem, student, k, metric) for metric in ("kl", "tv") for k in (1, 2, 4)]

    rows = []
    teacher = "exact product teacher"
    for problem in dict.fromkeys(r["problem"] for r in content["summary"]):
        mine = [r for r in content["summary"] if r["problem"] == problem]
        rows.append((problem, teacher, *cells(problem, teacher), "0%"))
        for r in mine:
            shares = [f"{100 * r[k]:.1f}%" for k in ("removed", "removed_least")]
            removed = "{} (least {})".format(*shares).replace("-0.0%", "0.0%")
            rows.append((problem, r["student"], *cells(problem, r["student"]), removed))
    seeds = max(r["seeds"] for r in content["summary"])
    steps = ("1 step", "2 steps", "4 steps")
    header = ("problem", "student", *(f"{m}, {k}" for m in ("KL", "TV") for k in steps))
    header = (*header, "floor removed")
    return f"""KL(data ‖ output law) in nats and total variation by exact enumeration, mean of {seeds} seed(s), masked noise, students distilled from
the exact product teacher for one step (t = 1 and the few-step grid; see the script). The last column
is the share of the total-correlation floor, which is the teacher's KL at one step, that a student
removes in **one** evaluation. Several steps on the Ising grid (65,536 states) are judged by sampling,
in the file.

{table(header, rows)}

Any three of XOR's four bits are independent, so there is no gradient to follow until all four are seen
together: no chain and no mixture of 32 learned it at these budgets. The autoregressive head does, and
so do 128 shared components, which are more than the sequences."""
