"""Tables of students of names, running text and digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from experiments.pages.markdown import (
    Row,
    form,
    mean,
    pivot,
    seeds_cell,
    select,
    steps_head,
    table,
    where,
)
from experiments.pages.road import Content, load
from fewjump.demo.parts import TEACHER
from fewjump.evaluate.bootstrap import half_width

QUALITY = {"names": "matched NLL", "text": "matched NLL", "digits": "Fréchet distance"}


def quality(corpus: str) -> str:
    """NLL at matched entropy, models against numbers of steps.

    ± is the wider of two 95% half-widths: over samples and over seeds.
    """
    rows = load(f"text_students_{corpus}")["rows"]
    index = {
        "student": "student",
        "parameters": form("parameters", ","),
        "seeds": lambda r: len({s["seed"] for s in where(rows, student=r["student"])}),
    }
    return pivot(rows, index, "steps", lambda r: seeds_cell(r, "matched_nll"), steps_head)


def verdicts(corpus: str) -> str:
    """The questions that were asked before the run."""
    return select(
        load(f"text_students_{corpus}")["verdicts"],
        {
            "question": "question",
            "student": lambda r: r["challenger"][0],
            "difference, nats": form("difference", "+.3f"),
            "95% interval": lambda r: f"[{r['low']:+.3f}, {r['high']:+.3f}]",
            "answer": lambda r: (
                "better" if r["better"] else "no worse" if r["no_worse"] else "**worse**"
            ),
        },
    )


def optimiser_steps(corpus: str) -> str:
    """How long each kind was trained: they are not equal."""
    content = load(f"text_students_{corpus}")
    sizes = content["sizes"]
    kinds = [k for k in dict.fromkeys(r["student"] for r in content["rows"]) if k in sizes["heads"]]
    steps = {k: sizes["longer"].get(k, sizes["joint_steps"]) for k in kinds}
    steps |= {"product": sizes["product_steps"]}
    told = {"teacher": sizes["teacher_steps"], **steps}
    return ", ".join(f"{kind} {count:,}" for kind, count in told.items())


def dictionary_words(corpus: str) -> str:
    """Share of dictionary words in real text."""
    return f"{100 * load(f'text_students_{corpus}')['reference']['dictionary_words']:.0f}%"


def at_temperature_one(corpus: str) -> str:
    """Students in one step and the teacher in its most, of the first seed."""
    content = load(f"text_students_{corpus}")
    rows = where(content["rows"], seed=content["seed"])
    shown = [*where(rows, steps=1), where(rows, student=TEACHER)[-1]]
    return select(
        shown,
        {
            "at temperature 1": lambda r: f"{r['student']}, {steps_head(r['steps'])}",
            "NLL": form("nll", ".3f"),
            "trigram entropy": form("entropy", ".3f"),
            "words": lambda r: f"{100 * r['dictionary_words']:.0f}%",
            "trigram TV": form("trigram_tv", ".3f"),
            "trunk ms/sample": lambda r: f"{1e3 * r['trunk_seconds'] / r['samples']:.2f}",
            "head ms/sample": lambda r: f"{1e3 * r['head_seconds'] / r['samples']:.2f}",
        },
    )


def speed() -> str:
    """Each student at the teacher's quality, with ratios to the teacher."""
    lines = []
    for corpus, rows in load("student_speed")["speeds"].items():
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
                    QUALITY[corpus],
                    f"{row['samples_per_second']:.0f}",
                    *(ratios if row["reached"] else ("not as good as the teacher", "")),
                )
            )
    header = ("data", "student", "steps", "quality", "", "samples/s", "speed-up", "one sample")
    return table(header, lines)


def one_step_speed(ratio: str, end: str) -> str:
    """The ``least`` or ``most`` of a ratio, of one-step students as good as the teacher."""
    speeds = load("student_speed")["speeds"].values()
    rows = [r for rows in speeds for r in where(rows, reached=True, steps=1)]
    return f"{(min if end == 'least' else max)(r[ratio] for r in rows):.0f}"


def ablation(metric: str, *counts: str) -> str:
    """Variants against numbers of steps; the best of a column is bold."""
    rows = [r for r in load("text_ablation")["rows"] if str(r["steps"]) in counts]
    variants: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row["steps"], row["student"], row["size"], row["source"], row["near"])
        variants.setdefault(key, []).append(row)
    best: dict[int, float] = {}
    for (steps, *_), found in variants.items():
        best[steps] = min(best.get(steps, math.inf), mean(found, metric))

    def cell(rows: Sequence[Row]) -> str:
        value = mean(rows, metric)
        text = f"{value:.3f}"
        text = f"**{text}**" if value == best[rows[0]["steps"]] else text
        half = half_width([row[metric] for row in rows])
        return f"{text} ± {half:.3f}" if len(rows) > 1 else text

    index = {"student": "student", "size": "size", "x_s from": "source", "s": _nearness}
    return pivot(rows, index, "steps", cell, steps_head)


def ablation_spread() -> str:
    """The largest half-width over unseen names."""
    rows = where(load("text_ablation")["rows"], steps=1)
    return f"{max(r['data_nll_half_width'] for r in rows):.3f}"


def ablation_seeds() -> str:
    """Trainings of every variant."""
    return str(len({r["seed"] for r in load("text_ablation")["rows"]}))


def wide() -> str:
    """Wide chains and a tensor train beside the two they stand between: one evaluation, unseen."""
    content = load("wide_chains")
    lines = []
    for row in content["unseen"]:
        mine = where(content["rows"], student=row["student"])
        half = (row["nll_high"] - row["nll_low"]) / 2
        drawn = [seeds_cell(where(mine, steps=steps), "matched_nll") for steps in (1, 4)]
        parameters = f"{mine[0]['parameters']:,}"
        lines.append((row["student"], parameters, f"{row['nll']:.3f} ± {half:.3f}", *drawn))
    header = ("student", "parameters", "−log p, 1 step", "judge NLL, 1 step", "4 steps")
    return table(header, lines)


def wide_cost() -> str:
    """CPU seconds of a step over those of a dense chain of 256 states."""
    rows = load("wide_states")["rows"]
    return pivot(
        rows,
        {"data": lambda r: f"{r['corpus']} (L = {r['length']})", "head": "head"},
        "step",
        lambda found: f"{found[0]['ratio']:.1f}×",
    )


def readme() -> str:
    """Data without a known answer, against the teacher with its most evaluations."""
    lines = [
        *_text_lines("names", "names, a judge's NLL at the variety of real names"),
        *_text_lines("text", "Shakespeare, 64 characters, a judge's NLL"),
    ]
    value = {(r["model"], r["steps"], r["metric"]): r["value"] for r in load("digits")["rows"]}
    for metric, name in (
        ("frechet", "Fréchet distance"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        first = value[TEACHER, 1, metric]
        lines.append(
            (
                f"handwritten digits, {name} (real: {value['test data', None, metric]:.2f})",
                f"{first:.1f}" if first >= 10 else f"{first:.2f}",
                f"{value[TEACHER, 64, metric]:.2f}",
                f"**{value['joint student', 1, metric]:.2f}**",
                "`shared-mixture`",
            )
        )
    return table(("", "teacher, 1", "teacher, 64", "student, **1**", "which"), lines)


def _text_lines(corpus: str, what: str) -> list[tuple[str, ...]]:
    """The teacher and the autoregressive student; then the student that is drawn in parallel."""
    content: Content = load(f"text_students_{corpus}")

    def nll(student: str, steps: int) -> str:
        return f"{mean(where(content['rows'], student=student, steps=steps), 'matched_nll'):.2f}"

    label = f"{what} (real: {content['reference']['nll']:.2f})"
    best = {kind: f"**{nll(kind, 1)}**" for kind in ("autoregressive", "shared-chain")}
    return [
        (label, nll(TEACHER, 1), nll(TEACHER, 64), best["autoregressive"], "`autoregressive`"),
        (
            "the same, drawn in parallel over positions",
            "",
            "",
            best["shared-chain"],
            "`shared-chain`",
        ),
    ]


def _nearness(row: Row) -> str:
    near = row["near"]
    return f"{near:g}·t" if isinstance(near, float) else str(near)
