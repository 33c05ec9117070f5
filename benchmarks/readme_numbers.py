"""Write the tables of numbers in README.md from the committed result files.

Run: python benchmarks/readme_numbers.py   (a test fails when they are out of date)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from page_parts import RESULTS, ROOT, Content, table

PAGE = ROOT / "README.md"
TEACHER = "teacher"
PARALLEL = "the same, drawn in parallel over positions"


def load(name: str) -> Content:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def chain() -> str:
    """The exact teacher of a Markov chain against its student, in one evaluation."""
    content = load("joint_markov")
    rows = [
        r
        for r in content["rows"]
        if (r["problem"], r["process"], r["seed"], r["steps"]) == ("Markov V=8", "masked", 0, 1)
        and r["length"] == 32
    ]
    by_student = {r["student"]: r for r in rows}
    fresh = next(r for r in content["references"] if r["problem"] == "Markov V=8")
    shown = {
        "exact teacher, per position: no such student can beat it": by_student[
            "exact product teacher"
        ],
        "chain student, distilled from it": by_student["chain"],
        "fresh samples of the chain": {
            "bigram_tv": fresh["exact_bigram_tv"],
            "nll": fresh["exact_nll"],
        },
    }
    lines = [(name, f"{r['bigram_tv']:.3f}", f"{r['nll']:.3f}") for name, r in shown.items()]
    return table(("", "bigram error (total variation)", "nats per token"), lines)


def mean(rows: list[Content], student: str, steps: int, metric: str) -> float:
    """Over seeds."""
    found = [r[metric] for r in rows if (r["student"], r["steps"]) == (student, steps)]
    return sum(found) / len(found)


def text_lines(name: str, what: str) -> list[tuple[Any, ...]]:
    """The teacher and the autoregressive student; then the student that is drawn in parallel."""
    content = load(f"text_students_{name}")
    rows, metric = content["rows"], "matched_nll"
    label = f"{what} (real: {content['reference']['nll']:.2f})"
    teacher = [f"{mean(rows, TEACHER, k, metric):.2f}" for k in (1, 64)]
    best = {
        kind: f"**{mean(rows, kind, 1, metric):.2f}**"
        for kind in ("autoregressive", "shared-chain")
    }
    return [
        (label, *teacher, best["autoregressive"], "`autoregressive`"),
        (PARALLEL, "", "", best["shared-chain"], "`shared-chain`"),
    ]


def digits_lines() -> list[tuple[Any, ...]]:
    """Fréchet distance, precision and recall of pictures."""
    rows = load("digits")["rows"]
    value = {(r["model"], r["steps"], r["metric"]): r["value"] for r in rows}
    lines = []
    for metric, name in (("frechet", "Fréchet distance"), ("precision", ""), ("recall", "")):
        real = value["test data", None, metric]
        cells = [
            value[TEACHER, 1, metric],
            value[TEACHER, 64, metric],
            value["joint student", 1, metric],
        ]
        form = "{:.1f}" if metric == "frechet" and cells[0] >= 10 else "{:.2f}"
        lines.append(
            (
                f"handwritten digits, {name or metric} (real: {real:.2f})",
                form.format(cells[0]),
                f"{cells[1]:.2f}",
                f"**{cells[2]:.2f}**",
                "`shared-mixture`",
            )
        )
    return lines


def data() -> str:
    """Data without a known answer, against the teacher with 64 evaluations."""
    lines = [
        *text_lines("names", "names, a judge's NLL at the variety of real names"),
        *text_lines("text", "Shakespeare, 64 characters, a judge's NLL"),
        *digits_lines(),
    ]
    return table(("", "teacher, 1", "teacher, 64", "student, **1**", "which"), lines)


def speed() -> str:
    """One-step students that are as good as the teacher with its most evaluations."""
    rows = [
        r
        for corpus in load("student_speed")["speeds"].values()
        for r in corpus
        if r["reached"] and r["steps"] == 1
    ]
    many, single = ([r[k] for r in rows] for k in ("ratio", "single_ratio"))
    return (
        f"At least as good as 64 evaluations of the teacher, these students draw "
        f"{min(many):.0f} to {max(many):.0f} times as many\nsamples a second in batches, where one "
        f"evaluation of all-masked input serves every row, and {min(single):.0f} to "
        f"{max(single):.0f}\ntimes as many one by one."
    )


BLOCKS = {"chain": chain, "data": data, "speed": speed}


def render() -> str:
    """The whole README, its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, block in BLOCKS.items():
        begin, end = f"<!-- {name}: benchmarks/readme_numbers.py -->", f"<!-- end {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md has no block between {begin} and {end}")
        made = f"{begin}\n{block().strip()}\n{end}"
        text = pattern.sub(lambda _, made=made: made, text)
    return text


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE)
