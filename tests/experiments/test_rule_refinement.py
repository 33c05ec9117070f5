"""Boards refined by the rule, at toy size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments import rule_refinement
from experiments.finite_supports import BOARDS

TINY = dataclasses.replace(
    BOARDS, steps=2, batch_size=4, hidden=16, blocks=1, components=8, samples=8, puzzles=2
)
BUDGET = rule_refinement.Budget(steps=2, batch_size=2, draws=2, warmup=1, anchors=(0.5,))


def test_the_experiment_goes_on_where_it_was(tmp_path: Path) -> None:
    config = rule_refinement.Config(runs=tmp_path, seeds=1, kinds=("shared-mixture",))
    first = rule_refinement.measure(config, TINY, BUDGET)
    seen = {(r["refined"], r["anchor"]) for r in first["rows"]}
    assert seen == {(None, None), ("whole boards", 0.5), ("puzzles", 0.05)}
    # No clues at three numbers of steps, and four numbers of clues at two.
    assert len(first["rows"]) == 3 * (3 + 4 * 2)
    for model in tmp_path.glob("rule-refinement/*/*/model"):
        (model / "model.safetensors").write_bytes(b"not to be read again")
    assert rule_refinement.measure(config, TINY, BUDGET)["rows"] == first["rows"]
