"""Run folders: a refused command changes nothing, damage is noticed, a finished run goes on."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from fewjump import cli
from fewjump.train import read_metrics

SIZES = ["--hidden", "8", "--blocks", "1", "--heads", "2", "--length", "8"]
QUICK = ["--batch-size", "4", "--no-progress", "--device", "cpu", "--warmup", "0"]


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("abc cab bac " * 40)
    return str(path)


@pytest.fixture
def run(tmp_path: Path, text: str) -> Path:
    assert train(text, tmp_path / "run") == cli.OK
    return tmp_path / "run"


def train(text: str, out: Path, *more: str) -> int:
    words = ["train", "--data", text, "--out", str(out), *SIZES, *QUICK, "--steps", "3"]
    return cli.main([*words, *more])


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too, by a digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -- a refused command ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "train --data {text} --out {run} --hidden 16 --length 8",
        "train --data {text} --out {run} --lr 0.5",
        "train --data {text} --out {run} --steps 2 --hidden 8 --blocks 1 --heads 2 --length 8",
        "train --data {text} --out {run} --dropout 7",
        "train --data {text} --out {run} --device nosuch",
        "train --data {text} --out {run}/model",
        "distill --teacher {run} --data {text} --out {run}",
        "distill --teacher {run} --data {text} --out {run}/model",
        "distill --teacher {run} --data {text} --out {run} --head states=3",
        "refine --student {run} --teacher {run} --data {text} --out {run}",
        "rollouts {run} --out {run}/options.npy --steps 0",
        "rollouts {run} --out {run} --num-samples 2",
        "evaluate {run} --data {text} --steps 0",
        "evaluate {run} --data nowhere.txt",
        "sample {run} --out {run}",
        "sample {run} --out {run}/model",
        "report {run}",
        "verify accuracy --out {run} --nosuch",
    ],
)
def test_a_refused_command_leaves_the_folder_as_it_was(
    words: str, run: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    given = [word.format(run=run, text=text) for word in words.split()]
    more = QUICK if given[0] in ("train", "distill", "refine") else []
    assert cli.main([*given, *[w for w in more if w not in given]]) != cli.OK
    assert contents(run) == before
    if given[0] == "train":
        # Its own options still resume it.
        assert cli.main(["train", "--config", str(run / "options.yaml")]) == cli.OK


@pytest.mark.parametrize(
    "words",
    [
        "train --data {text} --dropout 7",
        "train --data {text} --accumulate 3",
        "train --data {text} --device nosuch",
        "train --data nowhere.txt",
        "distill --teacher {run} --data {text} --student chain --head nosuch=1",
        "distill --teacher {run} --data {text} --lr 0",
        "refine --student {run} --teacher {run} --auxiliary-steps 5 --steps 5",
        "rollouts {run} --num-samples 2 --steps 0",
        "rollouts {run} --num-samples 2 --batch-size 0",
        "evaluate {run} --data {text} --steps 0",
        "sample {run} --steps 0",
        "demo text --data nowhere.txt",
    ],
)
def test_a_refused_command_makes_no_folder(
    words: str, run: Path, text: str, tmp_path: Path
) -> None:
    given = [word.format(run=run, text=text) for word in words.split()]
    new = tmp_path / "new"
    out = new / "x.npy" if given[0] == "rollouts" else new
    assert cli.main([*given, "--out", str(out)]) != cli.OK
    assert not new.exists()


@pytest.mark.parametrize("name", ["model", "teacher"])
def test_what_would_be_deleted_at_the_end_is_looked_at_first(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / name / "thesis.txt").write_text("mine")
    assert train(text, tmp_path / "run") == cli.USAGE
    assert "thesis.txt" in capsys.readouterr().err
    assert list(contents(tmp_path / "run")) == [f"{name}/thesis.txt"]


def test_outputs_of_no_known_run_are_not_mixed_with_new_ones(
    run: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "report.html").write_text("of this run")
    (run / "training_state.pt").unlink()
    words = ["distill", "--teacher", str(run), "--data", text, "--out", str(run), *QUICK]
    before = contents(run)
    # What the folder's run was still stands in config.yaml.
    assert cli.main(words) == cli.USAGE
    assert "another configuration" in capsys.readouterr().err
    (run / "config.yaml").unlink()
    assert cli.main(words) == cli.USAGE
    assert "model, metrics.jsonl, report.html and no config.yaml" in capsys.readouterr().err
    assert contents(run).keys() == before.keys() - {"config.yaml"}


# -- a run that goes on ---------------------------------------------------------------------


def test_a_finished_run_can_be_lengthened_but_not_shortened(
    run: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(text, run, "--steps", "6", "--log-every", "1") == cli.OK
    lines = read_metrics(run)
    assert [line["step"] for line in lines if "loss" in line] == [1, 3, 4, 5, 6]
    assert [line["event"] for line in lines if "event" in line] == ["steps changed from 3 to 6"]
    # The learning rate is that of a run of six steps: a cosine at (n − 1)/6.
    expected = [1e-3 * (1 + torch.cos(torch.tensor(torch.pi * k / 6))) / 2 for k in (3, 4, 5)]
    assert [line["lr"] for line in lines[-3:]] == pytest.approx([float(x) for x in expected])
    assert yaml.safe_load((run / "options.yaml").read_text())["steps"] == 6
    assert json.loads((run / "model" / "config.json").read_text())["training"]["steps"] == 6
    before = contents(run)
    assert train(text, run, "--steps", "5") == cli.USAGE
    assert "has done 6 steps, more than the 5 asked for" in capsys.readouterr().err
    assert contents(run) == before
    assert cli.main(["train", "--config", str(run / "options.yaml")]) == cli.OK
    assert contents(run) == before


def test_how_the_work_is_split_may_change(run: Path, text: str, tmp_path: Path) -> None:
    assert train(text, run, "--steps", "6", "--accumulate", "2") == cli.OK
    assert train(text, tmp_path / "b") == cli.OK
    assert train(text, tmp_path / "b", "--steps", "6") == cli.OK
    one, two = (
        torch.load(folder / "training_state.pt", weights_only=True)["student"]
        for folder in (run, tmp_path / "b")
    )
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-6, rtol=1e-5)


def test_a_second_run_is_told_who_writes_and_a_killed_one_does_not_block(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    code = "import sys; from fewjump import cli; sys.exit(cli.main())"
    words = ["train", "--data", text, "--out", str(out), *SIZES, *QUICK, "--steps", "100000"]
    first = subprocess.Popen([sys.executable, "-c", code, *words])
    while not (out / "metrics.jsonl").exists() and first.poll() is None:
        time.sleep(0.02)
    for verb in (
        words,
        ["distill", "--teacher", str(out), "--data", text, "--out", str(out), *QUICK],
    ):
        assert cli.main(verb) == cli.USAGE
        said = capsys.readouterr().err
        assert "no saved model" in said or "has not finished" in said or str(first.pid) in said
    assert cli.main(words) == cli.USAGE
    assert f"is being written by process {first.pid} on " in capsys.readouterr().err
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    assert train(text, out, "--steps", "100000", "--max-seconds", "0.01") == cli.OK
    assert not (out / ".writer.json").exists()


# -- damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 5000])
def test_a_truncated_state_is_named_and_can_be_made_again(
    keep: int, run: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = (run / "model" / "model.safetensors").read_bytes()
    state = run / "training_state.pt"
    state.write_bytes(state.read_bytes()[:keep])
    before = contents(run)
    assert train(text, run) == cli.USAGE
    assert f"{state} is damaged or cut short ({keep} bytes)" in capsys.readouterr().err
    assert contents(run) == before
    state.unlink()
    assert train(text, run) == cli.OK
    assert (run / "model" / "model.safetensors").read_bytes() == model


@pytest.mark.parametrize("cut", [1, 10])
def test_no_line_of_metrics_is_lost_or_there_twice(
    cut: int, run: Path, text: str, tmp_path: Path
) -> None:
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole[:-cut])
    assert train(text, run) == cli.OK
    assert (run / "metrics.jsonl").read_text() == whole
    (run / "metrics.jsonl").write_text(whole + whole.splitlines()[-1][:7])
    assert cli.main(["train", "--config", str(run / "options.yaml")]) == cli.OK
    assert (run / "metrics.jsonl").read_text() == whole


@pytest.mark.parametrize("name", ["options.yaml", "config.yaml", "versions.json", "model"])
def test_what_is_lost_or_cut_beside_a_state_is_made_again(name: str, run: Path, text: str) -> None:
    before = contents(run)
    path = run / name
    (path / "model.safetensors" if name == "model" else path).write_bytes(b"")
    assert train(text, run) == cli.OK
    assert contents(run) == before


def test_a_damaged_teacher_is_written_again(run: Path, text: str, tmp_path: Path) -> None:
    out = tmp_path / "student"
    words = ["distill", "--teacher", str(run), "--data", text, "--out", str(out), *QUICK]
    assert cli.main([*words, "--steps", "2"]) == cli.OK
    before = contents(out)
    (out / "teacher" / "model.safetensors").write_bytes(b"")
    assert cli.main([*words, "--steps", "2"]) == cli.OK
    assert contents(out) == before


def test_permission_denied_is_not_damage(run: Path, text: str, monkeypatch, capsys) -> None:
    opened = Path.open

    def denied(self: Path, *arguments, **options):
        if self.name in ("training_state.pt", "model.safetensors"):
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    before = contents_by_os(run)
    assert train(text, run) == cli.USAGE
    assert capsys.readouterr().err == f"fewjump: Permission denied: {run}/training_state.pt\n"
    assert cli.main(["sample", str(run), "--num-samples", "1"]) == cli.USAGE
    said = f"fewjump: Permission denied: {run}/model/model.safetensors\n"
    assert capsys.readouterr().err == said
    assert contents_by_os(run) == before


def contents_by_os(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_full_disk_keeps_the_last_state(run: Path, text: str, monkeypatch, capsys) -> None:
    save, state = torch.save, (run / "training_state.pt").read_bytes()

    def full(content, file) -> None:
        try:
            save(content, file)
            raise OSError(28, "No space left on device")
        except OSError as error:
            # As torch does, in whose words the disk is not named.
            raise RuntimeError("[enforce fail at inline_container.cc:672]") from error

    monkeypatch.setattr(torch, "save", full)
    assert train(text, run, "--steps", "6") == cli.FAILED
    said = capsys.readouterr().err
    assert said.startswith("fewjump: No space left on device (what was there before is kept")
    assert f"{run}/training_state.pt" in said
    assert (run / "training_state.pt").read_bytes() == state
    assert not list(run.glob(".*.tmp"))
    monkeypatch.undo()
    assert train(text, run, "--steps", "6") == cli.OK


# -- outputs of the other verbs -------------------------------------------------------------


def test_samples_of_an_earlier_run_do_not_stay(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "samples"
    for count in ("5", "2"):
        words = ["sample", str(run), "--num-samples", count, "--steps", "1", "--out", str(out)]
        assert cli.main(words) == cli.OK
    assert sorted(p.name for p in out.iterdir()) == ["00000.txt", "00001.txt"]
    (out / "mine.txt").write_text("mine")
    assert cli.main(words) == cli.USAGE
    assert "holds other files (mine.txt)" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 3


def test_a_page_of_other_results_does_not_stay(
    run: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["evaluate", str(run), "--data", text, "--num-samples", "8", "--steps", "1"]
    assert cli.main(evaluate) == cli.OK
    assert cli.main(["report", str(run)]) == cli.OK
    assert (run / "report.html").exists()
    assert cli.main([*evaluate, "--seeds", "1"]) == cli.OK
    assert not (run / "report.html").exists()
    # The model has gone on since it was evaluated.
    assert train(text, run, "--steps", "6") == cli.OK
    before = contents(run)
    assert cli.main(["report", str(run)]) == cli.USAGE
    assert "are of an earlier model" in capsys.readouterr().err
    assert contents(run) == before
    assert cli.main(evaluate) == cli.OK
    for name in ("samples.json", "results.json"):
        (run / name).write_text((run / name).read_text()[:-5])
        assert cli.main(["report", str(run)]) == cli.USAGE
        assert f"{run / name} is" in capsys.readouterr().err


def test_a_demo_of_other_options_is_not_taken_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    made = {"kind": "markov", "seed": 0, "quick": True, "data": None}
    (out / "demo.json").write_text(json.dumps(made))
    before = contents(out)
    assert cli.main(["demo", "markov", "--quick", "--seed", "1", "--out", str(out)]) == cli.USAGE
    assert "a demo of other options (seed: 0 → 1)" in capsys.readouterr().err
    assert contents(out) == before


@pytest.mark.parametrize("keep", [0, 100, 140])
def test_rollouts_that_were_cut_short_are_drawn_again(
    keep: int, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.npy"
    words = ["rollouts", str(run), "--out", str(file), "--steps", "2", "--num-samples"]
    assert cli.main([*words, "4"]) == cli.OK
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    assert cli.main([*words, "4"]) == cli.OK
    assert file.read_bytes() == whole
    before = contents(tmp_path)
    assert cli.main([*words, "2"]) == cli.USAGE
    assert contents(tmp_path) == before
    (tmp_path / "r.json").write_text("{")
    assert cli.main([*words, "4"]) == cli.USAGE
    assert "r.json, which says what the samples in" in capsys.readouterr().err
