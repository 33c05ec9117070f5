"""Write docs/adaptive-times.md from the committed result files: no measured number is typed by hand.

Run: python benchmarks/adaptive_page.py   (a test fails when the page is out of date)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "adaptive-times.md"
FILES = ("adaptive_times", "adaptive_networks")

Content = dict[str, Any]

WORDS = {
    "bound": "likelihood bound",
    "matched_nll": "judge NLL at matched entropy",
    "trigram_tv": "trigram TV",
    "frechet": "Fréchet",
    "1 − precision": "1 − precision",
    "1 − recall": "1 − recall",
    "output": "KL of the exact output",
    "posterior": "KL from the exact posterior",
}


def read() -> tuple[Content, Content]:
    """Both results: without networks, and with."""
    paths = (RESULTS / f"{name}.json" for name in FILES)
    small, networks = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    return small, networks


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def change(row: Content | None) -> str:
    """Difference and half of its interval; bold where the interval does not hold 0."""
    if row is None:
        return "–"
    text = f"{row['difference']:+.4f} ± {(row['high'] - row['low']) / 2:.4f}"
    return f"**{text}**" if decided(row) else text


def decided(row: Content) -> bool:
    """Whether a choice is told from the uniform one."""
    return bool(row["better"] or row["worse"])


def in_order(row: Content) -> bool:
    """Names before digits."""
    return row["problem"].startswith("digits")


def comparison(found: Sequence[Content], leave_out: Sequence[str] = ()) -> str:
    """One line a problem, metric and number of steps; one column a choice."""
    choices = list(dict.fromkeys(r["choice"] for r in found))
    found = sorted(found, key=in_order)
    by_place: dict[tuple[str, str, int], dict[str, Content]] = {}
    for row in found:
        if row["process"] not in leave_out:
            place = (row["problem"], row["process"], row["steps"])
            by_place.setdefault(place, {})[row["choice"]] = row
    lines = []
    for (problem, metric, steps), here in by_place.items():
        base = next(iter(here.values()))["uniform"]
        cells = (change(here.get(choice)) for choice in choices)
        lines.append((problem, WORDS.get(metric, metric), steps or "–", f"{base:.4f}", *cells))
    header = ("problem", "measure", "steps", "uniform", *(f"{c} − uniform" for c in choices))
    return table(header, lines)


def tally(found: Sequence[Content]) -> str:
    """How often each choice is better and worse beyond its interval, and where."""
    lines = []
    for choice in dict.fromkeys(r["choice"] for r in found):
        mine = [r for r in found if r["choice"] == choice]
        parts = []
        for word in ("better", "worse"):
            hits = [r for r in mine if r[word]]
            places: dict[str, list[str]] = {}
            for r in hits:
                metric = WORDS.get(r["process"], r["process"])
                places.setdefault(r["problem"], []).append(f"{metric} at {r['steps']}")
            text = "; ".join(f"{p}: {', '.join(where)}" for p, where in places.items())
            parts.append(f"{word} {len(hits)}" + (f" ({text})" if hits else ""))
        lines.append(f"* `{choice}`, {len(mine)} comparisons: {'; '.join(parts)}.")
    return "\n".join(lines)


def promises(networks: Content) -> str:
    """What the fit promises beside what unseen data find, nats per token, mean over seeds."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in sorted(networks["grids"], key=in_order):
        if row["student"] == "fitted" and row["process"] == "bound":
            found.setdefault((row["problem"], row["steps"]), []).append(row["promised"])
    kept = {
        (r["problem"], r["steps"]): r
        for r in networks["grids_against_uniform"]
        if r["choice"] == "fitted" and r["process"] == "bound"
    }
    rows = [
        (problem, steps, f"{-sum(values) / len(values):+.4f}", change(kept[problem, steps]))
        for (problem, steps), values in found.items()
    ]
    return table(("problem", "steps", "promised", "found in the bound"), rows)


def beside_teacher(networks: Content) -> str:
    """Bounds of the teachers and of their students, on the same paths of the same sequences."""

    def mean(part: str, problem: str, student: str, steps: int) -> float | None:
        key = (problem, "bound", student, steps)
        found = [
            r["loss"]
            for r in networks[part]
            if (r["problem"], r["process"], r["student"], r["steps"]) == key
        ]
        return sum(found) / len(found) if found else None

    shared = sorted(
        {r["steps"] for r in networks["grids"]} & {r["steps"] for r in networks["training"]}
    )
    rows = []
    for corpus in ("names", "digits"):
        for steps in shared:
            values = (
                mean("grids", f"{corpus}, masked", "uniform", steps),
                mean("training", f"{corpus}, warm", "uniform", steps),
                mean("training", f"{corpus}, warm", "gap halving", steps),
            )
            rows.append((corpus, steps, *("–" if v is None else f"{v:.4f}" for v in values)))
    return table(("problem", "steps", "teacher", "student, uniform", "student, gap halving"), rows)


def fitted_times(networks: Content, problem: str, steps: int) -> str:
    """The fitted times of every seed, in words."""
    grids = [
        r["times"]
        for r in networks["grids"]
        if (r["problem"], r["steps"], r["student"], r["process"])
        == (problem, steps, "fitted", "bound")
    ]
    return "; ".join(", ".join(f"{t:.2f}" for t in times) for times in grids)


def facts(content: Content) -> str:
    """Machine and time."""
    machine = content["machine"]
    return (
        f"{machine['cpu_count']}-core CPU, {machine['torch_threads']} torch thread, torch "
        f"{machine['torch']}"
    )


def render() -> str:
    """The whole page."""
    small, networks = read()
    budget = networks["budget"]
    steps, batch = dict(budget["training"]), dict(budget["batch_size"])
    base = {r["problem"]: r["uniform"] for r in small["training_against_uniform"]}
    many = sum(len(networks[f"{part}_against_uniform"]) for part in ("grids", "training"))
    return f"""# Times and weights that adapt

Where a few-step sampler stops on its way from noise to data, and which times a distillation trains
at, are free choices. This page says how to make them from the model instead of by hand, and what
that was worth: {len(budget["seeds"])} seeds, 95% intervals, each choice against the uniform one at equal evaluations or
equal optimiser steps. It is written by `python benchmarks/adaptive_page.py` from two results:

* `python -m fewjump.experiment.adaptive_times` ([source](../src/fewjump/experiment/adaptive_times.py),
  [results](../benchmarks/results/adaptive_times.json)): enumerated joints and a Markov chain, exact
  teachers and tables, no network;
* `python -m fewjump.experiment.adaptive_networks`
  ([source](../src/fewjump/experiment/adaptive_networks.py),
  [results](../benchmarks/results/adaptive_networks.json)): trained networks on names and digits.

Both on a shared {facts(networks)}.

## What to use

{VERDICT}

## The time grid

A sampler that moves positions independently loses $\\mathrm{{TC}}(x_s\\mid x_t)$ nats in the interval
from $t$ to $s$. Since noise acts on each position alone,

$$\\mathrm{{TC}}(x_s\\mid x_t) + H(x_s) - H(x_t)
  = \\mathbb{{E}}\\sum_i H(x_s^i\\mid x_t) - \\sum_i \\mathbb{{E}}\\,H(x_t^i\\mid x_s^i)$$

for *any* process. $H(x_s)-H(x_t)$ telescopes, so summing the right-hand side over a grid gives its path
KL up to a constant that no grid changes. The first term needs the network at noised samples, and one
evaluation at $t$ serves every $s$ below; the second is closed form in the kernel. The best grid of $K$
intervals is then a shortest path. It needs no data: the model's own samples will do.

```python
import torch
from fewjump.problem.examples import reference_markov_chain
from fewjump.process import Uniform
from fewjump.sampler import fitted_grid, sample
from fewjump.schedule import LogLinear

chain = reference_markov_chain(8)
teacher = chain.denoiser(Uniform(chain.vocab_size, LogLinear()))
data = chain.sample(64, torch.Generator().manual_seed(0))
fit = fitted_grid(teacher, data, steps=4, candidates=8)
print(fit.times, fit.saving, fit.saving_error)  # nats per sequence below the uniform grid
tokens = sample(teacher, 16, None, grid=fit.times)
```

On the command line `--grid fitted` of `fewjump sample`, `evaluate` and `rollouts` fits the grid to the
model's own samples first, once in a process: that costs about as much as drawing a few thousand
samples in 8 steps. From Python `grid="fitted"` does the same. Models of joint laws are refused, because
they do not lose what is minimised.

### Without networks

*joint*: KL of the exact output law, nats, on random joints of 4³ states, grid fitted to 4,096 sequences. *chain*:
bigram total variation of 2,048 samples, 32 positions of 8 tokens, grid fitted to 64 sequences. Exact
product teachers; less is better, bold where the interval leaves out 0. At 2 steps `log-linear` is the
uniform grid.

{small_grids(small)}

### Trained networks

Masked teachers of names (16 letters) and digits (64 pixels), as the pages on
[students](students.md) and [results](results.md) have them, and teachers of names under *uniform* noise, {networks["uniform_teacher_steps"]} training steps. Grids are fitted to {budget["fitted_to"]} training sequences.

`path_bound` ({PATH_BOUND}) bounds −log p(x₀) under the sampler *with its grid*, here of at most {budget["unseen"]:,} unseen
sequences, in nats per token: a proper score that needs no judge. The other measures are of samples: the
judge's NLL at the trigram entropy of real names ({networks["matched_entropy"]:.2f} nats), Fréchet distance, precision and
recall. Less is better everywhere.

{comparison(networks["grids_against_uniform"], ("trigram_tv",))}

Beyond their intervals, trigram total variation of names included:

{tally(networks["grids_against_uniform"])}

What the fit promises, from the network's own entropies on training data, beside what the bound finds:

{promises(networks)}

The fitted times at 4 steps, one list a seed. Names, masked: {fitted_times(networks, "names, masked", 4)}. Names, uniform
noise: {fitted_times(networks, "names, uniform", 4)}. Digits, masked: {fitted_times(networks, "digits, masked", 4)}.

{GRIDS_SAY}

The estimate is noisy: on the joint of 64 states a grid needs some thousands of sequences to be told
from its neighbours. `saving` is judged on samples that the grid was not fitted to, and `saving_error`
says how far to trust it; where it is not several times its error, stay with uniform. The path KL bounds
the KL of the output and is not equal to it. An inaccurate network's entropies stand in for the true
ones.

## Times and weights in training

`ConditionalMatching(times=TimeSampling(...))`, `JointConditionalMatching(times=...)`, or
`fewjump distill --times NAME`:

| choice | what it does | expected loss |
|---|---|---|
| `importance` | draws a bin of times in proportion to the root of its mean square loss, and divides by it | unchanged |
| `importance-pairs` | the same of pairs (t, s): bins of t, cut again by the gap; product students | unchanged |
| `learned-weight` | w(t) ∝ 1/(mean loss of the bin) | another one |
| `gap-doubling`, `gap-halving` | the largest t − s doubles, or halves, in four stages; product students | another one, until it ends |

The statistics change between optimiser steps only and are saved with the training, so resuming is
exact and accumulation changes rounding only.

### Without networks

A free table for every state and time, trained for {small["training_steps"]} steps from zero on a random joint of 4³ states under
uniform noise, with a teacher whose logits err by up to one standard deviation, more with more noise.
KL from the exact posterior, nats per position (uniform: {base["posterior"]:.4f}), and of the exact output law in 4
steps, nats (uniform: {base["output"]:.4f}):

{small_training(small)}

### Trained networks

Product students of the masked teachers by the paper's Algorithm 1, warm-started at the teacher's
weights. Names: {steps["names"]} steps of {batch["names"]} sequences, digits: {steps["digits"]} of {batch["digits"]}, small budgets for one core. Judged
on uniform grids; the bound's paths are the same for all students of a seed.

{comparison(networks["training_against_uniform"], ("trigram_tv",))}

Beyond their intervals, trigram total variation of names included:

{tally(networks["training_against_uniform"])}

{TRAINING_SAYS} The bounds, mean over seeds:

{beside_teacher(networks)}

There are {many} comparisons with networks in all, and no correction for their number: about {many / 20:.0f} would leave out 0
by chance if no choice made any difference.

## Not measured

Digits under uniform noise, whose teacher would have had to be trained first; running text; trainings as
long as the committed students', or from random weights; joint students with adaptive times;
grids of students (a product student is warm-started at its teacher, and moves little).
"""


def small_grids(small: Content) -> str:
    """The table of grids without networks."""
    found = {
        (r["problem"], r["process"], r["steps"], r["choice"]): r
        for r in small["grids_against_uniform"]
    }
    rows = []
    for problem, process, steps in dict.fromkeys(key[:3] for key in found):
        here = [found[problem, process, steps, c] for c in ("fitted", "cosine", "log-linear")]
        cells = (f"{here[0]['uniform']:.4f}", *(change(r) for r in here))
        rows.append((f"{problem}, {process}", steps, *cells))
    rows.sort(key=lambda row: (not row[0].startswith("joint"), row[0].endswith("masked")))
    names = ("fitted", "cosine", "log-linear")
    return table(("problem, noise", "steps", "uniform", *(f"{n} − uniform" for n in names)), rows)


def small_training(small: Content) -> str:
    """The table of trainings without networks."""
    found = {(r["problem"], r["choice"]): r for r in small["training_against_uniform"]}
    rows = [
        (choice, change(found["posterior", choice]), change(found["output", choice]))
        for choice in dict.fromkeys(choice for _, choice in found)
    ]
    head = ("choice", "posterior KL − uniform's", "4-step output KL − uniform's")
    return table(head, rows)


PATH_BOUND = "[source](../src/fewjump/evaluate/path_bound.py)"

VERDICT = """`--grid uniform` and `--times uniform` are the defaults and stay so: nothing beat them on Markov, text and
digits alike.

* **Grid: `fitted` is the one to try, at few steps.** It is nowhere worse beyond its interval. It wins
  without networks under uniform noise, and with them at 2 steps on names under uniform noise (judge NLL)
  and on masked digits (Fréchet, recall). On masked names it cannot be told from uniform, and with
  networks at 4 and 8 steps nowhere. It is no default because a fit costs more than the few samples that
  many calls draw.
* **`cosine`** is better at 2 steps on masked digits, and worse or no better everywhere else. `log-linear`
  is once better and once worse with networks: what chance would give. Neither is worth a default.
* **Training times: `importance`, `importance-pairs`, `learned-weight` and `gap-doubling` won nothing with
  networks.** What `importance`, `learned-weight` and `gap-doubling` gained with a table did not carry over.
* **`gap-halving` does less harm in Algorithm 1**, and is the one to use with `--matching
  student-euler`: better on digits at 4 and 8 steps and on names at 8, never worse. It is no default,
  because the default of `fewjump distill` draws the exact pair, which has no such harm to avoid."""

GRIDS_SAY = """Under masks a token that is shown stays, and the optimum is flat and near uniform times. Under uniform
noise tokens can still be put right later, and the fit spends its steps late. On digits it spends them
early, as `cosine` does. The fit promises more than the bound finds; the bound's own noise, from one path
for each sequence, is as large as most differences, so that samples tell what it cannot."""

TRAINING_SAYS = """Every student is *worse* than its teacher in the bound at 4 and 8 steps: x_s is drawn by the student's
Euler step, which is biased the more the larger the gap, and a warm student has little else to learn.
Under `gap-halving` the later gaps are small, and the student strays least; its lead is smaller harm.
Choices that change how often or how heavily a time counts leave that bias where it is."""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
