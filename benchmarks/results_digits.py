"""Sections of docs/results.md on pictures of digits."""

from __future__ import annotations

from page_parts import Content, interval, table


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
