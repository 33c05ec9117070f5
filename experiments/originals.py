"""Are loaded originals the originals? Every tensor that their own code computed, compared.

The oracles are folders with tiny checkpoints written by the code of SEDD, MDLM, UDLM and Duo, and
what that code computed from them (``oracle.safetensors``, ``oracle.json``).

    python -m experiments.originals --oracles FOLDER
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from experiments.harness import Content, Options, main
from experiments.originals_ledger import ATOL, RTOL, Ledger, Row
from experiments.originals_masked import mdlm, sedd
from experiments.originals_uniform import duo, udlm

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


@dataclass(kw_only=True)
class Config(Options):
    """Compare loaded originals with what their own code computed.

    Attributes:
        oracles: folder of the four oracles.
    """

    oracles: Path


def measure(config: Config) -> Content:
    """Every tensor of every oracle.

    Raises:
        SystemExit: if one was left out.
    """
    rows: list[Row] = []
    for name in CASES:
        found, left = compare(config.oracles / name)
        if left:
            raise SystemExit(f"{name}: not compared: {', '.join(left)}")
        worst = max(found, key=lambda row: row.excess)
        print(f"{name}: {len(found)} tensors, {worst.tensor} at {worst.excess:.2f} of allowed")
        rows += found
    return {"atol": ATOL, "rtol": RTOL, "rows": [asdict(row) for row in rows]}


if __name__ == "__main__":
    main("checkpoints/originals", Config, measure)
