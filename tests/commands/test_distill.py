"""``fewjump distill`` for joint students: which objective its options ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

import fewjump
from fewjump import cli
from fewjump.commands.arguments import parse, save_options
from fewjump.commands.distill import Options, head_options, objective_of
from fewjump.objective import ConditionalMatching, JointConditionalMatching
from fewjump.process import Absorbing, Uniform
from fewjump.schedule import LogLinear

MASKED = Absorbing(5, LogLinear())
SMALL = ["--steps", "2", "--batch-size", "8", "--warmup", "1", "--device", "cpu", "--no-progress"]


def options(*words: str) -> Options:
    return parse(Options, words, "fewjump distill")


def test_a_product_student_is_matched_per_position() -> None:
    assert isinstance(
        objective_of(options("--jumps", "2"), "student-euler", MASKED), ConditionalMatching
    )
    gap = objective_of(options("--max-gap", "0.2"), "student-trapezoidal", MASKED)
    assert isinstance(gap, ConditionalMatching)
    assert (gap.intermediate, gap.max_gap) == ("student-trapezoidal", 0.2)
    assert isinstance(objective_of(options(), "forward", MASKED), ConditionalMatching)


def test_a_joint_student_is_matched_jointly_with_every_option() -> None:
    plain = objective_of(options("--student", "mixture"), "forward", MASKED)
    assert isinstance(plain, JointConditionalMatching)
    assert (plain.near, plain.draws, plain.grid) == (0.1, 1, None)
    uniform = objective_of(options("--student", "mixture"), "forward", Uniform(5, LogLinear()))
    assert isinstance(uniform, JointConditionalMatching)
    assert uniform.near == 0.02
    words = ["--student", "chain", "--near", "adaptive", "--draws", "3", "--consistency", "0.25"]
    full = objective_of(
        options(*words, "--data-weight", "0.5", "--jumps", "2"), "student-exact", MASKED
    )
    assert isinstance(full, JointConditionalMatching)
    assert full.intermediate == "student"
    assert (full.near, full.draws, full.consistency) == ("adaptive", 3, 0.25)
    assert (full.data_weight, full.grid) == (0.5, (1.0, 0.5, 0.0))
    share = objective_of(options("--student", "chain", "--near", "0.3"), "teacher-rollout", MASKED)
    assert isinstance(share, JointConditionalMatching)
    assert share.near == 0.3


@pytest.mark.parametrize(
    ("words", "matching", "message"),
    [
        (["--near", "zero"], "forward", "--near is for joint students"),
        (["--draws", "2"], "forward", "--draws is for joint students"),
        (["--data-weight", "1"], "forward", "--data-weight is for joint students"),
        (["--student", "chain"], "student-euler", "student-exact"),
        (["--student", "chain"], "student-trapezoidal", "student-exact"),
        (["--student", "chain", "--max-gap", "0.2"], "forward", "--max-gap is for"),
    ],
)
def test_options_that_do_not_fit_are_named(words, matching, message) -> None:
    with pytest.raises(ValueError, match=message):
        objective_of(options(*words), matching, MASKED)


def test_head_options_are_read_as_yaml() -> None:
    words = ("states=64", "emission=low-rank", "neighbours=[1, 8]", "length=null")
    expected = {"states": 64, "emission": "low-rank", "neighbours": [1, 8], "length": None}
    assert head_options(words) == expected
    for word in ("states", "=3", "states="):
        with pytest.raises(ValueError, match="name=value"):
            head_options([word])


def test_options_survive_the_file_they_are_saved_in(tmp_path: Path) -> None:
    words = ["--student", "chain", "--head", "states=3", "rank=2", "--near", "0.2"]
    for given in (options(*words), options()):
        path = save_options(given, tmp_path)
        assert parse(Options, ["--config", str(path)], "fewjump distill") == given


def test_a_chain_student_from_the_command_line(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    teacher, student = str(tmp_path / "teacher"), str(tmp_path / "student")
    sizes = ["--length", "8", "--hidden", "16", "--blocks", "1", "--heads", "2"]
    assert cli.main(["train", "--data", str(text), "--out", teacher, *sizes, *SMALL]) == 0
    joint = ["--student", "chain", "--head", "states=3", "--near", "adaptive"]
    words = ["--teacher", teacher, "--data", str(text), "--out", student, *joint, *SMALL]
    assert cli.main(["distill", *words]) == cli.OK
    model = fewjump.load(tmp_path / "student" / "model")
    assert model.config()["head"]["states"] == 3
