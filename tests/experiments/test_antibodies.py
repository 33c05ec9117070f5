"""The experiment on antibodies: what it trains on, what it measures, and that it resumes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the hub extra")

import tiny_antibodies
from experiments import antibodies, antibody_designs, antibody_judge, antibody_models
from experiments.frozen_trunk import KeptStates, kept_pairs, nested_states
from fewjump import load
from fewjump.assembly import build_student
from fewjump.denoiser.network import NetworkDenoiser
from fewjump.objective import freeze
from fewjump.random import generator_for
from fewjump.sampler import run

LENGTH = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_antibodies.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def teacher(folder: Path) -> NetworkDenoiser:
    found = load(folder)
    assert isinstance(found, NetworkDenoiser)
    freeze(found)
    return found


def sequences(teacher: NetworkDenoiser, count: int) -> torch.Tensor:
    prompt, fixed = antibody_models.frame(teacher, LENGTH)
    return run(teacher, count, 4, generator=0, length=LENGTH, prompt=prompt.expand(count, -1),
               fixed=fixed.expand(count, -1)).samples  # fmt: skip


def test_states_lie_on_paths(teacher: NetworkDenoiser) -> None:
    x0, process = sequences(teacher, 40), teacher.process
    found = nested_states(x0, process, (0.1, 0.5), generator_for(0))
    assert found.shape == (8, 40, LENGTH)
    for x_t, x_s in found.view(4, 2, 40, LENGTH):
        hidden, within = x_t == process.mask, x_s == process.mask
        assert bool((hidden | ~within).all())
        assert torch.equal(x_t[~hidden], x0[~hidden])
        assert torch.equal(x_s[~within], x0[~within])
        assert not bool(hidden[:, [0, -1]].any())
    scattered = (found[:4:2] == process.mask).double().mean()
    # Uniform on (0.5, 1) of the 18 that a frame does not hold.
    assert float(scattered) == pytest.approx(0.75 * 18 / 20, abs=0.06)
    stretch = (found[4::2] == process.mask).flatten(0, 1).long()
    assert bool((stretch.diff(dim=1) == 1).sum(1).eq(1).all())
    assert bool(stretch.sum(1).le(LENGTH // 3).all())


def test_what_is_kept_is_what_the_networks_say(teacher: NetworkDenoiser, tmp_path: Path) -> None:
    """The loss on kept features equals that of whole networks on the same states."""
    x0 = sequences(teacher, 20)
    pairs = kept_pairs(teacher, x0, (0.1, 0.5), 0, tmp_path)
    # All but the frame is hidden in half of the states that a student sees.
    blank = pairs.outer == 0
    assert int(blank.sum()) == len(blank) // 2 == 4 * 20
    assert int((pairs.states[0] == teacher.process.mask).sum()) == LENGTH - 2
    hidden = pairs.states == teacher.process.mask
    assert bool((hidden[pairs.outer] | ~hidden[pairs.inner]).all())
    student = build_student(teacher, "autoregressive", None, {"width": 8}, True, LENGTH, 0)
    assert isinstance(student, NetworkDenoiser)
    student.eval()
    objective = KeptStates(teacher, pairs)
    loss, _ = objective(student, None, torch.zeros(64, LENGTH), generator_for(3))
    drawn = generator_for(3)
    chosen = (torch.rand(64, 1, generator=drawn, dtype=torch.float64)[:, 0] * len(blank)).long()
    target = teacher(pairs.states[pairs.inner[chosen]], 0.3)
    law = student(pairs.states[pairs.outer[chosen]], 0.7)
    whole = law.cross_entropy(target, drawn).mean() / LENGTH
    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-6)


def test_kept_features_serve_sequences_that_follow(
    teacher: NetworkDenoiser, tmp_path: Path
) -> None:
    x0 = sequences(teacher, 40)
    few = kept_pairs(teacher, x0[:32], (0.1, 0.5), 0, tmp_path)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    many = kept_pairs(teacher, x0, (0.1, 0.5), 0, tmp_path)
    assert torch.equal(many.features[: len(few.features)], few.features)
    assert all(file.stat().st_mtime_ns == before for file, before in files.items())
    with pytest.raises(ValueError, match="other states; remove it"):
        kept_pairs(teacher, x0.flip(0), (0.1, 0.5), 0, tmp_path)


def slow_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, before = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def test_edit_distances_are_levenshteins() -> None:
    pick = random.Random(0)
    words = ["".join(pick.choices("ACD", k=pick.randint(1, 9))) for _ in range(30)]
    expected = [[slow_distance(a, b) for b in words[10:]] for a in words]
    assert antibody_judge.edit_distances(words, words[10:]).tolist() == expected


def test_statistics_of_sequences() -> None:
    rows = ["AACC", "ACAC"]
    assert antibody_judge.frequency_row(rows, rows)["pairs_tv"] == 0
    other = antibody_judge.frequency_row(rows, ["AADD", "ADAD"])
    assert other["letters_tv"] == pytest.approx(0.5)
    # Of AA, AC, CC, AC, CA, AC only AA is among AA, AD, DD, AD, DA, AD.
    assert other["pairs_tv"] == pytest.approx(5 / 6)
    spread = antibody_judge.spread_row(["AAAA", "AAAC", "AACC"], ["AAAC", "DDDD"])
    assert (spread["nearest"], spread["copies"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert spread["between"] == pytest.approx(4 / 3)
    assert antibody_judge.leave_one_out(["AAAA", "AAAC", "CCCC"]) == pytest.approx(5 / 3)


def test_a_judge_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be run"):
        antibody_judge.numbered(tmp_path / "nothing", ["A"])
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no antpack >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(RuntimeError, match="no antpack"):
        antibody_judge.numbered(broken, ["A"])


def test_rows_are_whole_and_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (antibodies, antibody_models):
        monkeypatch.setattr(module, "ROLLOUT_STEPS", 3)
    monkeypatch.setattr(antibody_designs, "FRAMEWORKS", {"one": "ACDEFGHIKLMNPQRSTVWY"})
    small = {"width": 8}
    heads = {"product": {}, "shared-chain": {"states": 8}, "autoregressive": small}
    monkeypatch.setattr(antibody_models, "HEADS", heads)
    config = antibody_models.Config(
        teacher=folder,
        judge=tiny_antibodies.judge(tmp_path / "judge"),
        runs=tmp_path / "runs",
        length=LENGTH,
        rollouts=20,
        samples=10,
        steps=(1, 2),
        teacher_steps=(1,),
        teacher_samples=8,
        students=tuple(heads),
        temperatures=(1e-4,),
        training=3,
        batch_size=4,
        designs=6,
        teacher_designs=4,
        alone=1,
    )
    found = antibodies.measure(config)
    cells = {(row["student"], row["steps"]) for row in found["rows"]}
    assert cells == {("teacher", 3), ("teacher", 1)} | {(k, s) for k in heads for s in (1, 2)}
    assert all(0 <= row["valid"] <= 1 and row["nearest"] >= 0 for row in found["rows"])
    sharp = {row["student"]: row for row in found["sharpened"]}
    assert {name: row["steps"] for name, row in sharp.items()} == {"teacher": 3} | dict.fromkeys(
        heads, 1
    )
    # Next to 0 a product law has one sequence.
    assert (sharp["product"]["temperature"], sharp["product"]["between"]) == (1e-4, 0)
    assert all(row["temperature"] == 1 for row in found["rows"])
    assert found["learned"] == 18
    assert set(found["held_out_nll"]) == {"teacher", *heads}
    timed = {(row["student"], row["steps"]) for row in found["alone"]}
    assert timed == {("teacher", 3)} | {(k, s) for k in heads for s in (1, 4)}
    names = {"teacher", "teacher, one by one", *heads}
    assert {(row["loops"], row["student"]) for row in found["designs"]} == {
        (loops, name) for loops in antibody_designs.DESIGNS for name in names
    }
    counts = {row["student"]: row["n"] for row in found["designs"]}
    assert (counts["teacher, one by one"], counts["autoregressive"]) == (4, 6)
    columns = found["loops"]["autoregressive"][0]["letters"]
    assert all(sum(column) == pytest.approx(1, abs=1e-3) for column in columns)
    again = antibodies.measure(config)
    assert again["rows"] == found["rows"]
    assert again["sharpened"] == found["sharpened"]
    assert again["designs"] == found["designs"]
