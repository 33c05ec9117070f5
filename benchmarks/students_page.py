"""Write docs/students.md from the committed result files: which student to use, and why.

Run: python benchmarks/students_page.py   (a test fails when the page is out of date)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from page_parts import RESULTS, ROOT, Content, provenance, table

from experiments.ablation import ablation_table
from experiments.wall_clock import TEACHER
from fewjump.evaluate.bootstrap import over_seeds

PAGE = ROOT / "docs" / "students.md"
FILES = ("text_students_names", "text_students_text", "student_speed", "text_ablation")

ADVICE = """# Which student to use

Every student keeps the teacher's trunk and changes what is said with its features. All of them
start equal to the teacher's product law and are trained and sampled in the same way; an evaluation
of the trunk is what is counted, and the head's own time is in the tables of speed below.

| your data | `--student` | why |
|---|---|---|
| text, names, code, music: sequences | `autoregressive` | the best law of a sequence for one evaluation; draws token by token through a light layer |
| the same, drawn in parallel over positions or with long sequences | `shared-chain` | hundreds of hidden states for the price of a few layers; visible tokens inform all others exactly |
| images, boards: one global choice and local noise | `shared-mixture` under a mask, `mixture` with `length` elsewhere | a component is a template of the whole; conditioned as Bayes does, more steps never hurt |
| few tokens, long-range copies | `chain`, `mixture-of-chains` | transitions of its own at every position, at r² numbers each |
| a global choice with continuous factors | `latent` | z enters the trunk; scored by a bound, and behind the others in the tables below |
| a product student for comparison | `product` | the paper's; at best its teacher |

Draw an autoregressive student in one step. With more it gets worse in the tables below: tokens that stay
visible to the right of a hole reach its left-to-right layer through the trunk only. A shared chain and a
shared mixture condition on visible tokens exactly, and get better or stay.

    fewjump distill --teacher runs/teacher --student shared-chain --head states=256 --out runs/student

Options of a head are `head={...}` in Python; the classes in `fewjump.denoiser` list them."""


def load(name: str) -> Content | None:
    """A result file, or None."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def mean_cell(rows: Sequence[Content], metric: str) -> str:
    """Mean over seeds with the wider of two 95% half-widths: over samples and over seeds."""
    known = [r for r in rows if r[metric] is not None]
    if not known:
        return "–"
    mean, _, high = over_seeds(known, metric)
    return f"{mean:.3f} ± {high - mean:.3f}"


def quality(content: Content, metric: str) -> str:
    """Models against numbers of steps."""
    rows = content["rows"]
    steps = sorted({r["steps"] for r in rows})
    lines = []
    for student in dict.fromkeys(r["student"] for r in rows):
        mine = [r for r in rows if r["student"] == student]
        seeds = len({r["seed"] for r in mine})
        cells = []
        for count in steps:
            found = [r for r in mine if r["steps"] == count]
            cells.append(mean_cell(found, metric) if found else "–")
        lines.append((student, f"{mine[0]['parameters']:,}", seeds, *cells))
    header = ("student", "parameters", "seeds", *(f"{k} step{'s' * (k > 1)}" for k in steps))
    return table(header, lines)


def verdict(row: Content) -> str:
    """One question and its answer."""
    word = "better" if row["better"] else "no worse" if row["no_worse"] else "**worse**"
    who, _ = row["challenger"]
    return (
        f"- {row['question']} ({who}): {row['difference']:+.3f} nats "
        f"[{row['low']:+.3f}, {row['high']:+.3f}]: {word}."
    )


def optimiser_steps(content: Content) -> str:
    """How long each kind of student was trained: they are not equal."""
    sizes = content["sizes"]
    kinds = [k for k in dict.fromkeys(r["student"] for r in content["rows"]) if k in sizes["heads"]]
    steps = {
        kind: sizes["product_steps"]
        if kind == "product"
        else sizes["longer"].get(kind, sizes["joint_steps"])
        for kind in kinds
    }
    told = ", ".join(f"{kind} {count:,}" for kind, count in steps.items())
    return (
        f"Optimiser steps of {sizes['batch_size']} sequences: teacher {sizes['teacher_steps']:,}, "
        f"{told}."
    )


def text(title: str, content: Content) -> str:
    reference, rows = content["reference"], content["rows"]
    words = reference.get("dictionary_words")
    facts = (
        f"{content['data']}, L = {content['sizes']['length']}. n-gram judge's NLL in nats per token "
        f"at the trigram entropy of real text ({content['matched_entropy']:.3f} nats); "
        f"{content['sizes']['samples']} samples at each temperature, 95% intervals. Real text scores "
        f"{reference['nll']:.3f}"
        + ("." if words is None else f" and has {100 * words:.0f}% dictionary words.")
        + f" {optimiser_steps(content)}"
    )
    one = [r for r in rows if r["steps"] == 1 and r["seed"] == content["seed"]]
    most = [r for r in rows if r["student"] == TEACHER and r["seed"] == content["seed"]][-1]
    shown = [
        (
            f"{r['student']}, {r['steps']} step{'s' * (r['steps'] > 1)}",
            f"{r['nll']:.3f}",
            f"{r['entropy']:.3f}",
            f"{100 * r['dictionary_words']:.0f}%",
            f"{r['trigram_tv']:.3f}",
            f"{1e3 * r['trunk_seconds'] / r['samples']:.2f}",
            f"{1e3 * r['head_seconds'] / r['samples']:.2f}",
        )
        for r in [*one, most]
    ]
    header = (
        "at temperature 1",
        "NLL",
        "trigram entropy",
        "words",
        "trigram TV",
        "trunk ms/sample",
        "head ms/sample",
    )
    verdicts = "\n".join(verdict(row) for row in content["verdicts"])
    return f"""## {title}

{provenance(content, "experiments.text_students")}

{facts}

{quality(content, "matched_nll")}

{verdicts}

{table(header, shown)}"""


def speed(content: Content) -> str:
    quality = {"names": "matched NLL", "text": "matched NLL", "digits": "Fréchet distance"}
    lines = []
    for corpus, rows in content["speeds"].items():
        for row in rows:
            ratios = [
                f"{row[name]:.1f}× ({row[f'{name}_least']:.1f}–{row[f'{name}_most']:.1f})"
                for name in ("ratio", "single_ratio")
            ]
            lines.append(
                (
                    f"{corpus} (L = {row['length']})",
                    row["student"],
                    row["steps"],
                    f"{row['quality']:.3g}",
                    quality[corpus],
                    f"{row['samples_per_second']:.0f}",
                    *(ratios if row["reached"] else ("not as good as the teacher", "")),
                )
            )
    header = ("data", "student", "steps", "quality", "", "samples/s", "speed-up", "one sample")
    return f"""## Speed at the teacher's quality

{provenance(content, "experiments.student_speed")}

Each student at the fastest measured number of steps that is as good as the teacher with its most (or,
where none is, at its best), timed in turns with the teacher: {content["samples"]} samples a turn, the median of
{content["turns"]} turns and their range. A masked sampler begins with inputs that are alike, so its first step is
one evaluation for the whole turn, and a single step costs little beside the drawing. With prompts that
differ, or one sample at a time (last column), nothing is shared.

{table(header, lines)}"""


def ablation(content: Content) -> str:
    rows: list[Any] = content["rows"]
    one = [r for r in rows if r["steps"] == 1]
    seeds = len({r["seed"] for r in rows})
    spread = max(r["data_nll_half_width"] for r in one)
    return f"""## Kind, size, source of x_s, s

{provenance(content, "experiments.text_ablation")}

{content["data"]}; every variant has {content["steps"]} optimiser steps from the same teacher, {seeds} seed(s). First
the exact −log p of unseen names in **one** evaluation, in nats per token (for `latent` a bound;
95% half-widths over names are at most {spread:.3f}, those over seeds are in the cells); the best of a column is bold.

{ablation_table(one, "data_nll")}
Total variation between the trigrams of samples and of the data:

{ablation_table(rows, "trigram_tv")}"""


def render() -> str:
    """The whole page."""
    parts = [ADVICE]
    for name, title in (("names", "Names"), ("text", "Running text")):
        content = load(f"text_students_{name}")
        if content is not None:
            parts.append(text(title, content))
    for name, section in (("student_speed", speed), ("text_ablation", ablation)):
        content = load(name)
        if content is not None:
            parts.append(section(content))
    parts.append(
        "Written by `python benchmarks/students_page.py` from `benchmarks/results/`. Times are of a "
        "shared machine: trust ratios, not seconds."
    )
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
