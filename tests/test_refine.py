"""``fewjump.refine``: it lowers the exact reverse KL, resumes exactly, and stops a collapse."""

from __future__ import annotations

import copy
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "objective"))

from tabular import TabularStudent
from test_joint import TableStudent

import fewjump
from fewjump import cli
from fewjump.api import distill, train_teacher
from fewjump.checkpoint import read_config
from fewjump.commands.arguments import parse, save_options
from fewjump.commands.refine import Options
from fewjump.data import Tokens
from fewjump.denoiser import NetworkDenoiser
from fewjump.evaluate.exact import kl
from fewjump.law.base import enumerate_states
from fewjump.objective import OnPolicyRefinement
from fewjump.objective.on_policy import StudentWithAuxiliary
from fewjump.problem import EnumeratedJoint, xor
from fewjump.problem import copy as copies
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import Linear, LogLinear
from fewjump.train import read_metrics, trainer
from fewjump.train.monitor import DiversityError, DiversityGuard

SMALL = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8}
QUICK = {
    "steps": 8,
    "batch_size": 8,
    "auxiliary_steps": 2,
    "guard_samples": 32,
    "device": "cpu",
    "progress": False,
    "warmup": 1,
    "save_every": 2,
}
WIDE = (0.0, 100.0)


def smoothed(problem: EnumeratedJoint, share: float = 0.05) -> EnumeratedJoint:
    return EnumeratedJoint((1 - share) * problem.probs + share / problem.probs.numel())


def blurred(problem: EnumeratedJoint, process, power: float = 0.3) -> TableStudent:
    """A joint student for t = 1 whose law is the posterior to a power: too much in every state."""
    states = enumerate_states(process.vocab_size, problem.length)
    posterior = problem.posterior(states, 1.0, process).enumerate().exp()
    return TableStudent(process, problem.length, posterior**power)


def reverse_kl(student, problem: EnumeratedJoint) -> float:
    return kl(exact_output_law(student, 1).detach(), problem.probs)


@pytest.mark.parametrize(
    ("problem", "process"),
    [
        (smoothed(copies(3, 2)), Absorbing(4, LogLinear())),
        (smoothed(xor(3)), Uniform(2, Linear(6.0))),
    ],
    ids=["copy-masked", "xor-uniform"],
)
def test_a_blurred_joint_student_gets_closer_to_the_data(problem, process):
    student = blurred(problem, process)
    before = reverse_kl(student, problem)
    times = [(k + 0.5) / 20 for k in range(20)]
    auxiliary = TabularStudent(process, problem.length, times)
    auxiliary.copy_from(problem.denoiser(process), floor=-8.0)
    refined = fewjump.refine(
        student,
        problem.denoiser(process),
        auxiliary=auxiliary,
        steps=250,
        auxiliary_steps=40,
        batch_size=64,
        lr=0.05,
        warmup=10,
        ema=0.95,
        device="cpu",
        progress=False,
    )
    after = reverse_kl(refined, problem)
    assert before > 0.15
    assert after < 0.2 * before
    assert reverse_kl(student, problem) == before


@pytest.fixture(scope="module")
def world():
    problem = smoothed(copies(3, 4))
    data = problem.sample(300, generator_for(1))
    process = Absorbing(4, LogLinear())
    common = {"batch_size": 64, "device": "cpu", "progress": False, "warmup": 5, "lr": 5e-3}
    teacher = train_teacher(data, process, network=SMALL, steps=150, **common)
    student = distill(teacher, data, student="mixture", steps=40, **common)
    assert isinstance(teacher, NetworkDenoiser)
    return problem, data, teacher, student


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(("kind", "jumps"), [("product", 2), ("chain", 1), ("autoregressive", 2)])
def test_every_kind_of_student_can_be_refined(world, kind, jumps):
    _, data, teacher, _ = world
    few = {"steps": 8, "batch_size": 8, "device": "cpu", "progress": False}
    student = distill(teacher, data, student=kind, **few)
    refined = fewjump.refine(student, teacher, data, jumps=jumps, band=WIDE, **QUICK)
    assert isinstance(refined, NetworkDenoiser)
    assert refined.kind == kind
    assert not refined.training
    assert bool((weights(refined) != weights(student)).any())


def test_a_run_is_saved_resumed_exactly_and_logged(world, tmp_path):
    _, _, teacher, student = world
    before, theirs = weights(student).clone(), weights(teacher).clone()
    straight = fewjump.refine(student, teacher, band=WIDE, out=tmp_path / "one", **QUICK)
    assert torch.equal(weights(student), before)
    assert torch.equal(weights(teacher), theirs)
    assert all(p.requires_grad for p in teacher.parameters())
    assert torch.equal(weights(fewjump.load(tmp_path / "one" / "model")), weights(straight))
    assert torch.equal(weights(fewjump.load(tmp_path / "one" / "teacher")), theirs)
    lines = read_metrics(tmp_path / "one")
    seen = [line for line in lines if line.get("event") == "inspected"]
    assert [line["step"] for line in seen] == [0, 2, 4, 6, 8]
    for who in ("student", "teacher"):
        assert all(
            line[f"{who}_{k}_entropy"] > 0 for line in seen for k in ("token", "ngram", "joint")
        )
    last = next(line for line in reversed(lines) if "loss" in line)
    assert {"divergence", "auxiliary_cross_entropy", "joint_entropy"} <= set(last)
    # Cut short by a signal that the guard itself sends, and taken up again.
    state = copy.deepcopy(student)
    guard = DiversityGuard.__call__

    def interrupt(self, step, model):
        if step == 4:
            raise KeyboardInterrupt
        return guard(self, step, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiversityGuard, "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fewjump.refine(state, teacher, band=WIDE, out=tmp_path / "two", **QUICK)
    again = fewjump.refine(state, teacher, band=WIDE, out=tmp_path / "two", **QUICK)
    assert torch.equal(weights(again), weights(straight))


def test_a_collapse_is_stopped_and_the_last_good_student_kept(world, tmp_path, monkeypatch):
    """The reward is replaced by one that pays for token 0 everywhere."""
    _, _, teacher, student = world

    def greedy(fake, real, floor):
        reward = torch.zeros(real.logits.shape)
        reward[..., 0] = -3.0
        return reward

    monkeypatch.setattr("fewjump.objective.on_policy.table_reward", greedy)
    options = {**QUICK, "steps": 200, "save_every": 10, "lr": 2e-2, "ema": None}
    options["guard_samples"] = 256
    with pytest.raises(DiversityError, match=r"collapsing.*last good student, of step \d+") as info:
        fewjump.refine(student, teacher, out=tmp_path, **options)
    message = str(info.value)
    kept = fewjump.load(tmp_path / "model")
    step = int(message.split("of step ")[1].split(",")[0])
    stopped = int(message.split("step ")[1].split(":")[0])
    assert stopped == step + 10
    guard = DiversityGuard(student, teacher, grid=(1.0, 0.0), length=4)
    now = guard.measure(kept)
    assert all(0.6 * min(guard.start[k], guard.teacher[k]) < now[k] for k in now)
    with pytest.raises(DiversityError, match="give out="):
        fewjump.refine(student, teacher, **options)


def test_the_guard_measures_what_it_says(monkeypatch):
    """Against the exact entropies of an enumerated joint, to 4 standard errors of 8192 draws."""
    # What is drawn does not depend on the batches; three tokens each, all of them fit into one.
    monkeypatch.setattr(import_module("fewjump.sampler.run"), "_BATCH_LIMIT", 8192)
    monkeypatch.setattr("fewjump.train.monitor._BATCH", 8192)
    problem = smoothed(copies(3, 3), 0.3)
    process = Absorbing(4, LogLinear())
    joint, product = problem.denoiser(process, joint=True), problem.denoiser(process)
    guard = DiversityGuard(
        joint, product, grid=(1.0, 0.0), length=3, samples=8192, teacher_steps=64
    )
    entropy = problem.entropy() / 3
    assert guard.start["token"] == pytest.approx(float(torch.tensor(3.0).log()), abs=0.01)
    for numbers in (guard.start, guard.teacher):
        assert numbers["ngram"] == pytest.approx(entropy, abs=0.02)
        assert numbers["joint"] == pytest.approx(entropy, abs=0.03)
    assert guard.measure(joint) == guard.start
    assert guard(0, joint)["student_ngram_entropy"] == guard.start["ngram"]
    torn = DiversityGuard(joint, product, grid=(1.0, 0.0), length=3, band=(0.9, 1.1), samples=256)
    with pytest.raises(DiversityError, match="falling apart"):
        torn(3, product)


def test_options_that_do_not_fit_are_refused(world):
    problem, data, teacher, student = world
    with pytest.raises(ValueError, match="auxiliary_steps"):
        fewjump.refine(student, teacher, data, steps=10, auxiliary_steps=10)
    table = blurred(smoothed(copies(3, 2)), Absorbing(4, LogLinear()))
    with pytest.raises(ValueError, match="give auxiliary"):
        fewjump.refine(table, smoothed(copies(3, 2)).denoiser(table.process), steps=300)
    with pytest.raises(ValueError, match="unknown key"):
        fewjump.refine(student, teacher, data, stepz=3)
    few = {"steps": 1, "batch_size": 8, "device": "cpu", "progress": False}
    walker = distill(teacher, data, student="any-order", head={"width": 8, "heads": 2}, **few)
    with pytest.raises(ValueError, match="token after token"):
        fewjump.refine(student, walker, **QUICK)
    chosen = distill(teacher, data, student="tensor-train", **few)
    fewjump.refine(student, chosen, guard=False, **QUICK)
    other = train_teacher(data, Uniform(3, LogLinear()), network=SMALL, **few)
    with pytest.raises(ValueError, match="the teacher has the noise Uniform"):
        fewjump.refine(student, other, **QUICK)
    # An exact teacher has no weights: the auxiliary takes over the student's trunk.
    refined = fewjump.refine(student, problem.denoiser(student.process), guard=False, **QUICK)
    assert isinstance(refined, NetworkDenoiser)


def test_the_auxiliary_has_its_own_learning_rate(world, monkeypatch):
    _, _, teacher, student = world
    rates = {}

    def spy(self, step, model):
        rates[step] = [g["lr"] for g in self.seen.param_groups]
        return {}

    build = trainer.build_optimiser

    def remember(parameters, config):
        OnPolicyRefinement.seen = build(parameters, config)  # type: ignore[attr-defined]
        return OnPolicyRefinement.seen  # type: ignore[attr-defined]

    monkeypatch.setattr(trainer, "build_optimiser", remember)
    monkeypatch.setattr(OnPolicyRefinement, "before_save", spy)
    monkeypatch.setattr(OnPolicyRefinement, "seen", None, raising=False)
    fewjump.refine(
        student, teacher, guard=False, lr=1e-3, auxiliary_lr=5.0, decay="constant", **QUICK
    )
    assert sorted(set(rates[8])) == pytest.approx([1e-3, 5e-3])


def test_the_composite_is_its_student(world):
    _, data, teacher, student = world
    pair = StudentWithAuxiliary(copy.deepcopy(student), copy.deepcopy(teacher))
    x_t = student.process.corrupt(data[:8], 0.0, 0.6, generator_for(3))
    torch.testing.assert_close(
        pair(x_t, 0.6).log_prob(data[:8]), student(x_t, 0.6).log_prob(data[:8])
    )
    assert pair.network is pair.student.trunk


def test_the_command_line_refines(world, tmp_path, capsys):
    _, data, teacher, student = world
    np.save(tmp_path / "data.npy", data.numpy())
    for name, model in (("teacher", teacher), ("student", student)):
        fewjump.save(model, tmp_path / name, vocabulary=Tokens(3))
    words = [
        "refine",
        "--student",
        str(tmp_path / "student"),
        "--teacher",
        str(tmp_path / "teacher"),
    ]
    words += ["--out", str(tmp_path / "run"), "--steps", "4", "--auxiliary-steps", "1"]
    words += ["--batch-size", "8", "--guard-samples", "16", "--band", "0", "50", "--device", "cpu"]
    words += ["--no-progress", "--warmup", "1", "--save-every", "2"]
    assert cli.main(words) == 0
    assert "refined student" in capsys.readouterr().out
    model = fewjump.load(tmp_path / "run" / "model")
    assert isinstance(model, NetworkDenoiser)
    assert model.kind == "mixture"
    assert read_config(tmp_path / "run" / "model")["data"] is not None
    words[words.index(str(tmp_path / "run"))] = str(tmp_path / "with-data")
    more = ["--data", str(tmp_path / "data.npy"), "--kind", "tokens", "--data-weight", "0.1"]
    assert cli.main([*words, *more]) == 0
    assert cli.main([*words, "--source", "forward"]) == 2
    assert "--data" in capsys.readouterr().err


def test_command_options_survive_the_file_they_are_saved_in(tmp_path):
    words = ["--band", "0.5", "2", "--jumps", "2", "--source", "student", "--no-guard"]
    for given in (parse(Options, words, "fewjump refine"), parse(Options, [], "fewjump refine")):
        given.student, given.teacher, given.out = (tmp_path / name for name in "sto")
        path = save_options(given, tmp_path)
        assert parse(Options, ["--config", str(path)], "fewjump refine") == given
