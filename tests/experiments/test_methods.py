"""Every method with one teacher and one budget, at toy size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments import methods
from fewjump.registry import METHODS, SAMPLERS

TINY = methods.Sizes(
    teacher_steps=2,
    batch_size=4,
    evaluations=200,
    alone=3,
    pairs=3,
    samples=32,
    steps=(1, 2),
    teacher_grid=(1, 2),
)
#: A second network, pairs drawn first, and no teacher: what is not a number of its answers. And
#: one that is drawn in two ways.
SOME = {"masked": ("IDLM shared-chain", "VADD", "joint any-order"), "uniform": ("ReDi", "E-MoE")}
#: What these two may ask: its pairs, or nothing.
MOST = {"ReDi": 2 * 3 * 32, "VADD": 0, "E-MoE": 0}


@pytest.mark.parametrize("name", ["masked-chain", "uniform-chain", "names"])
def test_methods_are_trained_within_the_budget_and_judged(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fewjump.report.write", lambda page, out: out)
    task = methods.TASKS[name]
    noise = task.noise
    small = replace(
        task,
        problem=task.problem and {**task.problem, "length": 6, "sequences": 64},
        network={"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8},
        states=2,
        components=2,
        width=8,
    )
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["ann", "bea", "cleo", "dan", "eve", "finn"] * 20))
    monkeypatch.setitem(methods.TASKS, name, small)
    students = {one: methods.methods(small, TINY)[one] for one in SOME[noise]}
    if small.data:
        students = {}
    for own in students.values():
        own |= {"warmup": 1, **({"auxiliary-steps": 1} if "auxiliary-steps" in own else {})}
    monkeypatch.setattr(methods, "methods", lambda task, sizes: students)
    ways = {"psi": methods.SAMPLERS[noise]["psi"]}
    monkeypatch.setitem(methods.SAMPLERS, noise, ways)
    config = methods.Config(runs=tmp_path, seeds=1, task=name, names=names)
    found = methods.measure(config, TINY)
    cells = {(r["model"], r["steps"]) for r in found["rows"] if r["metric"] == "nll"}
    known = {"exact posterior"} if small.problem else set()
    real = "exact samples" if small.problem else "test data"
    walked = {one for one, of in methods.WALKING.items() if of in students and noise == "masked"}
    assert len(walked) == (noise == "masked" and not small.data)
    several = {"teacher", *known, *ways, *students, *walked}
    once = {("autoregressive network", 1), (real, None)}
    assert cells == {(name, k) for name in several for k in (1, 2)} | once
    for cost in found["costs"]:
        if cost["model"] in students:
            most = MOST.get(cost["model"], 200)
            assert most / 2 <= cost["teacher_evaluations"] <= most, cost
    label = {r["model"]: r["sampler"] for r in found["rows"]}
    assert {label[one] for one in walked} <= {"ancestral(block=1)"}
    again = methods.measure(config, TINY)

    def kept(content):
        # Exact samples are scored anew, and sums round as memory lies.
        return content["costs"], [r for r in content["rows"] if r["steps"] is not None]

    assert kept(again) == kept(found)


def test_no_method_and_no_sampler_is_left_out() -> None:
    tasks, sizes = methods.TASKS.values(), methods.Sizes()
    tried = {own.get("method") for t in tasks for own in methods.methods(t, sizes).values()}
    assert tried == {None, *METHODS}
    ways = {own.get("sampler") for part in methods.SAMPLERS.values() for own in part.values()}
    # Euler's is the paper's own, and of its order; the others need a scale or a latent.
    assert set(SAMPLERS) - ways == {
        "ancestral",
        "euler",
        "scaled",
        "flow-matching",
        "held-latent",
        "theta-rk2",
    }


def test_plans_of_all_tasks_are_read(tmp_path) -> None:
    from fewjump.commands.compare_plan import read_plan
    from fewjump.commands.compare_training import student_options

    files = {"names": tmp_path / "names.txt", "text": tmp_path / "text.txt"}
    for name, task in methods.TASKS.items():
        config = methods.Config(task=name, **files)
        found = read_plan(methods.plan_of(task, methods.Sizes(), config, tmp_path), name)
        for own in found.students.values() if name in ("uniform-chain", "names") else ():
            student_options(found.plan, own, 0, [], name)
    with pytest.raises(ValueError, match="give --names"):
        methods.Config(task="names")
    with pytest.raises(ValueError, match="there is no task chain"):
        methods.Config(task="chain")
