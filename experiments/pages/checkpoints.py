"""Tables of the originals' checkpoints: the same numbers, and damaged files."""

from __future__ import annotations

from collections import Counter

from experiments.pages.markdown import table, where
from experiments.pages.road import load

FAMILIES = {"sedd_absorb": "SEDD absorb", "mdlm_subs": "MDLM", "udlm": "UDLM", "duo": "Duo"}
CONTAINERS = {
    "SEDD hub": "hub folder",
    "SEDD run": "run folder",
    "Lightning": "Lightning checkpoint",
    "Hugging Face": "Hugging Face folder",
}
ORIGINALS, FUZZ = "checkpoints/originals", "checkpoints/fuzz"
OUTCOMES = ("refused", "unharmed", "as written")
DEFECTS = ("wrong", "other error", "executed", "killed", "too slow")


def outputs() -> str:
    """Family × container × weights: largest difference of network outputs."""
    rows = where(load(ORIGINALS)["rows"], what="output")
    lines = []
    for key in dict.fromkeys((r["family"], r["container"], r["weights"]) for r in rows):
        family, container, weights = key
        mine = where(rows, family=family, container=container, weights=weights)
        worst = max(r["delta"] for r in mine)
        names = ", ".join(f"`{r['tensor']}`" for r in mine)
        lines.append((FAMILIES[family], CONTAINERS[container], weights, f"{worst:.1e}", names))
    return table(("family", "container", "weights", "max \\|Δ\\|", "tensors"), lines)


def everything() -> str:
    """Family × kind of tensor: how many, and the largest difference."""
    rows, lines = load(ORIGINALS)["rows"], []
    for family, name in FAMILIES.items():
        mine = where(rows, family=family)
        cells = [str(len({r["tensor"] for r in mine}))]
        for kind in ("output", "probability", "schedule"):
            found = where(mine, what=kind)
            cells.append(f"{max(r['delta'] for r in found):.1e} ({len(found)})")
        rates, draws = where(mine, what="rate"), where(mine, what="draw")
        worst = max(r["delta"] / max(1.0, r["largest"]) for r in rates)
        equal = not any(r["delta"] for r in draws)
        cells += [f"{worst:.1e} of the largest ({len(rates)})"]
        cells += [f"{len(draws)} equal" if equal else "differ"]
        lines.append((name, *cells))
    header = ("family", "tensors", "network outputs", "step tables", "schedules")
    return table((*header, "rates, scores, losses", "drawn tokens"), lines)


def cancelling() -> str:
    """Tensors whose exact value differs from the original's formula in float32."""
    rows = [row for row in load(ORIGINALS)["rows"] if row["exact"] is not None]
    return ", ".join(f"{FAMILIES[r['family']]} `{r['tensor']}` ({r['exact']:.1e})" for r in rows)


def fuzz() -> str:
    """Kinds of damage: what came of the files."""
    found = {kind: Counter(count) for kind, count in load(FUZZ)["outcomes"].items()}
    found["**all**"] = sum(found.values(), Counter())
    lines = [
        (
            kind,
            count.total(),
            *(count[name] for name in OUTCOMES),
            sum(count[name] for name in DEFECTS),
        )
        for kind, count in found.items()
    ]
    return table(("damage", "files", *OUTCOMES, "defects"), lines)


def memory_limit() -> str:
    """GiB of address space that a worker may have."""
    return str(load(FUZZ)["limits"]["memory_bytes"] >> 30)
