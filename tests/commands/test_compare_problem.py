"""A comparison whose teacher and judge are a law that is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fewjump import cli, load
from fewjump.commands.compare_problem import open_problem, read_problem
from fewjump.problem import (
    reference_hidden_markov_chain,
    reference_markov_chain,
)

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "network": {"hidden": 8, "blocks": 1, "heads": 2, "condition-dim": 8},
    "seeds": [0, 1],
    "samples": 100,
    "teacher-evaluations": 64,
    "shared": {"batch-size": 8, "warmup": 1},
}

CHAIN = {"student": "shared-chain", "head": ["states=2"]}


def documented() -> dict[str, Any]:
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(problem:.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(block)


def compare(content: dict[str, Any], folder: Path) -> int:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return cli.main(["compare", str(path), "--out", str(folder / "out"), "--no-progress"])


def test_the_plan_of_the_page_is_judged_exactly_and_nothing_is_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = documented()
    plan |= SMALL | {"network": plan["network"]}
    plan["problem"] |= {"sequences": 50}
    plan["autoregressive"] |= {"steps": 2, "batch-size": 8}
    assert compare(plan, tmp_path) == cli.OK
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {(r["model"], r["steps"], r["metric"]): r for r in found["rows"]}
    students = {"product", "shared chain"}
    exact = {(m, k) for m, k, metric in rows if metric == "kl"}
    others = {(m, k) for m in ("teacher", "first-hitting") for k in (1, 2, 4, 8)}
    network = {("autoregressive network", 1)}
    assert exact == {(m, k) for m in students for k in (1, 2)} | others | network
    # In one evaluation the exact product loses the total correlation, whatever the seed.
    problem = open_problem(read_problem({"kind": "joint", "noise": "masked"}, {}), 10).meter.problem
    floor = rows["teacher", 1, "kl"]
    assert floor["value"] == pytest.approx(problem.one_step_floor(), abs=1e-10)
    assert floor["low"] == floor["high"] == floor["value"]
    # One position after another there is nothing that the exact posterior loses.
    assert rows["first-hitting", 8, "kl"]["value"] == pytest.approx(0, abs=1e-10)
    # Two students that hardly learned differ, and their interval is that of the seeds.
    mine = rows["product", 1, "kl"]
    assert mine["low"] < mine["value"] < mine["high"]
    assert ("exact samples", None, "sequence_tv") in rows
    costs = {(c["model"], c["seed"]): c["teacher_evaluations"] for c in found["costs"]}
    assert all(0 < costs[name, seed] <= 64 for name in students for seed in (0, 1))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Verdicts" in page
    assert "exact posterior of joint" in page

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("fewjump.train.trainer.Trainer._step", never)
    monkeypatch.setattr("fewjump.evaluate.quality", never)
    assert compare(plan, tmp_path) == cli.OK


def test_a_teacher_that_learns_from_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewjump.report.write", lambda page, out: out)
    problem = {"kind": "joint", "noise": "masked", "length": 3, "sequences": 200}
    content = {"problem": problem, **SMALL, "steps": [1], "teacher-steps": [3], "seeds": [0]}
    content |= {"teacher": {"steps": 3, "batch-size": 8, "lr": 0.01, "warmup": 1}}
    content |= {"students": {"a": {}, "b": {"method": "lsd", "jumps": 2}}}
    content |= {"teacher-evaluations": 600}
    assert compare(content, tmp_path) == cli.OK
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    kl = {(r["model"], r["steps"]): r["value"] for r in found["rows"] if r["metric"] == "kl"}
    assert set(kl) == {("teacher", 3), ("exact posterior", 3), ("a", 1), ("b", 1)}
    trained = load(tmp_path / "out" / "teacher" / "model")
    law = open_problem(read_problem(problem, {}), 10).meter
    assert kl["teacher", 3] == law.of_law(trained, 3)["kl"].value
    # A sampler was learned over the teacher's own network, whose single step it cannot change.
    assert kl["b", 1] == law.of_law(trained, 1)["kl"].value
    assert kl["exact posterior", 3] < kl["teacher", 3]
    costs = {c["model"]: (c["steps"], c["teacher_evaluations"]) for c in found["costs"]}
    assert costs["teacher"] == (3, 0)
    assert costs["a"][0] == 600 // 8


def test_a_teacher_that_students_learned_from_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fewjump.report.write", lambda page, out: out)
    problem = {"kind": "joint", "noise": "masked", "length": 3, "sequences": 200}
    content = {"problem": problem, **SMALL, "steps": [1], "seeds": [0], "students": {"a": {}}}
    teacher = {"steps": 3, "batch-size": 8, "lr": 0.01, "warmup": 1}
    content |= {"teacher-evaluations": 80}
    assert compare(content | {"teacher": teacher}, tmp_path) == cli.OK
    weights = tmp_path / "out" / "teacher" / "model" / "model.safetensors"
    before = weights.read_bytes()
    assert compare(content | {"teacher": {**teacher, "steps": 5}}, tmp_path) == cli.USAGE
    assert "has done 3 steps, and students in" in capsys.readouterr().err
    assert weights.read_bytes() == before
    assert compare(content | {"teacher": teacher}, tmp_path) == cli.OK


def test_what_has_had_its_time_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewjump.report.write", lambda page, out: out)
    problem = {"kind": "joint", "noise": "masked", "length": 3, "sequences": 200}
    content = {"problem": problem, **SMALL, "steps": [1], "seeds": [0], "students": {"a": {}}}
    clock = {"max-seconds": 1e-6, "steps": 1000}
    content |= {"teacher": {**clock, "batch-size": 8, "lr": 0.01, "warmup": 1}}
    content |= {"teacher-evaluations": None, "shared": {**clock, "batch-size": 8}}
    content |= {"autoregressive": {**clock, "batch-size": 8}, "network": {"hidden": 16}}
    found = []
    for _ in range(2):
        assert compare(content, tmp_path) == cli.OK
        found.append(json.loads((tmp_path / "out" / "results.json").read_text()))
    assert found[0] == found[1]
    assert {cost["steps"] for cost in found[0]["costs"]} == {1}


def test_another_noise_is_another_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewjump.report.write", lambda page, out: out)
    problem = {"kind": "joint", "length": 3, "sequences": 20}
    plan = {"samples": 50, "steps": [2], "samplers": {"psi": {"sampler": "psi"}}}

    def kl(noise: str) -> float:
        content = {**plan, "problem": {**problem, "noise": noise}}
        assert compare(content, tmp_path) == cli.OK
        rows = json.loads((tmp_path / "out" / "rows.json").read_text())
        (row,) = (r for r in rows if (r["model"], r["metric"]) == ("teacher", "kl"))
        return row["value"]

    assert kl("masked") != pytest.approx(kl("uniform"), rel=1e-3)


def test_kinds_are_the_laws_that_they_name(tmp_path: Path) -> None:
    def made(**own: Any) -> Any:
        return read_problem({"noise": "masked", **own}, {}).recipe.make()

    chain, expected = made(kind="markov"), reference_markov_chain()
    assert torch.equal(chain.transition, expected.transition)
    hidden, expected = made(kind="hidden-markov"), reference_hidden_markov_chain()
    assert torch.equal(hidden.emission, expected.emission)
    assert len(made(kind="sudoku").support) == 288
    assert made(kind="sudoku", base=3, boards=2).length == 81
    assert made(kind="ising", rows=2, cols=2).length == 4
    sequences, weights = np.array([[0, 1], [2, 2]]), np.array([1.0, 3.0])
    np.savez(tmp_path / "list.npz", sequences=sequences, weights=weights)
    law = made(kind="sequences", file=str(tmp_path / "list.npz"))
    assert law.log_prob(torch.tensor([[2, 2]])).exp().item() == pytest.approx(0.75)
    (tmp_path / "t.txt").write_text("abc cab bac " * 50)
    letters = read_problem(
        {"noise": "masked", "kind": "oracle-markov", "text": str(tmp_path / "t.txt"), "length": 5},
        {},
    )
    opened = open_problem(letters, 10)
    assert opened.given.data.vocabulary.decode(torch.tensor([[1, 2, 3, 1, 2]]))
    assert opened.meter.problem.all_possible() is False


def test_a_file_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "list.npy"
    content = {"problem": {"kind": "sequences", "noise": "masked", "file": str(file)}}
    content |= {"students": {"a": {}}}
    file.write_text("no array")
    assert compare(content, tmp_path) == cli.USAGE
    assert f"problem: {file} is no .npy or .npz file of numbers" in capsys.readouterr().err
    np.save(file, np.array([["a", "b"]]))
    assert compare(content, tmp_path) == cli.USAGE
    assert f"problem: {file}: sequences must be numbers" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["markov", "oracle-markov", "sudoku"])
def test_shipped_plans_run(name: str, tmp_path: Path) -> None:
    """At a fraction of their budgets."""
    content = yaml.safe_load((ROOT / "examples" / "plans" / f"{name}.yaml").read_text())
    network = {**content["network"], "hidden": 16, "blocks": 1}
    fewer = {"seeds": [0], "samples": 20, "steps": [1], "teacher-steps": [2]}
    fewer |= {"teacher-evaluations": 256}
    content |= {**SMALL, **fewer, "network": network}
    if name == "oracle-markov":
        content["problem"] |= {"length": 12, "sequences": 50}
    content["autoregressive"] |= {"steps": 2, "batch-size": 8}
    for student in content["students"].values():
        small = {
            "teacher-evaluations": 32,
            "steps": 2,
            "auxiliary-steps": 1,
            "rounds": 1,
            "lr": 0.001,
            "batch-size": 8,
        }
        student |= {key: value for key, value in small.items() if key in student}
    assert compare(content, tmp_path) == cli.OK
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    named = {"teacher", *content["students"], *content["samplers"]}
    assert {row["model"] for row in found["rows"]} >= named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "runs/teacher"}, "leave out teacher, or the problem"),
        ({"data": "t.txt", "judge": "gpt2"}, "leave out data, judge, or the problem"),
        ({"length": 4}, "leave out length, or the problem"),
        ({"problem": {"kind": "joint"}}, "problem: needs kind, one of markov"),
        ({"problem": {"kind": "chess", "noise": "masked"}}, "problem: unknown kind 'chess'"),
        (
            {"problem": {"kind": "joint", "noise": "masked", "vocab-size": 3, "vocab_size": 4}},
            "plan.yaml: problem gives vocab_size twice",
        ),
        ({"problem": {"kind": "joint", "noise": "gaussian"}}, "noise: must be one of"),
        ({"problem": {"kind": "joint", "noise": "masked", "states": 2}}, "unknown key 'states'"),
        ({"problem": {"kind": "sudoku", "noise": "masked", "base": 3}}, "give boards"),
        ({"problem": {"kind": "sequences", "noise": "masked"}}, "file: must name a .npy"),
        ({"problem": {"kind": "joint", "noise": "masked", "length": 40}}, "too many"),
        ({"problem": None}, "network: is of the students of a problem:"),
        ({"network": {"vocab-size": 5}}, "network: vocab_size follows from the problem"),
        ({"network": {"hiden": 5}}, "network: unknown key 'hiden'; did you mean 'hidden'"),
        ({"network": {"hidden": 15}}, "network: hidden (15) must be a multiple of heads"),
        (
            {"students": {"a": {}, "b": {"start": "c"}}},
            "b starts at 'c', which is neither a student of the plan nor a path; give one of a",
        ),
        ({"teacher": {"steps": 5, "device": "cpu"}}, "teacher: --device is for `fewjump compare"),
        ({"teacher": {"stepz": 5}}, "teacher: unknown key 'stepz'"),
        ({"teacher": {"steps": 5}, "students": {"a": {"method": "dcd"}}}, "a: dcd noises data"),
        (
            {"teacher": {"steps": 5}, "students": {"a": {"sampler": "held-latent", **CHAIN}}},
            "a: held-latent is for",
        ),
        ({"samplers": {"exact posterior": {"sampler": "psi"}}}, "cannot be a name here"),
        ({"samples": 1}, "samples must be at least 2"),
        (
            {"problem": {"kind": "joint", "noise": "masked", "vocab-size": 0}},
            "plan.yaml: problem: vocab_size must be at least 1",
        ),
        (
            {"problem": {"kind": "hidden-markov", "noise": "masked", "states": 0}},
            "plan.yaml: problem: num_states must be at least 1",
        ),
        (
            {"problem": {"kind": "ising", "noise": "masked", "rows": 0}},
            "plan.yaml: problem: rows must be at least 1",
        ),
        (
            {"problem": {"kind": "oracle-markov", "noise": "masked", "text": "none.txt"}},
            "plan.yaml: problem: there is no file at none.txt",
        ),
        (
            {"students": {"a": {"sampler": "psi", "sampler-options": ["rho=7"]}}},
            "plan.yaml: a: --sampler psi",
        ),
        ({"samplers": {"b": {"sampler-options": ["a=1"]}}}, "plan.yaml: b: --sampler-options"),
        ({"students": {"a": {"method": "lsd"}}}, "a: --method lsd learns a sampler"),
        ({"students": {"a": {"lora": 2}}}, "a: lora starts at a transformer teacher's weights"),
        ({"students": {"a": {"method": "dcd"}}}, "a: dcd noises data"),
        ({"students": {"a": {"kind": "lines"}}}, "kind of a is for the plan to say"),
        ({"samplers": {"b": {"sampler": "first-hitting", "grid": "cosine"}}}, "b: first-hitting"),
    ],
)
def test_what_contradicts_a_problem_is_refused_before_anything_is_trained(
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("fewjump.train.trainer.Trainer._step", never)
    problem = {"kind": "joint", "noise": "masked", "sequences": 20, "length": 3}
    content = {"problem": problem, "students": {"a": {}}, **SMALL, "teacher-evaluations": None}
    assert compare(content | changes, tmp_path) == cli.USAGE
    said = capsys.readouterr().err
    assert message in said
    assert said.count("plan.yaml") <= 1
    assert not (tmp_path / "out").exists()
