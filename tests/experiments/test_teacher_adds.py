"""What the teacher adds: whole rows, and sequences that are a part of one another."""

from __future__ import annotations

from dataclasses import replace

import torch

from experiments import summed_targets
from experiments.teacher_adds import SOURCES, Budget, Config, last_and_best, measure, subset
from toy_text import SIZES, names_file


def test_fewer_sequences_are_among_more() -> None:
    tokens = torch.arange(40)[:, None]
    few, more = (subset(tokens, count, 3)[:, 0].tolist() for count in (4, 20))
    assert more[:4] == few
    assert len(set(more)) == 20


def test_the_best_row_is_chosen_by_validation_and_the_last_is_kept() -> None:
    rows = [
        {"optimiser_steps": 1, "valid_nll": 2.0, "nll": 5.0},
        {"optimiser_steps": 2, "valid_nll": 1.0, "nll": 4.0},
        {"optimiser_steps": 3, "valid_nll": 3.0, "nll": 1.0},
    ]
    found = {row["stopped"]: row["optimiser_steps"] for row in last_and_best(rows)}
    assert found == {"last": 3, "validation": 2}


def test_rows_are_whole_and_remembered(tmp_path) -> None:
    budget = Budget("shared-chain", {"states": 3}, steps=(1, 2), batch_size=4, judged=16)
    config = Config(names=names_file(tmp_path), runs=tmp_path / "runs", seeds=1, shares=(1.0, 0.1))
    found = measure(config, SIZES, replace(budget, rollouts=0.1))
    sources = [s.name for s in SOURCES]
    assert [r["source"] for r in found["rows"][::2]] == [*sources[:3], *sources]
    assert found["rollouts"]["evaluations"] == 64 * found["rollouts"]["sequences"]
    for row in (found["teacher"], *found["rows"]):
        assert all(row[f"{k}_low"] <= row[k] <= row[f"{k}_high"] for k in ("nll", "bound"))
    counts = {r["share"]: r["sequences"] for r in found["rows"]}
    assert counts[0.1] == round(0.1 * counts[1.0]) == found["rollouts"]["sequences"]
    assert measure(config, SIZES, replace(budget, rollouts=0.1))["rows"] == found["rows"]


def test_gradients_vary_less_where_tokens_are_summed(tmp_path) -> None:
    config = summed_targets.Config(
        names=names_file(tmp_path), runs=tmp_path / "runs", steps=2, batches=2, batch_size=4
    )
    rows = summed_targets.measure(config, SIZES)["rows"]
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    assert len(pairs) == len(summed_targets.KINDS) * len(summed_targets.SHARES)
    for drawn, summed in pairs:
        assert (drawn["way"], summed["way"]) == ("drawn", "summed")
        assert drawn["variance"] > drawn["draw_variance"] >= 0
        assert summed["cpu_seconds"] > 0
    assert sum(s["draw_variance"] for _, s in pairs) < sum(d["draw_variance"] for d, _ in pairs)
