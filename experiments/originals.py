"""Are loaded originals the originals? Every tensor that their own code computed, compared.

The oracles are folders with tiny checkpoints written by the code of SEDD, MDLM, UDLM and Duo, and
what that code computed from them (``oracle.safetensors``, ``oracle.json``).

    python -m experiments.originals --oracles FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.originals_ledger import ATOL, RTOL, Ledger, Row
from experiments.originals_masked import mdlm, sedd
from experiments.originals_uniform import duo, udlm
from fewjump.verify.results import DEFAULT_FOLDER, Experiment

CASES: dict[str, Callable[[Ledger], None]] = {
    "sedd_absorb": sedd,
    "mdlm_subs": mdlm,
    "udlm": udlm,
    "duo": duo,
}


def compare(folder: Path) -> tuple[list[Row], list[str]]:
    """All comparisons of one oracle, and the tensors of it that were left out.

    Torch's global random state is left as it was.

    Args:
        folder: one of :data:`CASES`.
    """
    ledger = Ledger(folder)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        CASES[folder.name](ledger)
    return ledger.rows, ledger.unchecked()


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(out=DEFAULT_FOLDER / "checkpoints")
    parser.add_argument("--oracles", type=Path, required=True, help="folder of the four oracles")


def main() -> None:
    experiment = Experiment("originals", add=_arguments)
    rows: list[Row] = []
    for name in CASES:
        found, left = compare(experiment.options.oracles / name)
        worst = max(found, key=lambda row: row.excess)
        print(
            f"{name}: {len(found)} tensors, worst {worst.tensor} at {worst.excess:.2f} of allowed"
        )
        if left:
            raise SystemExit(f"{name}: not compared: {', '.join(left)}")
        rows += found
    experiment.save({"atol": ATOL, "rtol": RTOL, "rows": [row.plain() for row in rows]})


if __name__ == "__main__":
    main()
