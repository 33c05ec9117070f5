"""The benchmark of cost against V: its arithmetic, its records, and its committed result."""

from __future__ import annotations

import json
from typing import Any

import torch

from benchmarks import cost_in_vocabulary as bench
from experiments.harness import RESULTS


def test_records_see_what_a_call_creates() -> None:
    x = torch.ones(1000)

    def call() -> torch.Tensor:
        y = x.expand(50, 1000)  # a view: no memory
        z = torch.cat([x, x]) + 1
        del z
        return y.sum(0)

    with bench.Created() as created:
        call()
    assert created.largest == 2000
    assert created.total == 4 * (2000 + 2000 + 1000)
    assert 2 * 8000 <= bench.peak_bytes(call) < 2 * 8000 + 4000


def test_small_heads_of_every_form() -> None:
    sizes = {"batch": 1, "length": 4}
    forms = {f: bench.chain(f, states=4, rank=2, **sizes) for f in ("shared", "low-rank", "dense")}
    forms["any-order"] = bench.along_an_order("any-order", width=8, **sizes)
    rows = [r for name, form in forms.items() for r in bench.steps_of(40, name, form, 1)]
    assert [r["step"] for r in rows] == ["training step", "sampling step"] * 4
    assert all(r["cpu_seconds"] > 0 and r["peak_bytes"] > 0 for r in rows)
    assert all(r["largest_entries"] >= r["avoided_entries"] == 656 for r in rows[4:6])
    assert bench.check(rows, []) == []


def test_check_finds_a_large_tensor_a_blind_record_and_a_steep_cost() -> None:
    def row(head: str, vocab: int, largest: int, cost: float) -> dict[str, Any]:
        return {
            "head": head,
            "dense": head == "dense",
            "step": "training step",
            "vocab": vocab,
            "largest_entries": largest,
            "bound_entries": 100,
            "avoided_entries": 200,
            "cpu_seconds": cost,
            "peak_bytes": cost,
            "created_bytes": float(vocab),
        }

    rows = [row("shared", 10, 100, 10.0), row("shared", 100, 101, 200.0)]
    rows += [row("dense", 10, 199, 10.0), row("dense", 100, 200, 10_000.0)]
    wrong = bench.check(rows, bench.fits(rows))
    assert wrong[:2] == [
        "shared, training step, V = 100: a tensor of 101 entries",
        "dense, training step, V = 10: the record does not see the dense emissions",
    ]
    assert len(wrong) == 2 + 4
    assert all("= 1.30 > 1.1" in line for line in wrong[2:])


def test_committed_result_is_linear_in_the_vocabulary() -> None:
    result = json.loads((RESULTS / "cost_in_vocabulary.json").read_text())
    assert result["wrong"] == bench.check(result["rows"], result["slopes"]) == []
    largest = [r for r in result["rows"] if r["vocab"] == 50_257]
    assert {(r["head"], r["step"]) for r in largest} == {
        (head, step)
        for head, form in bench.FORMS.items()
        if not form.dense
        for step in ("training step", "sampling step")
    }
    for r in largest:
        assert r["largest_entries"] <= r["bound_entries"] < r["avoided_entries"] / 4
