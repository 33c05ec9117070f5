"""Write docs/adaptive-times.md from the committed result files: no measured number is typed by hand.

Run: python benchmarks/adaptive_page.py   (a test fails when the page is out of date)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from adaptive_tables import (
    beside_teacher,
    comparison,
    fitted_times,
    promises,
    small_grids,
    small_training,
    tally,
)
from page_parts import RESULTS, ROOT, Content

PAGE = ROOT / "docs" / "adaptive-times.md"
FILES = ("adaptive_times", "adaptive_networks")
PARTS = ("grids", "training", "joint")


def read() -> tuple[Content, Content]:
    """Both results: without networks, and with."""
    paths = (RESULTS / f"{name}.json" for name in FILES)
    small, networks = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    return small, networks


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
    budget, text_budget = networks["budget"], networks["text_budget"]
    steps = dict(budget["training"] + text_budget["training"])
    batch = dict(budget["batch_size"] + text_budget["batch_size"])
    entropy, samples = networks["matched_entropy"], networks["samples"]
    base = {r["problem"]: r["uniform"] for r in small["training_against_uniform"]}
    many = sum(len(networks[f"{part}_against_uniform"]) for part in PARTS)
    return f"""# Times and weights that adapt

Where a few-step sampler stops on its way from noise to data, and which times a distillation trains
at, are free choices. This page says how to make them from the model instead of by hand, and what
that was worth: {len(budget["seeds"])} seeds, 95% intervals, each choice against the uniform one at equal evaluations or
equal optimiser steps. It is written by `python benchmarks/adaptive_page.py` from two results:

* `python -m experiments.adaptive_times` ([source](../experiments/adaptive_times.py),
  [results](../benchmarks/results/adaptive_times.json)): enumerated joints and a Markov chain, exact
  teachers and tables, no network;
* `python -m experiments.adaptive_networks`
  ([source](../experiments/adaptive_networks.py),
  [results](../benchmarks/results/adaptive_networks.json)): trained networks on names, running text
  (Tiny Shakespeare) and digits.

Both on a shared {facts(networks)}. Masked teachers: {networks["teachers"]["names"]} of names and {networks["teachers"]["digits"]} of
digits, one a seed, **but {networks["teachers"]["text"]} of text**, whose seeds are of draws, noise and students' trainings: its intervals
hold for that teacher and do not say how teachers differ.

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

Masked teachers of names (16 letters), text (64 letters) and digits (64 pixels), as the pages on
[students](students.md) and [results](results.md) have them, and teachers of names under *uniform* noise, {networks["uniform_teacher_steps"]} training steps. Grids are fitted to {budget["fitted_to"]} training sequences.

`path_bound` ({PATH_BOUND}) bounds −log p(x₀) under the sampler *with its grid*, here of at most {budget["unseen"]:,} unseen
sequences, in nats per token: a proper score that needs no judge. The other measures are of samples ({samples["names"]:,}
of names, {samples["text"]:,} of text, {samples["digits"]:,} of digits): the judge's NLL at the trigram entropy of as many real sequences
({entropy["names"]:.2f} nats for names, {entropy["text"]:.2f} for text), Fréchet distance, precision and recall. Less is better
everywhere.

{comparison(networks["grids_against_uniform"], ("trigram_tv",))}

Beyond their intervals, trigram total variation of names and text included:

{tally(networks["grids_against_uniform"])}

What the fit promises, from the network's own entropies on training data, beside what the bound finds:

{promises(networks)}

The fitted times at 4 steps, one list a seed. Names, masked: {fitted_times(networks, "names, masked", 4)}. Names, uniform
noise: {fitted_times(networks, "names, uniform", 4)}. Text, masked: {fitted_times(networks, "text, masked", 4)}. Digits, masked: {fitted_times(networks, "digits, masked", 4)}.

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
weights. Names: {steps["names"]} steps of {batch["names"]} sequences, text: {steps["text"]} of {batch["text"]}, digits: {steps["digits"]} of {batch["digits"]}, small budgets
for one core. Judged on uniform grids; the bound's paths are the same for all students of a seed.

{comparison(networks["training_against_uniform"], ("trigram_tv",))}

Beyond their intervals, trigram total variation of names and text included:

{tally(networks["training_against_uniform"])}

{TRAINING_SAYS} The bounds, mean over seeds:

{beside_teacher(networks)}

### Joint students

Shared-chain students of names from the same teachers, with the objective of the [students](students.md) page
(s = 0.1·t, t at the times of four equal intervals), {budget["joint_training"]} steps of {budget["joint_batch"]} sequences. Joint matching sets s
by `near`, so that pairs and gaps do not apply. At one step the likelihood of unseen names is exact; at
four there is none.

{comparison(networks["joint_against_uniform"])}

{JOINT_SAYS}

There are {many} comparisons with networks in all, and no correction for their number: about {many / 20:.0f} would leave out 0
by chance if no choice made any difference.

## Not measured

Text and digits under uniform noise, whose teachers would have had to be trained first; a second
teacher of text; product students by the exact pair (`forward`) with networks; trainings as long as the
committed students', or from random weights; joint students with adaptive times on text and digits, of other heads, or with t drawn continuously; grids of students
(a product student is warm-started at its teacher, and moves little).
"""


PATH_BOUND = "[source](../src/fewjump/evaluate/path_bound.py)"

VERDICT = """`--grid uniform` and `--times uniform` are the defaults and stay so: nothing beat them on Markov, text and
digits alike.

* **Grid: `fitted` is the one to try, at few steps.** It is nowhere worse beyond its interval. It wins
  without networks under uniform noise, and with them at 2 steps on names under uniform noise (judge NLL)
  and on masked digits (Fréchet, recall). On masked names and text it cannot be told from uniform, and
  with networks at 4 and 8 steps nowhere. It is no default because a fit costs more than the few samples
  that many calls draw.
* **`cosine`** is better at 2 steps on masked digits, and worse or no better everywhere else: on text worse
  at 2, 4 and 8 steps by the bound and by the judge. **`log-linear`** is once better, on digits, and worse on
  text at 4 and 8 steps by every measure. Neither is worth a default.
* **Training times: `importance`, `importance-pairs`, `learned-weight` and `gap-doubling` won nothing with
  product students**; `importance` is once worse, on text, and `learned-weight` twice, on text and names.
  What they gained with a table was not found again (the table's training draws the exact pair, the
  networks' is Algorithm 1).
* **`gap-halving` does less harm in Algorithm 1**, and is the one to use with `--matching
  student-euler`: better by the bound at 8 steps on names, text and digits, at 4 on text and
  digits, and never worse. It is no default, because the default of `fewjump distill` draws the exact
  pair, which has no such harm to avoid.
* **On a teacher of your own** `fewjump verify times --model runs/teacher --data corpus.txt` makes the same
  comparison, with the default way to draw pairs ([experiments](experiments.md)).
* **Joint students of names**: `importance` cannot be told from uniform times, and `learned-weight` is worse
  at one step by every measure. Leave both out."""

GRIDS_SAY = """Under masks a token that is shown stays, and the optimum is flat and near uniform times: on text the fit
moves them by 1/32 at most, the spacing of the times it chooses from. `cosine` and `log-linear` begin with
a short step from noise, and text loses by both. Under uniform noise tokens can still be put right later,
and the fit spends its steps late. On digits it spends them early, as `cosine` does. The fit promises more
than the bound finds; the bound's own noise, from one path for each sequence, is as large as most
differences between near grids, so that samples tell what it cannot."""

TRAINING_SAYS = """Every student is *worse* than its teacher in the bound at 4 and 8 steps: x_s is drawn by the student's
Euler step, which is biased the more the larger the gap, and a warm student has little else to learn.
Under `gap-halving` the later gaps are small, and the student strays least; its lead is smaller harm.
Choices that change how often or how heavily a time counts leave that bias where it is."""


JOINT_SAYS = """`importance` leaves the expected loss as it is, and changed nothing that can be told. `learned-weight` gives
the largest losses the least weight, and those are at pure noise, where a one-step sampler begins."""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
