"""A run that was killed, or stopped, ends with the very weights of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from toy import make_data, make_student

from fewjump.objective import CrossEntropyELBO
from fewjump.train import (
    ResumeError,
    TrainConfig,
    TrainingInterrupted,
    read_metrics,
    train,
)
from fewjump.train.state import STATE_FILE, load_state
from forked import finish, start

TOY = Path(__file__).with_name("toy.py")


def launch(out: Path, *options: str) -> BaseProcess:
    return start(TOY, str(out), *options, errors=errors_of(out))


def errors_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.err")


def final_state(out: Path) -> dict:
    return torch.load(out / STATE_FILE, weights_only=True)


def assert_same_state(one: dict, two: dict) -> None:
    assert one["step"] == two["step"]
    for part in ("student", "ema"):
        first, second = one[part], two[part]
        if part == "ema":
            assert first["updates"] == second["updates"]
            first, second = first["shadow"], second["shadow"]
        assert first.keys() == second.keys()
        assert all(torch.equal(first[k], second[k]) for k in first)
    for key, value in one["optimiser"]["state"].items():
        for name, tensor in value.items():
            assert torch.equal(tensor, two["optimiser"]["state"][key][name])


def logged(out: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(out)]


def wait_for_step(out: Path, step: int, process: BaseProcess) -> None:
    """Until the metrics show ``step``: the place to strike, whatever the machine's speed."""
    while process.is_alive():
        path = out / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.002)


def test_killed_at_random_moments_then_restarted_is_bit_for_bit_the_same(tmp_path):
    options = ("--objective", "distill", "--steps", "120")
    whole = launch(tmp_path / "whole", *options)
    chance = random.Random()
    kills = 0
    for _attempt in range(2):
        victim = launch(tmp_path / "killed", *options)
        wait_for_step(tmp_path / "killed", chance.choice([1, 20, 40, 60, 80]), victim)
        time.sleep(chance.uniform(0, 0.05))
        victim.kill()
        victim.join(60)
        kills += victim.exitcode == -signal.SIGKILL
    assert kills >= 1
    last = launch(tmp_path / "killed", *options)
    finish(last, errors_of(tmp_path / "killed"), 120)
    finish(whole, errors_of(tmp_path / "whole"), 120)
    assert_same_state(final_state(tmp_path / "whole"), final_state(tmp_path / "killed"))
    assert logged(tmp_path / "whole") == logged(tmp_path / "killed")
    steps = [line["step"] for line in read_metrics(tmp_path / "killed")]
    assert steps == [1, *range(4, 121, 4)]


def config(**changes) -> TrainConfig:
    defaults = {
        "steps": 12,
        "batch_size": 8,
        "lr": 1e-2,
        "warmup": 2,
        "save_every": 5,
        "log_every": 4,
        "device": "cpu",
        "progress": False,
    }
    return TrainConfig(**{**defaults, **changes})


class StopAt(CrossEntropyELBO):
    """Sends this process a signal during one step, as Ctrl-C would."""

    def __init__(self, at: int = -1) -> None:
        super().__init__()
        self._calls, self._at = 0, at

    def __call__(self, student, teacher, batch, generator):
        self._calls += 1
        if self._calls == self._at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__call__(student, teacher, batch, generator)


@pytest.fixture
def no_private_options(monkeypatch):
    """The stopping objective's counters are not part of the run's identity."""
    from fewjump.train import setup

    plain = setup.describe
    monkeypatch.setattr(
        setup,
        "describe",
        lambda o: {k: v for k, v in plain(o).items() if not k.startswith("_")},
    )


@pytest.mark.usefixtures("no_private_options")
@pytest.mark.parametrize("at", [7, 12])
def test_ctrl_c_saves_and_says_how_to_resume(at, tmp_path):
    whole = make_student()
    train(whole, StopAt(), make_data(), config(), out=tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    student = make_student()
    with pytest.raises(TrainingInterrupted, match=rf"after step {at} of 12.*same command"):
        train(student, StopAt(at), make_data(), config(), out=tmp_path / "run")
    # The handler of the caller is back in place.
    assert signal.getsignal(signal.SIGINT) is before
    fresh = make_student()
    result = train(fresh, StopAt(), make_data(), config(), out=tmp_path / "run")
    assert result.step == 12
    assert_same_state(final_state(tmp_path / "whole"), final_state(tmp_path / "run"))
    assert not fresh.training


@pytest.mark.usefixtures("no_private_options")
def test_ctrl_c_in_the_last_step_does_not_lose_what_no_folder_keeps():
    whole = train(make_student(), StopAt(), make_data(), config())
    result = train(make_student(), StopAt(12), make_data(), config())
    assert result.step == 12
    for a, b in zip(whole.student.parameters(), result.student.parameters()):
        assert torch.equal(a, b)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(make_student(), CrossEntropyELBO(), make_data(), config(), out=tmp_path)
    again = train(make_student(seed=5), CrossEntropyELBO(), make_data(), config(), out=tmp_path)
    assert again.step == 12
    for a, b in zip(first.student.parameters(), again.student.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 0.5}, r"train\.lr: 0\.01 → 0\.5"),
        ({"batch_size": 4}, r"train\.batch_size: 8 → 4"),
        ({"seed": 1}, r"train\.seed"),
        ({"lr": 0.5, "seed": 1}, r"\(train\.lr: 0\.01 → 0\.5; train\.seed: \d → 1\)"),
    ],
)
def test_resuming_another_configuration_names_the_difference(tmp_path, changes, words):
    train(make_student(), CrossEntropyELBO(), make_data(), config(), out=tmp_path)
    with pytest.raises(ResumeError, match=words):
        train(make_student(), CrossEntropyELBO(), make_data(), config(**changes), out=tmp_path)


def test_resuming_with_other_data_or_objective_is_refused(tmp_path):
    train(make_student(), CrossEntropyELBO(), make_data(), config(), out=tmp_path)
    with pytest.raises(ResumeError, match=r"data\.fingerprint"):
        train(make_student(), CrossEntropyELBO(), make_data(90), config(), out=tmp_path)
    with pytest.raises(ResumeError, match=r"objective\.weighting: 'uniform' → 'elbo'"):
        train(make_student(), CrossEntropyELBO("elbo"), make_data(), config(), out=tmp_path)
    # What only steers printing and saving may change.
    train(make_student(), CrossEntropyELBO(), make_data(), config(log_every=1), out=tmp_path)


def test_a_run_folder_tells_everything(tmp_path):
    train(
        make_student(),
        CrossEntropyELBO(),
        make_data(),
        config(),
        out=tmp_path,
        run_config={"process": "uniform"},
    )
    text = (tmp_path / "config.yaml").read_text()
    assert "process: uniform" in text
    assert "seed: 0" in text
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert {"python", "torch", "fewjump", "threads"} <= versions.keys()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 4, 8, 12]
    assert {"loss", "grad_norm", "lr", "cross_entropy", "seconds"} <= lines[0].keys()
    assert not list(tmp_path.glob("*.tmp"))


def test_stopping_by_the_clock_is_marked(tmp_path):
    settings = config(max_seconds=1e-6)
    result = train(make_student(), CrossEntropyELBO(), make_data(), settings, out=tmp_path)
    assert result.stopped_by_time
    assert result.step == 1
    assert "not reproducible" in read_metrics(tmp_path)[-1]["event"]
    before, lines = (tmp_path / STATE_FILE).read_bytes(), read_metrics(tmp_path)
    again = train(make_student(), CrossEntropyELBO(), make_data(), settings, out=tmp_path)
    assert again.stopped_by_time
    assert again.step == 1
    assert again.metrics["seconds"] == result.metrics["seconds"]
    assert ((tmp_path / STATE_FILE).read_bytes(), read_metrics(tmp_path)) == (before, lines)


def test_steps_before_the_clock_stopped_are_told(tmp_path, monkeypatch):
    """Each line is of the steps since the last one, so that the last is where the run stopped."""
    monkeypatch.setattr("fewjump.train.trainer.Trainer._out_of_time", lambda self: self.step >= 3)
    settings = config(max_seconds=1.0, log_every=10)
    result = train(make_student(), CrossEntropyELBO(), make_data(), settings, out=tmp_path)
    lines = read_metrics(tmp_path)
    assert [(line["step"], "loss" in line) for line in lines] == [(1, True), (3, True), (3, False)]
    assert result.metrics["seconds"] == lines[1]["seconds"]


def test_a_hostile_state_is_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    state = final_state_of_one_step(tmp_path)
    torch.save({**state, "student": Hostile()}, tmp_path / STATE_FILE)
    with pytest.raises(ResumeError, match=r"asks for posix\.mkdir.*was not executed"):
        load_state(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_state_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    """Every number and every shared storage, without torch's own unpickler."""
    state = final_state_of_one_step(tmp_path)
    state["student"]["tied"] = next(iter(state["student"].values()))
    state["student"]["half"] = torch.arange(6.0).to(torch.bfloat16).reshape(2, 3).T
    torch.save(state, tmp_path / STATE_FILE)
    found, expected = load_state(tmp_path), torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert found is not None
    assert found.keys() == expected.keys()
    assert_same_state(found, expected)
    assert found["optimiser"]["param_groups"] == expected["optimiser"]["param_groups"]
    first, tied = next(iter(found["student"].values())), found["student"]["tied"]
    assert first.data_ptr() == tied.data_ptr()
    assert found["student"]["half"].stride() == (1, 3)


def final_state_of_one_step(folder: Path) -> dict:
    config = TrainConfig(steps=1, batch_size=4, ema=0.5, progress=False)
    train(make_student(), CrossEntropyELBO(), make_data(), config, out=folder)
    return final_state(folder)
