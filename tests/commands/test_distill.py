"""``fewjump distill`` for joint students: which objective its options ask for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import fewjump
from fewjump import cli
from fewjump.commands.arguments import parse, save_options
from fewjump.commands.distill import Options, objective_of
from fewjump.commands.shared import named_values
from fewjump.data import Characters
from fewjump.denoiser import LogitDenoiser, NetworkDenoiser
from fewjump.objective import (
    ConditionalMatching,
    CorrelationDistillation,
    DataLikelihood,
    DiscreteConsistency,
    InverseDistillation,
    JointConditionalMatching,
    MomentMatching,
    Objective,
    Rectification,
    RoutedLikelihood,
    SamplerDistillation,
    SelfDistillation,
    TokenMatching,
    VariationalLikelihood,
)
from fewjump.process import Absorbing, Uniform
from fewjump.schedule import LogLinear
from fewjump.train import read_metrics

MASKED = Absorbing(5, LogLinear())
SMALL = ["--steps", "2", "--batch-size", "8", "--warmup", "1", "--device", "cpu", "--no-progress"]


def options(*words: str) -> Options:
    return parse(Options, words, "fewjump distill")


def objective(*words: str) -> Objective:
    return objective_of(options("--data", "x.txt", *words))


def test_a_product_student_is_matched_per_position() -> None:
    found = objective("--matching", "student-euler", "--jumps", "2", "--weighting", "elbo")
    assert isinstance(found, ConditionalMatching)
    assert (found.grid, found.weighting) == ((1.0, 0.5, 0.0), "elbo")
    gap = objective("--matching", "student-trapezoidal", "--max-gap", "0.2")
    assert isinstance(gap, ConditionalMatching)
    assert (gap.intermediate, gap.max_gap, gap.rollout_steps) == ("student-trapezoidal", 0.2, 8)
    assert vars(objective()).items() >= {"intermediate": "forward", "min_time": 1e-3}.items()
    free = objective_of(options())
    assert isinstance(free, ConditionalMatching)
    assert free.intermediate == "teacher-rollout"


def test_a_joint_student_is_matched_jointly_with_every_option() -> None:
    plain = objective("--student", "mixture")
    assert isinstance(plain, JointConditionalMatching)
    assert (plain.near, plain.draws, plain.grid, plain.rollout_steps) == (None, 1, None, 16)
    for process, share in ((MASKED, 0.1), (Uniform(5, LogLinear()), 0.02)):
        student = LogitDenoiser(lambda x, t: x, process, 3)
        plain.near = None
        plain.settle(student, 10, {})
        assert plain.near == share
    words = ["--student", "chain", "--near", "adaptive", "--draws", "3", "--consistency", "0.25"]
    words += ["--summed"]
    words += ["--data-weight", "0.5", "--jump-times", "1", "0.4", "0", "--tolerance", "0.1"]
    full = objective(*words, "--matching", "student-exact")
    assert isinstance(full, JointConditionalMatching)
    assert full.intermediate == "student"
    assert (full.near, full.draws, full.consistency) == ("adaptive", 3, 0.25)
    assert full.summed
    assert not plain.summed
    assert (full.data_weight, full.grid, full.tolerance) == (0.5, (1.0, 0.4, 0.0), 0.1)
    share = objective("--student", "chain", "--near", "0.3", "--matching", "teacher-rollout")
    assert isinstance(share, JointConditionalMatching)
    assert share.near == 0.3


def test_self_distillation_takes_its_own_options() -> None:
    words = ["--method", "sdtt", "--jumps-before", "16", "--rounds", "2"]
    found = objective(*words, "--divergence", "forward", "--known", "prefix", "--min-time", "0.01")
    assert isinstance(found, SelfDistillation)
    assert (found.jumps_before, found.rounds, found.divergence) == (16, 2, "forward")
    assert (found.known, found.min_time) == ("prefix", 0.01)
    with pytest.raises(ValueError, match="starts from data: give --data"):
        objective_of(options(*words))


def test_rectification_takes_its_own_options_and_no_data() -> None:
    words = ["--method", "redi", "--pairs", "9", "--pair-steps", "4", "--rounds", "2"]
    found = objective_of(options(*words, "--min-time", "0.01"))
    assert isinstance(found, Rectification)
    assert (found.pairs, found.pair_steps, found.rounds, found.min_time) == (9, 4, 2, 0.01)


def test_consistency_takes_the_options_of_halving() -> None:
    found = objective("--method", "dcd", "--jumps-before", "32", "--rounds", "2")
    assert isinstance(found, DiscreteConsistency)
    assert (found.jumps_before, found.rounds, found.divergence) == (32, 2, "reverse")


def test_inverse_distillation_takes_its_own_options_and_no_data() -> None:
    words = ["--method", "idlm", "--student", "chain", "--jumps", "2", "--min-time", "0.01"]
    words += ["--auxiliary-steps", "7", "--auxiliary-lr", "2", "--anchor", "0.5"]
    found = objective_of(options(*words, "--anchor-steps", "9"))
    assert isinstance(found, InverseDistillation)
    assert (found.grid, found.min_time, found.source) == ((1.0, 0.5, 0.0), 0.01, "student")
    assert (found.warmup, found.auxiliary_lr) == (7, 2.0)
    assert (found.anchor, found.anchor_steps) == (0.5, 9)


def test_moment_matching_takes_what_inverse_distillation_does_and_data() -> None:
    words = ["--method", "dmmd", "--student", "latent", "--jumps", "4", "--auxiliary-steps", "7"]
    found = objective(*words)
    assert isinstance(found, MomentMatching)
    assert (len(found.few_step_times()), found.warmup, found.source) == (5, 7, "forward")
    assert (found.anchor, objective_of(options("--method", "idlm")).anchor) == (0.0, 1.0)
    with pytest.raises(ValueError, match="starts from data: give --data"):
        objective_of(options(*words))


def test_token_matching_takes_its_own_options_and_no_data() -> None:
    words = ["--method", "dimo", "--reverse-share", "0.25", "--anchor", "0.5"]
    found = objective_of(options(*words))
    assert isinstance(found, TokenMatching)
    assert (found.reverse_share, found.anchor, found.needs_data) == (0.25, 0.5, False)


def test_correlation_distillation_takes_its_own_options() -> None:
    words = ["--method", "di4c", "--student", "mixture", "--teacher-step", "0.05"]
    words += ["--distil-until", "0.1", "--term-weights", "1", "2", "0", "--no-control-variate"]
    found = objective(*words, "--min-time", "0.01")
    assert isinstance(found, CorrelationDistillation)
    assert (found.teacher_step, found.distil_until, found.min_time) == (0.05, 0.1, 0.01)
    assert (found.term_weights, found.control_variate) == ((1.0, 2.0, 0.0), False)
    with pytest.raises(ValueError, match="starts from data: give --data"):
        objective_of(options(*words))


def test_methods_of_data_alone_take_times_and_no_options_of_a_teacher() -> None:
    times = ["--jumps", "2", "--weighting", "elbo", "--known", "prefix"]
    found = objective("--method", "data-only", "--student", "shared-chain", *times)
    assert type(found) is DataLikelihood
    assert (found.grid, found.weighting, found.known) == ((1.0, 0.5, 0.0), "elbo", "prefix")
    found = objective("--method", "e-moe", "--student", "mixture", *times, "--balance", "0.5")
    assert isinstance(found, RoutedLikelihood)
    assert found.balance == 0.5
    found = objective("--method", "vadd", "--student", "latent", *times, "--free-bits", "1")
    assert isinstance(found, VariationalLikelihood)
    assert (found.free_bits, found.grid) == (1.0, (1.0, 0.5, 0.0))
    with pytest.raises(ValueError, match="starts from data: give --data"):
        objective_of(options("--method", "vadd", "--student", "latent"))


def test_a_learned_sampler_takes_its_own_options_and_no_data() -> None:
    words = ["--method", "lsd", "--jumps", "4", "--path-steps", "32", "--base", "euler"]
    found = objective_of(options(*words))
    assert isinstance(found, SamplerDistillation)
    assert (found.grid, found.base, found.path_steps) == ((1.0, 0.75, 0.5, 0.25, 0.0), "euler", 32)
    assert (found.align, found.learn_times) == ("transitions", True)
    found = objective_of(options(*words, "--align", "scores", "--relaxed", "0.05"))
    assert isinstance(found, SamplerDistillation)
    assert (found.align, found.learn_times, found.relaxed) == ("scores", False, 0.05)
    found = objective_of(options(*words, "--learn-times", "False"))
    assert isinstance(found, SamplerDistillation)
    assert not found.learn_times
    default = objective_of(options("--method", "lsd"))
    assert isinstance(default, SamplerDistillation)
    assert len(default.few_step_times()) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "vadd", "--near", "zero"], "--near is for joint students of --method match"),
        (
            ["--method", "data-only", "--rollout-steps", "2"],
            "--rollout-steps is for --method match",
        ),
        (["--method", "data-only", "--balance", "1"], "--balance is for --method e-moe"),
        (["--method", "e-moe", "--free-bits", "1"], "--free-bits is for latent students of"),
        (["--method", "vadd", "--balance", "1"], "--balance is for --method e-moe"),
        (["--method", "e-moe"], "e-moe trains mixtures: use --student mixture"),
        (["--method", "vadd"], "latent students, got product; use --student latent"),
        (["--method", "dcd", "--pairs", "2"], "--pairs is for --method redi"),
        (["--pairs", "2"], "--pairs is for --method redi"),
        (["--method", "redi", "--jumps-before", "8"], "--jumps-before is for --method sdtt"),
        (["--method", "redi", "--known", "prefix"], "--known is for methods that show"),
        (["--method", "redi", "--pairs", "0"], "pairs must be at least 1"),
        (["--teacher-step", "0.1"], "--teacher-step is for --method di4c"),
        (["--method", "di4c", "--jumps", "2"], "--jumps is for --method matching, idlm"),
        (["--method", "lsd", "--jumps", "1"], "ask for 2 or more (--jumps)"),
        (["--method", "lsd", "--rollout-steps", "4"], "--rollout-steps is for --method matching"),
        (["--base", "euler"], "--base is for --method lsd"),
        (["--method", "lsd", "--compile"], "--compile compiles a network"),
        (["--method", "lsd", "--min-time", "0.01"], "--min-time is for methods that draw their"),
        (["--rollout-steps", "4"], "--rollout-steps is for the teacher's rollouts"),
        (["--student", "chain", "--tolerance", "0.1"], "--tolerance is for --near adaptive"),
        (["--student", "chain", "--matching", "student-euler"], "student-exact (--matching)"),
        (
            ["--method", "sdtt", "--divergence", "forward", "--target-floor", "0.1"],
            "--target-floor is for --divergence reverse",
        ),
        (["--method", "dmmd", "--anchor-steps", "3"], "--anchor-steps is for an anchor above 0"),
        (["--path-steps", "4"], "--path-steps is for --method lsd"),
        (["--method", "lsd", "--path-steps", "9"], "raise --path-steps"),
        (["--method", "lsd", "--student", "mixture"], "keeps the teacher's network"),
        (["--method", "sdtt", "--anchor", "2"], "--anchor is for --method idlm"),
        (["--auxiliary-steps", "1"], "--auxiliary-steps is for --method idlm, dmmd and dimo"),
        (["--method", "dmmd", "--reverse-share", "1"], "--reverse-share is for --method dimo"),
        (["--method", "dimo", "--reverse-share", "2"], "--reverse-share must lie in [0, 1]"),
        (["--method", "idlm", "--known", "prefix"], "--known is for methods that show"),
        (["--method", "idlm", "--weighting", "sigma"], "--weighting is for --method matching"),
        (["--rounds", "2"], "--rounds is for --method sdtt"),
        (["--method", "sdtt", "--jumps", "2"], "--jumps is for --method matching"),
        (["--method", "sdtt", "--max-gap", "0.5"], "--max-gap is for --student"),
        (["--method", "sdtt", "--times", "importance"], "--times is for --method"),
        (["--method", "sdtt", "--matching", "forward"], "--matching is for --method"),
        (["--near", "zero"], "--near is for joint students of --method matching"),
        (
            ["--student", "chain", "--method", "idlm", "--near", "zero"],
            "students of --method matching",
        ),
        (["--draws", "2"], "--draws is for joint students"),
        (["--data-weight", "1"], "--data-weight is for joint students"),
        (["--tolerance", "1"], "--tolerance is for joint students"),
        (["--kl-warmup", "1"], "--kl-warmup is for latent students of --method matching"),
        (["--student", "chain", "--free-bits", "1"], "--free-bits is for latent students"),
        (["--student", "chain", "--estimator", "sum"], "--estimator is for latent students"),
        (["--student", "chain", "--matching", "student-euler"], "use forward, teacher-rollout"),
        (["--student", "chain", "--matching", "student-trapezoidal"], "chain is a joint one"),
        (["--student", "chain", "--max-gap", "0.2"], "--max-gap is for --student product"),
        (["--student", "latent", "--summed"], "--summed is not for latent"),
        (["--student", "latent", "--consistency", "0.5"], "--consistency is not for latent"),
        (["--student", "latent", "--times", "importance"], "--times is not for latent students"),
        (["--student", "chain", "--jumps", "0"], "--jumps must be at least 1"),
        (["--jumps", "2000000000"], "--jumps must be at least 1 and at most 100000"),
        (["--jumps", "2", "--jump-times", "1", "0"], "--jump-times and --jumps are for one thing"),
        (["--known-share", "0.4"], "--known-share is for sequences of which"),
        (["--steps", "0"], "--steps must be ≥ 1"),
        (["--batch-size", "4", "--accumulate", "3"], "--batch-size (4) must be a multiple of"),
        (["--betas", "0.9", "1"], "--betas must lie in [0, 1)"),
    ],
)
def test_options_that_do_not_fit_are_named_as_flags(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.txt").write_text("abc " * 200)
    torch.manual_seed(0)
    network = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 8}
    teacher = NetworkDenoiser.from_config(
        {"process": MASKED.config(), "trunk": network, "length": 4}
    )
    fewjump.save(teacher, tmp_path / "teacher", vocabulary=Characters("abc "))
    words = ["distill", "--teacher", "teacher", "--data", "x.txt", "--out", "run", *words]
    assert cli.main(words) == cli.USAGE
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("run").exists()


def test_sequences_are_not_drawn_from_a_teacher_of_framed_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {"hidden": 8, "blocks": 1, "heads": 2}
    config = {"process": Uniform(4, LogLinear()).config(), "trunk": network, "length": 4}
    vocabulary = Characters("abc ")
    fewjump.save(NetworkDenoiser.from_config(config), tmp_path / "teacher", vocabulary=vocabulary)
    monkeypatch.setattr(Characters, "frame", ((0,), (0,)))
    words = ["distill", "--teacher", str(tmp_path / "teacher"), "--out", str(tmp_path / "run")]
    for method, why in (("redi", "--method redi draws"), ("lsd", "rollouts within a training")):
        assert cli.main([*words, "--method", method]) == cli.USAGE
        assert f"between special tokens, and {why}" in capsys.readouterr().err
    refined = ["refine", "--student", words[2], "--out", words[4], "--teacher", words[2]]
    assert cli.main(refined) == cli.USAGE
    assert "between special tokens, and its own samples" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_watches_a_framed_teacher_draws_within_its_frame(tmp_path: Path, capsys) -> None:
    pytest.importorskip("transformers")
    sys.path.insert(0, str(Path(__file__).parents[1] / "denoiser"))
    import tiny_hub

    folder, rows = str(tiny_hub.save(tmp_path / "esm", "esm")), str(tmp_path / "x.npy")
    drawn = ["rollouts", folder, "--length", "8", "--num-samples", "32", "--steps", "2"]
    assert cli.main([*drawn, "--out", rows]) == cli.OK
    words = ["--steps", "1", "--batch-size", "4", "--data", rows, "--device", "cpu"]
    student = ["distill", "--teacher", folder, "--student", "shared-chain", "--head", "states=4"]
    assert cli.main([*student, *words, "--out", str(tmp_path / "run")]) == cli.OK
    (line,) = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert min(line["student_support"], line["teacher_support"]) > 1
    looked = ["inspect", folder, "--length", "8", "--samples", "4", "--steps", "2"]
    assert cli.main(looked) == cli.OK
    assert "verdict: finite and normalised" in capsys.readouterr().out
    # What is learned from the model's own samples takes frames from data.
    rolled = [*words, "--matching", "teacher-rollout", "--rollout-steps", "2"]
    for more in (rolled, [*words, "--method", "dimo", "--auxiliary-steps", "0"]):
        assert cli.main([*student, *more, "--out", str(tmp_path / more[-3])]) == cli.OK
    # Its own samples, too: those of the guard and those that a reward is tried on.
    (tmp_path / "rule.py").write_text(
        "def r(x):\n    assert (x[:, 0] == 2).all() and (x[:, -1] == 3).all()\n    return x[:, 1]\n"
    )
    refined = ["refine", "--student", str(tmp_path / "run"), "--reward", f"{tmp_path}/rule.py:r"]
    refined += ["--guard-samples", "8"]
    for source in ("forward", "student"):
        mine = ["--source", source, "--out", str(tmp_path / source)]
        assert cli.main([*refined, *words, *mine]) == cli.OK, capsys.readouterr().err


def test_another_length_than_the_teachers_is_refused_without_data_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {"hidden": 8, "blocks": 1, "heads": 2}
    config = {"process": Uniform(4, LogLinear()).config(), "trunk": network, "length": 4}
    fewjump.save(NetworkDenoiser.from_config(config), tmp_path / "teacher")
    words = ["--teacher", str(tmp_path / "teacher"), "--out", str(tmp_path / "run")]
    assert cli.main(["distill", *words, "--length", "9"]) == cli.USAGE
    assert "sequences of 4 tokens, not 9: leave out --length" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_learned_sampler_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {"hidden": 8, "blocks": 1, "heads": 2}
    config = {"process": Uniform(4, LogLinear()).config(), "trunk": network, "length": 4}
    vocabulary = Characters("abc ")
    fewjump.save(NetworkDenoiser.from_config(config), tmp_path / "teacher", vocabulary=vocabulary)
    student = str(tmp_path / "student")
    words = ["--teacher", str(tmp_path / "teacher"), "--out", student, "--method", "lsd"]
    words += ["--jumps", "3", "--path-steps", "9", *SMALL]
    assert cli.main(["distill", *words]) == cli.OK
    found = fewjump.load(tmp_path / "student" / "model").samplers
    assert found is not None
    assert [one["steps"] for one in found] == [3]
    capsys.readouterr()
    assert cli.main(["sample", student, "--steps", "3", "--num-samples", "4"]) == cli.OK
    assert len(capsys.readouterr().out.splitlines()) >= 4


def test_head_options_are_read_as_yaml() -> None:
    words = ("states=64", "emission=low-rank", "neighbours=[1, 8]", "length=null")
    expected = {"states": 64, "emission": "low-rank", "neighbours": [1, 8], "length": None}
    assert named_values("head", words) == expected
    for word in ("states", "=3", "states="):
        with pytest.raises(ValueError, match="name=value"):
            named_values("head", [word])


def test_options_survive_the_file_they_are_saved_in(tmp_path: Path) -> None:
    words = ["--student", "chain", "--head", "states=3", "rank=2", "--near", "0.2"]
    for given in (options(*words), options("--jumps", "2", "--known", "prefix"), options()):
        # Paths are written such that they hold in any folder.
        given.teacher, given.out = tmp_path / "teacher", tmp_path / "student"
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
