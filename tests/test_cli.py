"""The command line: quick help, one-line errors, exit codes, YAML with overrides."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
import tyro
from tyro import _fmtlib

from fewjump import __version__, cli
from fewjump.commands.arguments import arguments, as_mapping, parse, save_options
from fewjump.registry import OBJECTIVES
from fewjump.results import Row, write_results
from fewjump.verify.checks import CHECKS


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in its own process, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "fewjump", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in cli.VERBS)])
def test_help_answers_within_a_second_without_torch(words: list[str]) -> None:
    # Processor time: another process on the same core is not the command's fault.
    before = children_seconds()
    result = command(*words, PYTHONPROFILEIMPORTTIME="1")
    spent = children_seconds() - before
    assert result.returncode == 0, result.stderr
    assert "usage: fewjump" in result.stdout
    assert spent < 1
    loaded = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "fewjump.cli" in loaded
    assert not {"torch", "numpy", "fewjump.schedule"} & loaded


@pytest.mark.parametrize(
    "words", [*([verb] for verb in cli.VERBS), *(["verify", name] for name in CHECKS)]
)
def test_help_flows(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a wide terminal the help of an option is one line: none was broken where its source is."""
    monkeypatch.setenv("COLUMNS", "3000")
    # Where there are many options tyro puts boxes side by side, and narrows them: not here.
    side_by_side, below = _fmtlib.cols, _fmtlib.rows
    monkeypatch.setattr(
        _fmtlib, "cols", lambda *p: (side_by_side if isinstance(p[0], tuple) else below)(*p)
    )
    assert cli.main([*words, "--help"]) == cli.OK
    _, options = capsys.readouterr().out.split(" options ", 1)
    found = [line.strip("│╭╮╰╯+ ") for line in options.splitlines()[1:]]
    lines = [line for line in found if not set(line) <= {"─", "-"}]
    assert any(line.startswith("--") for line in lines)
    for before, after in pairwise(lines):
        # What is no flag is the heading of a group, or the help of the flag above it.
        text = not before.startswith("-") and not after.startswith("-")
        assert not text or " options" in (before[-8:], after[-8:]), after


def children_seconds() -> float:
    """Processor time of the processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_version_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == cli.OK
    assert capsys.readouterr().out == f"fewjump {__version__}\n"
    assert cli.main([]) == cli.USAGE
    assert "usage: fewjump VERB" in capsys.readouterr().out
    assert cli.main(["--help"]) == cli.OK
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in cli.VERBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["smaple"], "did you mean 'sample'?"),
        (["xyzzy"], "verbs: demo, train"),
        (["verify", "--vocab-size", "many"], "many"),
        (["verify", "--no-such-flag"], "--no-such-flag"),
        (["verify", "--vocab-size", "1"], "must be at least 2"),
        (["verify", "--vocab-size", "40", "--length", "9"], "choose a smaller"),
        (["demo", "mnist"], "mnist"),
        (["demo", "digits", "--data", "x.txt"], "fewjump demo text"),
        (["demo", "text", "--data", "no/such.txt"], "no/such.txt"),
        (["report"], "at least one run folder"),
        (["report", "no/such/run"], "no results at no/such/run"),
        (["report", "x", "--config"], "--config needs"),
        (["report", "x", "--config", "no/such.yaml"], "No such file or directory: no/such.yaml"),
    ],
)
def test_bad_usage_is_one_clear_message_and_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == cli.USAGE
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("wrong\nsize"), cli.USAGE, "fewjump: wrong size\n"),
        (ModuleNotFoundError("pip install 'fewjump[eval]'"), cli.USAGE, "fewjump[eval]"),
        (FileNotFoundError(2, "No such file or directory", "a.npy"), cli.USAGE, ": a.npy\n"),
        (RuntimeError("the loss is nan"), cli.FAILED, "the loss is nan (--debug shows where)"),
        (KeyError("gone"), cli.FAILED, "KeyError: 'gone'"),
        (AssertionError(), cli.FAILED, "AssertionError"),
        (KeyboardInterrupt(), cli.INTERRUPTED, "fewjump: interrupted\n"),
        (SystemExit(2), cli.USAGE, ""),
        (SystemExit(), cli.OK, ""),
    ],
)
def test_failures_become_exit_codes(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(verb: str, words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    monkeypatch.delenv("FEWJUMP_DEBUG", raising=False)
    assert cli.main(["verify"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") <= 1


def test_a_termination_ends_like_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undone = []

    def wait(verb: str, words: list[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            undone.append(verb)
        return cli.OK

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        monkeypatch.setattr(cli, "_run", wait)
        assert cli.main(["verify"]) == cli.INTERRUPTED
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert undone == ["verify"]
    assert capsys.readouterr().err == "fewjump: terminated\n"


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_traceback(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(verb: str, words: list[str]) -> int:
        assert words == []
        raise RuntimeError("broken")

    monkeypatch.setattr(cli, "_run", fail)
    monkeypatch.setenv("FEWJUMP_DEBUG", "1" if how == "variable" else "")
    assert cli.main(["verify", *(["--debug"] if how == "flag" else [])]) == cli.FAILED
    assert "Traceback" in capsys.readouterr().err


@dataclass
class Toy:
    """Options of every kind the verbs use."""

    path: Annotated[Path, tyro.conf.Positional]
    """Where."""

    steps: list[int] = field(default_factory=lambda: [1, 2])
    """How many."""

    rate: float = 0.1
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    limit: float | None = 1.0
    learning_rate: float = 1.0


def toy(tmp_path: Path, text: str, *words: str) -> Toy:
    file = tmp_path / "options.yaml"
    file.write_text(text)
    return parse(Toy, ["here", "--config", str(file), *words], prog="toy")


def test_file_then_flags(tmp_path: Path) -> None:
    text = "steps: [4, 8]\nrate: 1e-3\nfast: true\nkind: b\nlimit: null\nlearning-rate: 2\n"
    assert toy(tmp_path, text) == Toy(Path("here"), [4, 8], 1e-3, True, "b", None, 2.0)
    changed = toy(tmp_path, text, "--steps", "16", "--no-fast", "--rate", "5")
    assert changed == Toy(Path("here"), [16], 5.0, False, "b", None, 2.0)
    assert toy(tmp_path, "") == Toy(Path("here"))


def test_saved_options_are_read_back(tmp_path: Path) -> None:
    options = Toy(Path("here"), [3], 0.25, True, "b", None)
    path = save_options(options, tmp_path / "run")
    assert parse(Toy, ["here", "--config", str(path)], prog="toy") == options
    assert "path" not in as_mapping(options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz: 3", "did you mean 'steps'?"),
        ("- 3", "name: value"),
        ("a: [", "not valid YAML"),
        ("rate: 1\nrate: 2", "'rate' is given twice"),
        ('steps: [1]\n"steps": [2]', "'steps' is given twice"),
        ("path: x", "belongs on the command line"),
    ],
)
def test_bad_files_are_explained(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        toy(tmp_path, text)
    assert said in str(caught.value)


def test_a_wrong_type_in_a_file_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        toy(tmp_path, "rate: high")
    assert caught.value.code == 2
    assert "--rate" in capsys.readouterr().err


def test_verify_passes_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--vocab-size", "3", "--length", "2", "--verbose"]) == cli.OK
    out = capsys.readouterr().out
    assert "checks hold" in out
    assert "Markov decomposition" in out


def test_verify_fails_when_a_check_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fewjump.verify import enumeration as verify

    check = verify.Identity("recovery", "uniform", 1.0, "it should hold")
    monkeypatch.setattr(verify, "run_checks", lambda *sizes: [check])
    assert cli.main(["verify"]) == cli.FAILED
    out, err = capsys.readouterr()
    assert "FAIL" in out
    assert "it should hold" in out
    assert "1 of 1 checks failed" in err


def test_report_joins_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs the report extra")
    noise = Row("sampling noise", "", None, None, "kl", 0.01)
    for name, value in (("first", 0.5), ("second", 0.25)):
        rows = [Row("student", "ancestral", k, k, "kl", value / k) for k in (1, 2)]
        write_results(tmp_path / name, [*rows, noise], {"seed": 7})
    folders = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert cli.main(["report", *folders, "--title", "Two runs"]) == cli.OK
    path = tmp_path / "first" / "report.html"
    assert str(path) in capsys.readouterr().out
    page = path.read_text()
    assert "<h1>Two runs</h1>" in page
    assert "student (first)" in page
    assert "student (second)" in page
    # The shared reference is drawn once in each of the two drawings of the chart.
    assert page.count(">sampling noise</text>") == 2


def saved_model(folder: Path, vocabulary, length: int, training: object = None) -> str:
    """A fresh network over the vocabulary, saved; returns its folder."""
    import torch

    from fewjump.checkpoint import save
    from fewjump.denoiser import NetworkDenoiser, ProductHead, Transformer, TransformerConfig
    from fewjump.process import Absorbing
    from fewjump.schedule import LogLinear

    torch.manual_seed(0)
    process = Absorbing(vocabulary.size + 1, LogLinear())
    sizes = TransformerConfig(process.vocab_size, hidden=8, blocks=1, heads=2, condition_dim=8)
    model = NetworkDenoiser(Transformer(sizes), ProductHead(8, process.vocab_size), process, length)
    return str(save(model, folder / "model", vocabulary=vocabulary, training=training))


def test_sample_writes_every_format_and_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    import numpy as np

    from fewjump.data import Characters

    model = saved_model(tmp_path, Characters("abc "), 6)
    words = ["sample", model, "--num-samples", "3", "--steps", "2", "--seed", "5"]
    assert cli.main([*words, "--prompt", "ab"]) == cli.OK
    texts = capsys.readouterr().out.removesuffix("\n").split("\n\n")
    assert len(texts) == 3
    assert all(len(text) == 6 and text.startswith("ab") for text in texts)
    tokens = {}
    for name, batch_size in (("a.npy", "1"), ("b.npy", "3")):
        file = tmp_path / name
        assert cli.main([*words, "--batch-size", batch_size, "--out", str(file)]) == cli.OK
        tokens[name] = np.load(file)
    assert tokens["a.npy"].shape == (3, 6)
    np.testing.assert_array_equal(tokens["a.npy"], tokens["b.npy"])
    assert "2 network evaluations each" in capsys.readouterr().out
    assert cli.main([*words, "--out", str(tmp_path / "c.jsonl")]) == cli.OK
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == tokens["a.npy"].tolist()
    assert cli.main([*words, "--out", str(tmp_path / "new" / "d.txt")]) == cli.OK
    text = (tmp_path / "new" / "d.txt").read_text()
    assert text.removesuffix("\n").split("\n\n") == [line["text"] for line in lines]


def test_sample_draws_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the report extra")
    from fewjump.data import ImageLevels

    model = saved_model(tmp_path, ImageLevels(4, 3, 3), 9)
    file = tmp_path / "sheet.png"
    assert cli.main(["sample", model, "--steps", "2", "--out", str(file)]) == cli.OK
    header = file.read_bytes()[16:24]
    # Eight images of 3 × 3 in three columns, a gap between, four pixels to one.
    assert int.from_bytes(header[:4]) == int.from_bytes(header[4:]) == 4 * (3 * 3 + 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x.jpg"], "must end in one of"),
        (["--out", "x.png"], ".png is for models of images"),
        (["--prompt", "xyz"], "character 'x'"),
        (["--steps", "0"], "steps"),
        (["--num-samples", "0"], "--num-samples must be at least 1"),
        (["--sampler", "first-hitting", "--grid", "cosine"], "draws its own times"),
        (["--sampler", "best"], "best"),
    ],
)
def test_sample_refuses_what_makes_no_sense(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fewjump.data import Characters

    model = saved_model(tmp_path, Characters("abc "), 6)
    assert cli.main(["sample", model, *words]) == cli.USAGE
    assert said in capsys.readouterr().err


def test_sample_needs_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample", str(tmp_path)]) == cli.USAGE
    assert "saved model" in capsys.readouterr().err


def test_choices_are_the_librarys() -> None:
    from fewjump.assembly import data_objective
    from fewjump.commands import shared, train
    from fewjump.sampler import FITTED, GRIDS
    from fewjump.schedule import SCHEDULES

    assert set(get_args(shared.GridName)) == {*GRIDS, FITTED}
    made = {type(train.build_schedule(name)).__name__ for name in get_args(train.ScheduleName)}
    assert made == set(SCHEDULES)
    for name in get_args(train.TeacherObjectiveName):
        assert not data_objective(name).needs_teacher


def test_every_option_of_a_training_and_its_objective_has_a_flag() -> None:
    from fewjump.commands import distill, refine, train
    from fewjump.config import options_of
    from fewjump.objective import LatentMatching
    from fewjump.objective.on_policy import OnPolicyOptions
    from fewjump.options.matching import MatchingOptions
    from fewjump.train import TrainConfig

    for verb in (train, distill, refine):
        assert {one.name for one in options_of(TrainConfig)} <= set(arguments(verb.Options))
    # What the objectives have is what the parts have: nothing is written twice.
    known = {one.name for one in options_of(LatentMatching)} - {"intermediate", "times"}
    assert known <= set(arguments(distill.Options))
    assert {one.name for one in options_of(MatchingOptions)} <= known
    assert {one.name for one in options_of(OnPolicyOptions)} <= set(arguments(refine.Options))


def run_small(*words: str) -> int:
    """A verb of training, as small as it gets."""
    sizes = ["--steps", "2", "--batch-size", "2", "--no-progress", "--device", "cpu"]
    return cli.main([*words, *sizes])


@pytest.mark.parametrize("process", ["masked", "uniform", "gidd"])
def test_train_distill_sample(
    process: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fewjump.checkpoint import load, read_config

    text = tmp_path / "text.txt"
    text.write_text("abc cab bac " * 40)
    teacher, student, free = (str(tmp_path / name) for name in ("t", "s", "f"))
    network = ["--hidden", "8", "--blocks", "1", "--heads", "2", "--length", "8"]
    words = ["train", "--data", str(text), "--out", teacher, "--process", process, *network]
    assert run_small(*words) == cli.OK
    assert run_small("distill", "--teacher", teacher, "--data", str(text), "--out", student) == 0
    assert run_small("distill", "--teacher", teacher, "--out", free, "--jumps", "2") == cli.OK
    assert "student: " in capsys.readouterr().out
    for folder in (teacher, student, free):
        assert read_config(f"{folder}/model")["data"]["symbols"] == " abc"
        assert load(f"{folder}/model").time_conditioned is (process != "masked")
        assert cli.main(["sample", folder, "--num-samples", "1", "--steps", "2"]) == cli.OK
        assert len(capsys.readouterr().out) == 9
    # The saved options give the same run again, and it has nothing left to do.
    before = (Path(teacher) / "model" / "model.safetensors").read_bytes()
    assert cli.main(["train", "--config", f"{teacher}/options.yaml"]) == cli.OK
    assert (Path(teacher) / "model" / "model.safetensors").read_bytes() == before


def test_distill_explains_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fewjump.data import Characters

    model = saved_model(tmp_path, Characters("abc "), 6)
    assert run_small("distill", "--teacher", str(tmp_path / "none")) == cli.USAGE
    assert "no saved model" in capsys.readouterr().err
    words = ["distill", "--teacher", model, "--out", str(tmp_path / "s")]
    assert run_small(*words, "--matching", "forward") == cli.USAGE
    assert "give --data" in capsys.readouterr().err
    other = tmp_path / "other.txt"
    other.write_text("xyz " * 20)
    assert run_small(*words, "--data", str(other)) == cli.USAGE
    assert "character 'x'" in capsys.readouterr().err
    assert run_small(*words, "--data", "text") == cli.USAGE
    assert "the data it was trained on" in capsys.readouterr().err
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "training_state.pt").write_bytes(b"")
    assert run_small("distill", "--teacher", str(tmp_path / "half")) == cli.USAGE
    assert "has not finished" in capsys.readouterr().err


@pytest.mark.parametrize("pictures", [False, True])
def test_evaluate_and_report(
    pictures: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fewjump.data import Characters
    from fewjump.results import read_results

    if pictures:
        pytest.importorskip("sklearn")
        from fewjump.data import load_data

        model, data = saved_model(tmp_path, load_data("digits").vocabulary, 64), "digits"
    else:
        text = tmp_path / "text.txt"
        text.write_text("abc cab bac " * 60)
        model, data = saved_model(tmp_path, Characters(" abc"), 8), str(text)
    words = ["evaluate", model, "--data", data, "--steps", "1", "2", "--num-samples", "20"]
    assert cli.main([*words, "--out", str(tmp_path / "results")]) == cli.OK
    rows, facts = read_results(tmp_path / "results")
    assert facts["models"] == {"teacher": model}
    headline = "frechet" if pictures else "nll"
    measured = [r for r in rows if r.metric == headline]
    assert [(r.model, r.steps, r.nfe) for r in measured] == [
        ("teacher", 1, 1),
        ("teacher", 2, 2),
        ("test data", None, None),
    ]
    assert cli.main(["report", str(tmp_path / "results")]) == cli.OK
    page = (tmp_path / "results" / "report.html").read_text()
    assert "2 evaluations" in page
    assert page.count("data:image/png") == (4 if pictures else 0)


def test_results_never_go_into_a_saved_model(tmp_path: Path) -> None:
    from fewjump.commands.evaluate import names_of, results_folder
    from fewjump.data import Characters
    from fewjump.publish.models import open_model

    saved_model(tmp_path / "run", Characters("ab"), 4)
    bare, run = open_model(tmp_path / "run" / "model"), open_model(tmp_path / "run")
    assert results_folder(tmp_path / "run", run) == tmp_path / "run"
    inside = results_folder(tmp_path / "run" / "model", bare)
    assert inside == tmp_path / "run" / "model-results"
    with pytest.raises(ValueError, match="different names"):
        names_of([bare, run])


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_what_learned_from_a_teacher_is_called_student(name: str, tmp_path: Path) -> None:
    from fewjump.commands.evaluate import names_of
    from fewjump.data import Characters
    from fewjump.publish.models import open_model

    saved_model(tmp_path, Characters("ab"), 4, {"objective": {"name": OBJECTIVES[name].__name__}})
    from_data = name in ("cross-entropy", "score-entropy")
    assert names_of([open_model(tmp_path)]) == ["teacher" if from_data else "student"]


@pytest.mark.parametrize("verb", ["train", "distill"])
def test_every_option_of_a_run_is_read_back(verb: str, tmp_path: Path) -> None:
    import importlib

    Options = importlib.import_module(f"fewjump.commands.{verb}").Options
    words = ["--seed", "7", "--lr", "2e-5", "--betas", "0.8", "0.95", "--out", str(tmp_path)]
    teacher = ["--teacher", "hf:owner/name"] if verb == "distill" else ["--network", "mlp_ratio=2"]
    options = parse(Options, [*words, *teacher], prog=verb)
    path = save_options(options, tmp_path)
    assert parse(type(options), ["--config", str(path)], prog=verb) == options
