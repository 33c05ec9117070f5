"""The ablation table, cell by cell."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.ablation import ablation_table


def row(student: str, near: Any, steps: int, seed: int, nll: float, size: str = "r=8") -> Any:
    return {
        "student": student,
        "size": size,
        "source": "forward",
        "near": near,
        "steps": steps,
        "seed": seed,
        "nll": nll,
    }


def test_means_intervals_order_and_the_best() -> None:
    rows = [
        row("chain", 0.1, 4, 0, 2.0),
        row("chain", 0.1, 1, 0, 1.0),
        row("chain", 0.1, 1, 1, 3.0),
        row("mixture", "zero", 1, 0, 1.5, "K=16"),
    ]
    assert ablation_table(rows, "nll", digits=2).splitlines() == [
        "| student | size | x_s from | s | 1 step | 4 steps |",
        "|---|---|---|---|---:|---:|",
        "| chain | r=8 | forward | 0.1·t | 2.00 ± 12.71 | **2.00** |",
        "| mixture | K=16 | forward | zero | **1.50** | – |",
    ]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        ablation_table([], "nll")
    with pytest.raises(ValueError, match="lacks near, frechet"):
        ablation_table([row("chain", None, 1, 0, 1.0)], "frechet")
    with pytest.raises(ValueError, match="two rows for chain, r=8, forward, zero"):
        ablation_table([row("chain", "zero", 1, 0, 1.0), row("chain", "zero", 1, 0, 2.0)], "nll")
