"""Write the tables of docs/checkpoints.md from the committed result files.

Run: python benchmarks/checkpoints_page.py   (a test fails when the page is out of date)

The page's prose is written by hand; what stands between ``<!-- name -->`` and ``<!-- end -->`` is
not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "checkpoints"
PAGE = ROOT / "docs" / "checkpoints.md"
NAMES = {"sedd_absorb": "SEDD absorb", "mdlm_subs": "MDLM", "udlm": "UDLM", "duo": "Duo"}
CONTAINERS = {
    "SEDD hub": "hub folder",
    "SEDD run": "run folder",
    "Lightning": "Lightning checkpoint",
    "Hugging Face": "Hugging Face folder",
}


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def provenance(content: dict[str, Any], command: str) -> str:
    machine = content["machine"]
    return f"`{command}` · torch {machine['torch']} · {content['seconds']:.0f} s"


def outputs(content: dict[str, Any]) -> str:
    """Family × container × weights: largest difference of network outputs."""
    rows = []
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in content["rows"]:
        if row["what"] == "output":
            key = (row["family"], row["container"], row["weights"])
            found.setdefault(key, []).append(row)
    for (family, container, weights), entries in found.items():
        worst = max(entries, key=lambda row: row["delta"])
        names = ", ".join(f"`{row['tensor']}`" for row in entries)
        where = CONTAINERS[container]
        rows.append((NAMES[family], where, weights, f"{worst['delta']:.1e}", names))
    return table(("family", "container", "weights", "max \\|Δ\\|", "tensors"), rows)


def everything(content: dict[str, Any]) -> str:
    """Family × kind of tensor: how many, and the largest difference."""
    what = {
        "output": "network outputs",
        "probability": "step tables",
        "schedule": "schedules",
        "rate": "rates, scores, losses",
        "draw": "drawn tokens",
    }
    rows = []
    for family, name in NAMES.items():
        cells = []
        for kind in what:
            mine = [r for r in content["rows"] if (r["family"], r["what"]) == (family, kind)]
            if kind == "draw":
                cells.append(
                    f"{len(mine)} equal" if not any(r["delta"] for r in mine) else "differ"
                )
            elif kind == "rate":
                worst = max(r["delta"] / max(1.0, r["largest"]) for r in mine)
                cells.append(f"{worst:.1e} of the largest ({len(mine)})")
            else:
                cells.append(f"{max((r['delta'] for r in mine), default=0):.1e} ({len(mine)})")
        tensors = len({r["tensor"] for r in content["rows"] if r["family"] == family})
        rows.append((name, tensors, *cells))
    exact = [row for row in content["rows"] if row["exact"] is not None]
    listed = ", ".join(
        f"{NAMES[row['family']]} `{row['tensor']}` ({row['exact']:.1e})" for row in exact
    )
    return (
        table(("family", "tensors", *what.values()), rows)
        + f"\n\nWhere float32 cancels in the originals' own formula, the table compares that formula "
        f"in float32; the exact one differs by more: {listed}."
    )


def fuzz(content: dict[str, Any]) -> str:
    """Kinds of damage: what came of the files."""
    outcomes = ("refused", "unharmed", "as written")
    defects = ("wrong", "other error", "executed", "killed", "too slow")
    rows = []
    total: Counter[str] = Counter()
    for kind, count in content["outcomes"].items():
        total.update(count)
        bad = sum(count.get(name, 0) for name in defects)
        rows.append((kind, sum(count.values()), *(count.get(name, 0) for name in outcomes), bad))
    bad = sum(total[name] for name in defects)
    rows.append(("**all**", sum(total.values()), *(total[name] for name in outcomes), bad))
    limits = content["limits"]
    return (
        table(("damage", "files", *outcomes, "defects"), rows)
        + f"\n\n{content['files']} files, seed {content['seed']}; the slowest took "
        f"{content['slowest_cpu_seconds']:.1f} s of processor time (limits: "
        f"{limits['memory_bytes'] >> 30} GiB of address space, {limits['cpu_seconds']} s). "
        f"Loaded wrongly: {total['wrong']}. Executed something: {total['executed']}. Killed the "
        f"process: {total['killed']}. Took too long: {total['too slow']}. Another error than a "
        f"CheckpointError: {total['other error']}."
    )


def sections() -> dict[str, str]:
    originals = json.loads((RESULTS / "originals.json").read_text(encoding="utf-8"))
    fuzzed = json.loads((RESULTS / "fuzz.json").read_text(encoding="utf-8"))
    oracle = provenance(originals, "python -m experiments.originals")
    return {
        "outputs": f"{outputs(originals)}\n\n{oracle}",
        "everything": everything(originals),
        "fuzz": f"{fuzz(fuzzed)}\n\n{provenance(fuzzed, 'python benchmarks/fuzz_checkpoints.py')}",
    }


def render(text: str) -> str:
    """The page with its tables written anew.

    Raises:
        ValueError: if a place for a table is missing.
    """
    for name, content in sections().items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda m, c=content: f"{m[1]}\n{c}\n\n{m[2]}", text)
        if count != 1:
            raise ValueError(f"the page has {count} places for {name}, expected one")
    return text


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(render(text), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
