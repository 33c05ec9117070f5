"""Refinement by a reward: what it maximises, that its gradients are those of that, and the verb."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from test_joint import TableStudent
from test_on_policy import V, every_process, gradient, kernels, make_student, prior_law
from torch import Tensor

import fewjump
from fewjump import cli
from fewjump.data import Tokens
from fewjump.denoiser import NetworkDenoiser
from fewjump.denoiser.base import Denoiser
from fewjump.evaluate.exact import kl
from fewjump.law.base import enumerate_states
from fewjump.objective import RewardRefinement, freeze
from fewjump.problem import EnumeratedJoint
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import SampleStreams, generator_for
from fewjump.sampler import exact_output_law
from fewjump.schedule import LogLinear
from fewjump.train import read_metrics

L, GRID, ANCHOR = 2, (1.0, 0.6, 0.0), 0.3
SMALL = {"hidden": 16, "blocks": 1, "heads": 2, "condition_dim": 8}
QUICK = {"batch_size": 32, "device": "cpu", "progress": False, "warmup": 1, "guard": False}


def worth(x0: Tensor) -> Tensor:
    """More for equal tokens, and for a late first one; any numbers."""
    return (x0[:, 0] == x0[:, 1]).float() + 0.3 * x0[:, 0]


def aim(law: Tensor, before: Tensor, states: Tensor) -> Tensor:
    """E r − β·KL of rows of log-probabilities over ``states``: (rows,)."""
    p = law.exp()
    lost = torch.where(p > 1e-30, p * (law - before), 0.0)
    return (p * worth(states).double()).sum(-1) - ANCHOR * lost.sum(-1)


def moved(process: Process, kind: str) -> tuple[Denoiser, Denoiser]:
    """A student, and where it started: elsewhere."""
    student = make_student(kind, process)
    start = copy.deepcopy(student)
    source = generator_for(8)
    with torch.no_grad():
        for parameter in start.parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            parameter += 0.5 * noise * (parameter > -50)
    return student, freeze(start)


@every_process
@pytest.mark.parametrize(
    ("kind", "source"),
    [("joint", "student"), ("joint", "forward"), ("mixture", "student"), ("product", "forward")],
)
def test_the_drawn_gradient_is_unbiased(process: Process, kind: str, source: str) -> None:
    """∇J with the law of x_t held fixed, by enumeration of x_t and x₀."""
    problem = EnumeratedJoint.random(V, L, 1.5, generator_for(3))
    student, start = moved(process, kind)
    states = enumerate_states(process.vocab_size, L)
    laws, expected = prior_law(process), torch.zeros(()).double()
    for t, after in pairwise(GRID):
        law = student(states, t).enumerate()
        value = aim(law, start(states, t).enumerate(), states)
        expected = expected + (laws * value).sum() / (len(GRID) - 1)
        if source == "forward":
            laws = problem.noised(process, after).reshape(-1)
        elif after:
            steps = kernels(process, torch.tensor([after]).double(), t)[0]
            laws = torch.einsum("t,ta,tax->x", laws, law.detach().exp(), steps)
    truth, reached = gradient(expected, student), float(expected.detach())
    objective = RewardRefinement(source, grid=GRID, draws=2, reward=worth, anchor=ANCHOR)
    batch = problem.sample(2000, generator_for(1))
    seen, values = [], []
    for call in range(16):
        loss, metrics = objective(student, start, batch, generator_for(2, call))
        seen.append(-gradient(loss, student) * L)
        values.append(metrics["reward"] - ANCHOR * metrics["kl_to_start"] * L)
        assert float(loss.detach()) == pytest.approx(-float(values[-1]) / L)
    drawn, spread = torch.stack(seen).mean(0), torch.stack(seen).std(0) / 4
    told = torch.stack(values)
    assert float(told.mean()) == pytest.approx(reached, abs=5 * float(told.std()) / 4)
    error = (drawn - truth).abs()
    assert bool((error <= 6 * spread + 1e-4 * float(truth.abs().max()) + 1e-6).all())
    assert float(truth.norm()) > 4 * float(spread.norm())


@pytest.mark.parametrize("process", [Uniform(V, LogLinear()), Absorbing(V + 1, LogLinear())])
def test_the_gradient_is_unbiased_where_a_part_is_given(process: Process) -> None:
    problem = EnumeratedJoint.random(V, L, 1.5, generator_for(3))
    student, start = moved(process, "mixture")
    states, clean = (enumerate_states(n, L) for n in (process.vocab_size, V))
    expected = torch.zeros(()).double()
    for x0, mass in zip(clean, problem.probs.flatten()):
        for count in (0, 1):
            shown = torch.arange(L) < count
            fits = ((states == x0) | ~shown).all(-1)
            laws = process.prior()[states[:, count:]].prod(-1) * fits
            rows, known = x0.expand(len(states), -1), shown.expand(len(states), -1)
            law, before = (
                m(torch.where(known, rows, states), 1.0).given(rows, known).enumerate()
                for m in (student, start)
            )
            expected = expected + mass / 2 * (laws * aim(law, before, states)).sum()
    truth = gradient(expected, student)
    objective = RewardRefinement(
        draws=2, reward=worth, anchor=ANCHOR, known="prefix", known_share=0.6
    )
    assert objective.needs_data
    seen = []
    for call in range(16):
        batch = problem.sample(2000, generator_for(1, call))
        seen.append(-gradient(objective(student, start, batch, generator_for(2, call))[0], student))
    drawn, spread = L * torch.stack(seen).mean(0), L * torch.stack(seen).std(0) / 4
    error = (drawn - truth).abs()
    assert bool((error <= 6 * spread + 1e-4 * float(truth.abs().max()) + 1e-6).all())
    assert float(truth.norm()) > 4 * float(spread.norm())


def test_the_optimum_is_the_start_weighted_by_the_reward() -> None:
    """p⁰·exp(r/β)/Z: what keeps a rule gains e^{1/β}, and keeps its proportions."""
    process = Uniform(V, LogLinear())
    states = enumerate_states(V, L)
    before = EnumeratedJoint.random(V, L, 1.0, generator_for(5)).probs
    student = TableStudent(process, L, before.reshape(1, -1).expand(len(states), -1).clone())
    refined = fewjump.refine(
        student,
        steps=200,
        lr=0.1,
        ema=0.97,
        reward=lambda x0: (x0[:, 0] == x0[:, 1]).double(),
        anchor=0.5,
        **{**QUICK, "batch_size": 128},
    )
    law = exact_output_law(refined, 1)
    best = before * torch.exp(2.0 * torch.eye(V, dtype=torch.float64))
    torch.testing.assert_close(law.detach(), best / best.sum(), atol=0.02, rtol=0)
    assert float((law.detach() - before).abs().max()) > 0.05


def test_the_loss_does_not_depend_on_the_batch_split() -> None:
    process = Absorbing(V + 1, LogLinear())
    student, start = moved(process, "mixture")
    objective = RewardRefinement("student", steps=2, reward=worth)
    batch = torch.zeros(12, L, dtype=torch.int64)

    def value(first: int, last: int) -> Tensor:
        streams = SampleStreams(3, torch.arange(first, last))
        return gradient(objective(student, start, batch[first:last], streams)[0], student)

    torch.testing.assert_close((value(0, 6) + value(6, 12)) / 2, value(0, 12))


def test_a_reward_may_write_into_its_samples() -> None:
    process = Absorbing(V + 1, LogLinear())
    student, start = moved(process, "mixture")
    batch = torch.zeros(12, L, dtype=torch.int64)

    def writing(x0: Tensor) -> Tensor:
        values = worth(x0)
        x0.zero_()
        return values

    found = [
        RewardRefinement("student", steps=2, reward=reward)(student, start, batch, generator_for(3))
        for reward in (worth, writing)
    ]
    assert found[0][1] == found[1][1]
    torch.testing.assert_close(found[0][0], found[1][0], atol=0.0, rtol=0.0)


def network(kind: str = "any-order") -> NetworkDenoiser:
    config = {
        "process": Absorbing(V + 1, LogLinear()).config(),
        "trunk": SMALL,
        "head": {"kind": kind},
        "length": 4,
    }
    torch.manual_seed(0)
    return NetworkDenoiser.from_config(config)


def test_a_head_comes_closer_to_the_optimum() -> None:
    """Which has the rule's sequences in the proportions of the start."""
    student = network("chain")
    made = fewjump.refine(student, reward=same, anchor=0.4, draws=8, steps=60, lr=5e-3, **QUICK)
    before, after = (exact_output_law(model, 1).detach() for model in (student, made))
    best = before * (2.5 * same(enumerate_states(V, 4)).reshape(before.shape)).exp()
    assert kl(after, best / best.sum()) < 0.5 * kl(before, best / best.sum())


def same(x0: Tensor) -> Tensor:
    return (x0 == x0[:, :1]).all(-1).float()


RULE = """
import torch

def same(x0):
    return (x0 == x0[:, :1]).all(-1).float()

def tokens(x0):
    return x0

def wild(x0):
    return torch.full((len(x0),), float("nan"))

def nothing(x0):
    pass

def pair(x0, more):
    return x0

number = 3
"""


def test_the_command_line_refines_by_a_rule_and_resumes(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "rule.py").write_text(RULE)
    fewjump.save(network(), tmp_path / "student", vocabulary=Tokens(V))
    np.save(tmp_path / "data.npy", torch.zeros(8, 4, dtype=torch.int64).numpy())
    words = ["refine", "--student", str(tmp_path / "student"), "--out", str(tmp_path / "run")]
    words += ["--batch-size", "8", "--no-guard", "--device", "cpu", "--log-every", "1"]
    given = ["--reward", f"{tmp_path / 'rule.py'}:same", "--anchor", "0.2"]
    assert cli.main([*words, *given, "--steps", "4", "--max-seconds", "1e-6"]) == cli.OK
    assert cli.main([*words, *given, "--steps", "4"]) == cli.OK
    lines = [line for line in read_metrics(tmp_path / "run") if "reward" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    # Nothing is learned of the start's answers, so they are not judged.
    assert not any("calibration" in line for line in lines)
    assert "refined student" in capsys.readouterr().out
    fewjump.load(tmp_path / "run" / "model")
    assert cli.main([*words, *given, "--steps", "4", "--anchor", "0.3"]) != cli.OK
    assert "anchor: 0.2 → 0.3" in capsys.readouterr().err
    # Elsewhere the file is the same; with other content it is another reward.
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    again = ["refine", "--config", str(tmp_path / "run" / "options.yaml")]
    assert cli.main([*again, "--steps", "5", "--max-seconds", "100"]) == cli.OK
    assert cli.main([*words, "--reward", "../rule.py:same", "--anchor", "0.2"]) == cli.OK
    (tmp_path / "rule.py").write_text(RULE.replace(".float()", ".double()"))
    capsys.readouterr()
    assert cli.main([*again, "--steps", "6"]) != cli.OK
    assert "objective.reward: 'rule.py:same (" in capsys.readouterr().err
    shown = ["--known", "scattered", "--out", str(tmp_path / "shown")]
    data = ["--data", str(tmp_path / "data.npy")]
    assert cli.main([*words, *given, *shown, *data, "--steps", "2"]) == cli.OK
    for more, message in (
        (["--reward", "rule.py"], "FILE.py:NAME"),
        (["--reward", "none.py:same"], "none.py does not exist"),
        (["--reward", f"{tmp_path / 'rule.py'}:number"], "no function 'number'"),
        ([*given, "--teacher", str(tmp_path / "student")], "leave --teacher out"),
        ([*given, "--auxiliary-steps", "3"], "--auxiliary-steps is for"),
        ([*given, "--estimator", "score"], "--estimator is for refinement against a teacher"),
        ([*given, "--known", "prefix"], "give --data"),
        (["--anchor", "0.2", "--teacher", str(tmp_path / "student")], "give --reward"),
    ):
        assert cli.main([*words, "--steps", "2", *more]) != cli.OK
        assert message in capsys.readouterr().err


def test_rewards_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rule.py").write_text(RULE)
    for name, message in (
        ("tokens", r"shape \(2,\), one number"),
        ("wild", "finite"),
        ("nothing", r"the reward takes samples.* fails with RuntimeError"),
        ("pair", r"the reward takes samples.*missing 1 required positional argument"),
    ):
        place = f"{tmp_path / 'rule.py'}:{name}"
        with pytest.raises(ValueError, match=message):
            fewjump.refine(network(), reward=place, steps=1, out=tmp_path / "run", **QUICK)
        # The folder is free for what it was meant for.
        assert not list((tmp_path / "run").glob("*"))
    with pytest.raises(ValueError, match="teacher, or a reward"):
        fewjump.refine(network(), steps=1, **QUICK)
    with pytest.raises(ValueError, match="leave teacher and auxiliary out"):
        fewjump.refine(network(), network("product"), reward=same, steps=1, **QUICK)
    with pytest.raises(ValueError, match="give reward="):
        RewardRefinement()
