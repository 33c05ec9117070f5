"""What a wrong option is told: one line, in flags, before anything is made."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import fewjump
from fewjump import cli
from fewjump.commands.arguments import arguments, flag_of, in_flags

VERBS = [verb for verb in cli.VERBS if verb != "verify"]
NOT_FINITE = ("nan", "inf", "-inf")


def options_of(verb: str) -> Any:
    return importlib.import_module(f"fewjump.commands.{verb}").Options


def holds_float(hint: Any) -> bool:
    return hint is float or any(map(holds_float, get_args(hint)))


def float_options() -> Iterator[tuple[str, str, int]]:
    """Every option of every verb that takes a number with a point, and how many it takes."""
    for verb in cli.VERBS:
        for name, one in arguments(options_of(verb)).items():
            if holds_float(one.hint):
                yield verb, name, 2 if get_args(one.hint)[:2] == (float, float) else 1


def takes_a_place(verb: str) -> bool:
    return any(one.positional for one in arguments(options_of(verb)).values())


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with, and code 2."""
    code = cli.main(words)
    out, err = capsys.readouterr()
    assert (code, out) == (cli.USAGE, ""), err
    assert err.startswith("fewjump: ")
    assert err.count("\n") == 1
    for internal in ("Traceback", "__init__", "invalid literal", "typing.", "<class", "object at"):
        assert internal not in err
    return err


def test_there_are_options_to_try() -> None:
    found = {(verb, name) for verb, name, _ in float_options()}
    assert {
        ("sample", "temperature"),
        ("train", "lr"),
        ("distill", "near"),
        ("refine", "band"),
    } <= found
    assert len(found) > 25


@pytest.mark.parametrize("value", NOT_FINITE)
def test_numbers_without_a_value_are_refused_by_every_option(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for verb, name, count in float_options():
        given = [f"{flag_of(name)}={value}"] if count == 1 else [flag_of(name), "0.5", value]
        place = ["here"] if takes_a_place(verb) and verb != "demo" else []
        said = refused([verb, *place, *given], capsys)
        assert f"{flag_of(name)} must be a finite number, got {float(value)}" in said
        file = tmp_path / "options.yaml"
        file.write_text(
            f"{name}: {f'[0.5, .{value}]' if count == 2 else f'.{value}'}".replace(".-inf", "-.inf")
        )
        assert flag_of(name) in refused([verb, *place, "--config", str(file)], capsys)
        file.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--lenght", "3"], "there is no option --lenght; did you mean --length?"),
        (["train", "--no-progres"], "there is no option --no-progres; did you mean --progress?"),
        (["sample", "r", "--temprature=2"], "did you mean --temperature?"),
        (["train", "--steps", "many"], "--steps takes a whole number; got many"),
        (["train", "--steps", "2.5"], "--steps takes a whole number; got 2.5"),
        (["train", "--lr", "fast"], "--lr takes a number; got fast"),
        (["train", "--steps"], "--steps takes a whole number; got nothing"),
        (["train", "--process", "maskd"], "got maskd; did you mean masked?"),
        (["distill", "--near", "zro"], "got zro; did you mean zero?"),
        (["refine", "--band", "1"], "--band takes a number and a number; got 1"),
        (["evaluate", "r", "--steps", "1", "x"], "--steps takes one or more"),
        (["train", "--length", "3", "4"], "nothing takes the words 4"),
        (["sample"], "PATH is missing"),
        (["demo", "digit"], "did you mean digits?"),
    ],
)
def test_usage_errors_name_the_word_and_what_is_near(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(words, capsys)
    assert said in message
    assert f"`fewjump {words[0]} --help`" in message


def test_a_long_word_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    word = "x" * 300
    assert word in refused(["train", "--steps", word], capsys)
    assert f"--{word}" in refused(["train", f"--{word}"], capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: true", "'steps' takes a whole number; got True"),
        ("steps: [1, 2]", "'steps' takes a whole number; got [1, 2]"),
        ("lr: {a: 1}", "'lr' takes a number; got {'a': 1}"),
        ("compile: 3", "'compile' takes true or false; got 3"),
        ("steps: many", "--steps takes a whole number; got many"),
    ],
)
def test_values_of_a_file_that_have_another_type(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(text)
    assert said in refused(["train", "--config", str(file)], capsys)


@pytest.mark.parametrize("device", ["nosuch", "cuda:99", "meta", "cuda:-1", "mps:7"])
@pytest.mark.parametrize("verb", ["train", "distill", "refine", "sample", "evaluate", "inspect"])
def test_devices_that_are_not_there(
    verb: str,
    device: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    place = ["here"] if takes_a_place(verb) else []
    said = refused([verb, *place, "--device", device], capsys)
    assert f"--device {device!r} is" in said
    assert "give cpu" in said or "give one of cpu" in said
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fewjump.device import usable_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=f"device '{name}' is not on this machine; give cpu"):
            usable_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert usable_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="give one of cpu, cuda, cuda:0, cuda:1"):
        usable_device("cuda:2")


@pytest.mark.parametrize(
    ("kind", "option", "said"),
    [
        ("chain", "state=4", "there is no 'state'; did you mean 'states'?"),
        ("chain", "states=abc", "states takes a whole number; got 'abc'"),
        ("chain", "states=4.5", "states takes a whole number; got 4.5"),
        ("chain", "states=true", "states takes a whole number; got True"),
        ("chain", "states=0", "states must be at least 1"),
        ("chain", "states=.nan", "states takes a whole number; got nan"),
        ("chain", "states=[1", "is neither a value nor a list"),
        ("chain", "length=-1", "length must be at least 1"),
        ("chain", "emission=sparse", "emission takes one of dense, shared, low-rank or None"),
        ("mixture", "evidence=3", "evidence takes true or false; got 3"),
        ("mixture-of-chains", "component=3", "did you mean 'components'?"),
        ("shared-mixture", "rank=x", "rank takes a whole number"),
        ("shared-chain", "table-rate=.inf", "table_rate takes a number; got inf"),
        ("autoregressive", "neighbours=1", "a list, such as [1, 8] (one or more, each a whole"),
        ("any-order", "neighbours=0", "neighbours takes a list, such as [1, 8]"),
        (
            "any-order",
            "order=coarse",
            "order takes one of ascending, coarse-to-fine or one or more",
        ),
        ("any-order", "order=[0, 2]", "or name each of the positions 0, 1, … once; got [0, 2]"),
        ("any-order", "lookahead=true", "there is no 'lookahead'; it has width"),
        ("autoregressive", "lookahead=maybe", "lookahead takes true or false; got 'maybe'"),
        ("latent", "particles=a", "particles takes a whole number"),
        ("product", "states=3", "it has none"),
    ],
)
def test_options_of_a_head(kind: str, option: str, said: str) -> None:
    import fewjump.denoiser.joint_heads  # noqa: F401 (registers its heads)
    from fewjump.commands.shared import named_values
    from fewjump.denoiser import head_from_config

    length = {"length": 4} if kind == "shared-mixture" else {}
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        head_from_config(
            {"kind": kind, "hidden": 8, "vocab_size": 5, **length, **named_values("head", [option])}
        )
    assert "__init__" not in str(caught.value)
    assert "hidden'" not in str(caught.value)


def test_every_option_of_every_head_is_checked() -> None:
    import inspect

    import fewjump.denoiser.joint_heads  # noqa: F401 (registers its heads)
    from fewjump.denoiser import HEADS, head_from_config

    own = [kind for kind, head in HEADS.items() if head.__module__.startswith("fewjump.")]
    assert len(own) >= 8
    for kind in own:
        sizes = {"kind": kind, "hidden": 8, "vocab_size": 5, "length": 4}
        for name in list(inspect.signature(HEADS[kind]).parameters)[2:]:
            known = {k: v for k, v in sizes.items() if k != "length" or kind == "shared-mixture"}
            with pytest.raises(ValueError, match=rf"do not fit the {kind} head: {name} takes"):
                head_from_config({**known, name: {"a": 1}})


def test_the_librarys_names_become_flags() -> None:
    options = options_of("train")
    for text, said in (
        ("batch_size must be ≥ 1, got 0", "--batch-size must be ≥ 1, got 0"),
        ("steps must be ≥ 1", "--steps must be ≥ 1"),
        ("lower lr, or use precision='float32'", "lower lr, or use --precision float32"),
        (
            "field, split, limit and packing are for documents",
            "--text-field, --split, --documents and --packing are for documents",
        ),
        ("two steps of a walk", "two steps of a walk"),
        ("compile=True is for networks", "--compile is for networks"),
        ("leave variable_length=False", "leave --no-variable-length"),
        ("kind='steps' is for text", "--kind steps is for text"),
        ("no file at runs/batch_size/a_kind.txt", "no file at runs/batch_size/a_kind.txt"),
        ("--known-share must be", "--known-share must be"),
        ("token_bits (--token-bits) says how wide", "--token-bits says how wide"),
        (
            "options do not fit the chain head: length must be",
            "options do not fit the chain head: length must be",
        ),
    ):
        assert in_flags(text, options) == said


def known_flags() -> set[str]:
    """Every flag that a verb or a check of ``verify`` takes."""
    from fewjump.verify.checks import CHECKS, check_called

    flags = {"--help", "--config", "--debug", "--version", "--no"}
    classes = [options_of(verb) for verb in cli.VERBS]
    classes += [check_called(name) for name in CHECKS]
    for options in classes:
        for name in arguments(options):
            flags |= {flag_of(name), flag_of(f"no_{name}")}
    return flags


def raised_texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_every_flag_that_a_message_names_exists() -> None:
    known = known_flags()
    root, seen = Path(fewjump.__file__).parent, 0
    for file in sorted(root.rglob("*.py")):
        if "experiment" in file.parts:
            continue
        for text in raised_texts(ast.parse(file.read_text(encoding="utf-8"))):
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text):
                seen += 1
                assert flag in known, f"{file.relative_to(root)} names {flag}: {text}"
    assert seen > 30


def test_evaluate_asks_for_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abc cab bac " * 40)
    small = ["--hidden", "8", "--blocks", "1", "--heads", "2", "--steps", "1", "--batch-size", "2"]
    words = ["train", "--data", str(text), "--length", "8", "--out", str(tmp_path / "r"), *small]
    assert cli.main([*words, "--no-progress"]) == cli.OK
    capsys.readouterr()
    assert "give --data" in refused(["evaluate", str(tmp_path / "r")], capsys)


def test_known_parts_of_a_refinement_go_with_a_reward(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["refine", "--known", "prefix"], capsys)
    assert "--known shows a part of the data to a student with a reward: give --reward" in said


@pytest.mark.parametrize("count", ["0", "-1"])
def test_documents_are_counted_from_one(
    count: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"text": "abc"}\n' * 40)
    words = ["train", "--data", str(file), "--length", "4", "--out", str(tmp_path / "r")]
    assert "--documents) must be at least 1" in refused([*words, "--documents", count], capsys)
    assert not (tmp_path / "r").exists()


def test_too_little_data_names_no_argument_of_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two.txt"
    file.write_text("a\nb\n")
    words = ["train", "--data", str(file), "--kind", "lines", "--out", str(tmp_path / "r")]
    said = refused(words, capsys)
    assert "give more data" in said
    assert "fraction" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--data", "t.txt", "--out", ""], "--out was given nothing"),
        (["train", "--data=", "--out", "r"], "--data= was given nothing"),
        (
            ["train", "--data", "t.txt", "--out", "r", "--batch-size", "9" * 20],
            "--batch-size must be",
        ),
        (["inspect", "r", "--device", ""], "--device was given nothing"),
        (["sample", "r", "--length", "9" * 20], "--length must be at most 2147483647"),
        (["evaluate", "r", "--data", "t.txt", "--seeds", "0", "0"], "--seeds 0 0 names one"),
        (["evaluate", "r", "--data", "t.txt", "--steps", "2", "1", "2"], "--steps 2 1 2 names one"),
    ],
)
def test_slips_of_the_hand_are_refused(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("abc " * 400, encoding="utf-8")
    assert cli.main(words) == cli.USAGE
    assert said in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.txt"]
