"""Write docs/results.md from the committed result files: no number there is typed by hand.

Run: python benchmarks/results_page.py   (a test fails when the page is out of date)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"

Content = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float, digits: int = 3) -> str:
    """A number in few digits."""
    return f"{value:.{digits}g}"


def interval(row: Content, key: str = "value") -> str:
    """Value and interval."""
    return f"{number(row[key])} ({number(row['low'])}–{number(row['high'])})"


def provenance(content: Content, module: str) -> str:
    """The line under each heading: script, seeds, machine, time."""
    machine = content.get("machine", content)
    facts = [f"`{module}`"]
    if isinstance(machine, dict):
        facts.append(f"{machine['cpu_count']}-core CPU, {machine['torch_threads']} torch thread(s)")
        facts.append(f"torch {machine['torch']}")
    else:
        facts.append(f"{machine}, torch {content['torch']}")
    if "seconds" in content:
        facts.append(f"{content['seconds']:.0f} s")
    return " · ".join(facts)


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


def digits(content: Content) -> str:
    sizes = content["sizes"]
    return f"""Masked teacher and students on 8×8 digits, {len(content["seeds"])} seeds, {sizes["samples"]} pictures
each, features of a small classifier, 95% intervals. The reference is the test part against the
training part.

{metric_tables(content)}{likelihoods(content)}"""


def likelihoods(content: Content) -> str:
    """What one evaluation gives to unseen pictures and to those it was trained on, if measured."""
    found: dict[str, list[Content]] = {}
    for row in content.get("one_evaluation_nll", []):
        found.setdefault(row["model"], []).append(row)
    rows = []
    for model, mine in found.items():
        cells = [sum(r[part] for r in mine) / len(mine) for part in ("test", "train")]
        rows.append((model, *(f"{cell:.3f}" for cell in cells)))
    if not rows:
        return ""
    return f"""

Exact −log p of pictures under what **one** evaluation draws, nats per pixel. A law that had learned
its pictures by heart would score much better on those of the training:

{table(("model", "unseen pictures", "training pictures"), rows)}"""


def metric_tables(content: Content) -> str:
    """A table for each image metric: models against numbers of steps."""
    steps = sorted({row["steps"] for row in content["rows"] if row["steps"]})
    models = list(dict.fromkeys(r["model"] for r in content["rows"] if r["steps"]))
    parts = []
    for metric in ("frechet", "precision", "recall"):
        mine = [r for r in content["rows"] if r["metric"] == metric]
        reference = next(r for r in mine if not r["steps"])
        found = {(r["model"], r["steps"]): r for r in mine}
        rows = [
            (m, *(interval(found[m, k]) if (m, k) in found else "–" for k in steps)) for m in models
        ]
        rows.append((f"*{reference['model']}*", interval(reference), *("" for _ in steps[1:])))
        parts.append(f"**{metric}**\n\n" + table(("model", *(f"{k} steps" for k in steps)), rows))
    return "\n\n".join(parts)


def demo_digits(content: Content) -> str:
    seconds = {k: v for k, v in content.items() if k.startswith("seconds, ")}
    total = sum(seconds.values())
    return f"""What `make demo` wrote, with its default seed ({total:.0f} s in all): the product student is the paper's
(Algorithm 1), the joint student a mixture of products over whole pictures. Intervals are of
one set of {content["pictures judged"]} pictures, not over seeds.

{metric_tables(content)}

The joint student weighs its components by what is visible, as Bayes does: more steps then cost no quality."""


def sampling_overhead(content: Content) -> str:
    rows = [
        (
            r["size"],
            r["process"].lower(),
            f"`{r['sampler']}`",
            r["steps"],
            f"{100 * r['overhead']:.1f}%",
        )
        for r in content["rows"]
    ]
    return f"""Share of the time that is spent outside the network's forward, both sides in one run. *demo*: batch
64, L = 64, V = 18, hidden 96; *large*: batch 8, L = 256, V = 32,000, hidden 256, 6 blocks.

{table(("size", "process", "sampler", "steps", "overhead"), rows)}"""


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


def cost_in_vocabulary(content: Content) -> str:
    size = content["size"]
    rows = [
        (
            r["emission"],
            r["step"],
            f"{r['vocab']:,}",
            f"{1000 * r['cpu_seconds']:.1f}",
            f"{r['peak_bytes'] / 2**20:.1f}",
            f"{r['largest_entries']:,}",
            f"{r['states_length_vocab']:,}",
        )
        for r in content["rows"]
    ]
    slopes = [
        (
            r["emission"],
            r["step"],
            f"{r['slope_cpu_seconds_last_two']:.2f}",
            f"{r['slope_peak_bytes_last_two']:.2f}",
        )
        for r in content["slopes"]
    ]
    return f"""One step of the chain head ({size["states"]} states, rank {size["rank"]}, batch {size["batch"]}, L = {size["length"]}). The shared and
the low-rank form make no tensor of states × positions × vocabulary; the dense form does.

{table(("emission", "step", "V", "CPU ms", "peak MiB", "largest tensor", "r·L·V would be"), rows)}

Slope between the two largest vocabularies, log against log (1 is linear):

{table(("emission", "step", "time", "memory"), slopes)}"""


def hybrid_noise(content: Content) -> str:
    """Bigram error and likelihood against steps, one row for each noise and model."""
    found: dict[tuple[str, str], dict[int, Content]] = {}
    for row in content["rows"]:
        found.setdefault((row["noise"], row["model"]), {})[row["steps"]] = row
    counts = sorted({row["steps"] for row in content["rows"]})

    def rows(key: str) -> Iterable[Sequence[Any]]:
        for (noise, model), by_steps in found.items():
            cells = (by_steps.get(k) for k in counts)
            yield (
                noise,
                model,
                *(
                    "–"
                    if r is None
                    else f"{r[key]:.3f} ± {(r[key + '_high'] - r[key + '_low']) / 2:.3f}"
                    for r in cells
                ),
            )

    header = ("noise", "model", *(f"{k} step{'s' * (k > 1)}" for k in counts))
    floor, sizes = content["reference"], content["sizes"]
    return f"""A Markov chain of 8 tokens, 32 positions; {sizes["samples"]} samples, seed \
{content["seed"]}, 95% intervals over samples. Teachers of one size, {sizes["teacher_steps"]} training \
steps; students {sizes["student_steps"]}.

Total variation of the bigram law; exact samples of the same number score {floor["bigram_tv"]:.3f}:

{table(header, rows("bigram_tv"))}

Negative log-likelihood under the true chain, nats per token; its entropy is \
{floor["entropy_per_token"]:.3f}:

{table(header, rows("nll"))}"""


def hybrid_steps(content: Content) -> str:
    """Two-step samples by who answers at each evaluation, and what each law misses, by time."""
    pairs: dict[str, dict[tuple[str, str], Content]] = {}
    for row in content["pairs"]:
        pairs.setdefault(row["noise"], {})[row["first"], row["second"]] = row
    columns = list(next(iter(pairs.values())))

    def cell(row: Content, key: str) -> str:
        return f"{row[key]:.3f} ± {(row[key + '_high'] - row[key + '_low']) / 2:.3f}"

    def rows() -> Iterable[Sequence[Any]]:
        for noise, found in pairs.items():
            for key, word in (("bigram_tv", "bigram TV"), ("nll", "nats per token")):
                yield (noise, word, *(cell(found[c], key) for c in columns))

    laws: dict[tuple[str, str], dict[float, Content]] = {}
    for row in content["excess"]:
        laws.setdefault((row["noise"], row["model"]), {})[row["time"]] = row
    times = list(next(iter(laws.values())))
    missed = [
        (n, m, *(f"{r[t]['excess']:.4f} ± {r[t]['half_width']:.4f}" for t in times))
        for (n, m), r in laws.items()
    ]
    fresh, sizes = content["fresh_samples"], content["sizes"]
    return f"""Two steps over t = 1, ½, 0, each evaluation answered by the exact joint posterior or by the chain
student; {sizes["samples"]} samples, 95% intervals over them. Exact samples of the chain score \
{fresh["bigram_tv"]:.3f} and {fresh["nll"]:.3f}:

{table(("noise", "", *(f"{a}, then {b}" for a, b in columns)), rows())}

KL from the exact law of x₀ given x_t in nats per token, by t: of the student's joint law from the joint
posterior, and of the trained teacher's marginals from the exact ones; {sizes["scored"]} sequences:

{table(("noise", "model", *(f"t = {t:g}" for t in times)), missed)}"""


SECTIONS: dict[str, tuple[str, str, Callable[[Content], str]]] = {
    "sampler_order": ("Order of the samplers", "fewjump.experiment.sampler_order", sampler_order),
    "error_terms": ("Three errors, three numbers", "fewjump.experiment.error_terms", error_terms),
    "markov_curve": ("The product floor", "fewjump.experiment.markov_curve", markov_curve),
    "digits": ("Digits", "fewjump.experiment.digits", digits),
    "demo_digits": ("The digits demo", "make demo", demo_digits),
    "joint_markov": (
        "Past the floor on chains",
        "fewjump.experiment.joint_markov",
        joint_markov,
    ),
    "joint_exact": (
        "Past the floor on enumerated problems",
        "fewjump.experiment.joint_exact",
        joint_exact,
    ),
    "hybrid_noise": (
        "Noise that moves",
        "fewjump.experiment.hybrid_noise",
        hybrid_noise,
    ),
    "hybrid_steps": (
        "Why more steps do not help those students",
        "fewjump.experiment.hybrid_steps",
        hybrid_steps,
    ),
    "cost_in_vocabulary": (
        "Cost against the vocabulary",
        "benchmarks/cost_in_vocabulary.py",
        cost_in_vocabulary,
    ),
    "sampling_overhead": (
        "Cost of sampling",
        "benchmarks/sampling_overhead.py",
        sampling_overhead,
    ),
}


def render() -> str:
    """The whole page."""
    parts = [
        "# Results",
        "Written by `python benchmarks/results_page.py` from the files in `benchmarks/results/`; each "
        "section names the script that made its file (`python -m …`). Times are of a shared machine: "
        "trust ratios, not seconds.",
    ]
    for name, (title, module, section) in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            parts += [f"## {title}", provenance(content, module), section(content)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
