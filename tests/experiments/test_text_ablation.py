"""The ablation's runner: whole rows, taken up again, for every kind of student."""

from __future__ import annotations

from experiments.text_ablation import Config, Trial, measure, trials
from fewjump.denoiser.heads import HEADS
from toy_text import SIZES, names_file


def test_the_plan_names_every_kind_and_varies_one_thing_at_a_time():
    plan = trials(16)
    assert {t.student for t in plan} == set(HEADS) - {
        "mixture-of-chains",
        "any-order",
        "tensor-train",
    }
    keys = [(t.student, t.size, t.source, t.near) for t in plan]
    assert len(set(keys)) == len(keys)
    for trial in plan:
        assert trial.source == "forward" or trial.near == 0.1


def test_rows_are_whole_and_remembered(tmp_path):
    config = Config(names=names_file(tmp_path), runs=tmp_path / "runs", steps=2)
    chosen = [
        Trial("product", "–", {}),
        Trial("shared-chain", "r=8", {"states": 8}, near="uniform"),
        Trial("latent", "size 4", {"categories": 0, "size": 4, "particles": 2}),
    ]
    first = measure(config, SIZES, chosen)["rows"]
    assert [(r["student"], r["steps"]) for r in first] == [
        (t.student, steps) for t in chosen for steps in (1, 4)
    ]
    assert all(r["data_nll"] > 0 and 0 <= r["trigram_tv"] <= 1 for r in first)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert measure(config, SIZES, chosen)["rows"] == first
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}
