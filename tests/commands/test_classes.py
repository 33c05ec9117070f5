"""Classes and guidance on the command line, from labelled data to a student that takes scales."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fewjump
from fewjump import cli
from fewjump.data import load_data

V, L, K = 5, 4, 3
SMALL = ["--batch-size", "8", "--no-progress", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with classes, of two steps, and its data."""
    folder = tmp_path_factory.mktemp("classes")
    source = np.random.default_rng(0)
    labels = source.integers(0, K, 60)
    tokens = (labels[:, None] + source.integers(0, 2, (60, L))) % V
    np.savez(folder / "data.npz", tokens=tokens.astype(np.uint8), labels=labels)
    words = ["train", "--data", str(folder / "data.npz"), "--out", str(folder / "teacher")]
    words += ["--classes", str(K), "--hidden", "16", "--blocks", "1", "--steps", "2", *SMALL]
    assert cli.main(words) == cli.OK
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert cli.main([*words]) != cli.OK
    return capsys.readouterr().err


def test_the_way_from_labels_to_a_guided_student(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, rolled = str(folder / "teacher"), folder / "rolled.npz"
    words = ["rollouts", teacher, "--out", str(rolled), "--num-samples", "40", "--steps", "2"]
    assert cli.main([*words, "--guidance", "0", "3", "--no-progress"]) == cli.OK
    with np.load(rolled) as archive:
        assert archive["labels"].tolist() == [i % K for i in range(40)]
        scales = archive["guidance"]
        model = fewjump.load(folder / "teacher")
        drawn = fewjump.sample(
            model, 40, 2, generator=0, label=archive["labels"], guidance=scales, batch_size=7
        )
        assert np.array_equal(archive["tokens"], drawn.numpy())
    assert 0 < scales.min() < 0.5 < 2.5 < scales.max() < 3
    for kind in ("product", "shared-chain"):
        student = str(folder / kind)
        words = ["distill", "--teacher", teacher, "--data", str(rolled), "--student", kind]
        words += ["--guidance", "0", "3", "--steps", "2", "--out", student, *SMALL]
        assert cli.main(words) == cli.OK
        model = fewjump.load(folder / kind)
        assert (model.classes, model.guidance_range) == (K, (0.0, 3.0))
        out = folder / f"{kind}.npy"
        words = ["sample", student, "--num-samples", "5", "--steps", "1", "--seed", "2"]
        words += ["--label", "2", "0", "--guidance", "1.5", "--out", str(out)]
        assert cli.main(words) == cli.OK
        assert "1 network evaluations" in capsys.readouterr().out
        expected = fewjump.sample(model, 5, 1, generator=2, label=[2, 0, 2, 0, 2], guidance=1.5)
        assert np.array_equal(np.load(out), expected.numpy())


def test_without_data_a_guided_student_learns_from_the_guided_teacher(folder: Path) -> None:
    words = ["distill", "--teacher", str(folder / "teacher"), "--guidance", "1", "2"]
    words += ["--rollout-steps", "1", "--steps", "2", "--out", str(folder / "free"), *SMALL]
    assert cli.main(words) == cli.OK
    objective = json.loads((folder / "free/model/config.json").read_text())["training"]["objective"]
    assert objective["intermediate"] == "teacher-rollout"
    words[-len(SMALL) - 1 :] = [
        str(folder / "unguided"),
        "--data",
        str(folder / "data.npz"),
        *SMALL,
    ]
    assert cli.main(words) == cli.OK
    found = json.loads((folder / "unguided/model/config.json").read_text())
    assert found["training"]["objective"]["intermediate"] == "teacher-rollout"


def test_an_evaluation_draws_the_classes_in_turn(folder: Path) -> None:
    """Pictures by class are also judged by it."""
    pictures = folder / "pictures.npz"
    with np.load(folder / "data.npz") as archive:
        tokens = archive["tokens"].repeat(4, 1).reshape(-1, 4, 4)
        np.savez(pictures, tokens=tokens, labels=archive["labels"])
    out = folder / "of-pictures"
    words = ["train", "--data", str(pictures), "--out", str(out), "--classes", str(K)]
    words += ["--hidden", "16", "--blocks", "1", "--steps", "1", *SMALL]
    assert cli.main(words) == cli.OK
    words = ["evaluate", str(out), "--data", str(pictures), "--steps", "1", "--num-samples", "9"]
    assert cli.main([*words, "--guidance", "2", "--no-progress"]) == cli.OK
    rows = json.loads((out / "results.json").read_text())["rows"]
    (accuracy,) = [r for r in rows if r["metric"] == "class_accuracy" and r["model"] == "teacher"]
    assert accuracy["nfe"] == 2
    assert 0 <= accuracy["value"] <= 1
    assert [r["model"] for r in rows if r["metric"] == "class_accuracy"] == ["teacher", "test data"]


def test_clear_errors(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, data = str(folder / "teacher"), str(folder / "data.npz")
    assert "3 classes: give --label 0 to 2" in refused(capsys, "sample", teacher)
    assert "--label must lie in 0..2" in refused(capsys, "sample", teacher, "--label", "7")
    said = refused(capsys, "sample", teacher, "--label", "1", "--guidance", "-1")
    assert "--guidance must lie between 0 and 1e+06" in said
    assert "in a .npz file" in refused(capsys, "rollouts", teacher, "--out", f"{tmp_path}/r.npy")
    new = ["--out", str(tmp_path / "new"), "--steps", "1", *SMALL]
    said = refused(capsys, "train", "--data", data, "--classes", "2", *new)
    assert "hold label 2, but classes are 0..1" in said
    with np.load(folder / "data.npz") as archive:
        np.save(tmp_path / "bare.npy", archive["tokens"])
    bare = str(tmp_path / "bare.npy")
    assert "no labels" in refused(capsys, "train", "--data", bare, "--classes", "3", *new)
    assert "give --classes" in refused(
        capsys, "train", "--data", data, "--label-dropout", ".2", *new
    )
    said = refused(capsys, "distill", "--teacher", teacher, "--data", bare, *new)
    assert "these data have no labels" in said
    rolled = ["rollouts", teacher, "--out", f"{tmp_path}/r.npz", "--label", str(K)]
    assert "--label must be a class here, 0 to 2" in refused(capsys, *rolled)
    grid = ["--grid", "fitted", "--keep-grid", "--label", "7"]
    assert "--label must lie in 0..2" in refused(capsys, "sample", teacher, *grid)
    assert not (tmp_path / "new").exists()
    measured = ["evaluate", teacher, "--data", data, "--steps", "1", "--out", f"{tmp_path}/of"]
    both = ["--sampler", "ancestral", "entropy-bounded", "--grid", "cosine"]
    assert "draws its own times" in refused(capsys, *measured, *both)
    assert not (tmp_path / "of").exists()
    plain = ["train", "--data", bare, "--hidden", "16", "--blocks", "1", "--heads", "1"]
    assert cli.main([*plain, "--out", str(tmp_path / "plain"), *new[2:]]) == cli.OK
    said = refused(capsys, "sample", str(tmp_path / "plain"), "--label", "1")
    assert "models with classes, and this one has none" in said
    said = refused(
        capsys, "distill", "--teacher", str(tmp_path / "plain"), "--guidance", "0", "2", *new
    )
    assert "guidance is for teachers with classes" in said or "--guidance is for" in said


def test_archives_are_read_with_their_labels_or_refused(tmp_path: Path) -> None:
    tokens = np.arange(40).reshape(10, 4) % 5
    path = tmp_path / "a.npz"
    np.savez(path, tokens=tokens, labels=np.arange(10), guidance=np.linspace(0, 1, 10))
    data = load_data(path)
    for name in ("train", "valid", "test"):
        assert len(data.labels[name]) == len(data.scales[name]) == len(data.split(name))
    joined = [*data.labels["train"], *data.labels["valid"], *data.labels["test"]]
    assert [int(n) for n in joined] == list(range(10))
    for wrong, said in (
        ({"x": tokens}, "holds x; an .npz is read if it holds tokens"),
        ({"tokens": tokens, "labels": np.arange(9)}, "must be 10 whole numbers"),
        ({"tokens": tokens, "labels": np.arange(10) / 2}, "must be 10 whole numbers"),
        ({"tokens": tokens, "labels": np.arange(10) - 1}, "holds label -1"),
        ({"tokens": tokens, "guidance": np.full(10, np.nan)}, "holds guidance nan"),
        ({"tokens": tokens, "guidance": np.linspace(-1, 1, 10)}, "holds guidance -1"),
        ({"tokens": tokens.reshape(-1)}, "holds a stream"),
        ({"tokens": tokens / 2}, "not integer tokens"),
    ):
        np.savez(path, **wrong)
        with pytest.raises(ValueError, match=said):
            load_data(path)
