"""Self-distillation through time: its loss by brute force, its rounds, and what it is not for."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from tabular import BruteForceDenoiser, TabularStudent, random_joint

import fewjump
from fewjump.law import ProductLaw
from fewjump.law.base import enumerate_states
from fewjump.law.logits import LinearLogits
from fewjump.objective import SelfDistillation, freeze
from fewjump.process import Absorbing, Uniform
from fewjump.runs import ROUNDS
from fewjump.schedule import LogLinear
from fewjump.train import TrainingInterrupted

V, MASK = 2, 2


def world(length: int = 2):
    process = Absorbing(V + 1, LogLinear())
    teacher = BruteForceDenoiser(random_joint(V, length, seed=3), length, process, V)
    freeze(teacher)
    return process, teacher


def targets(teacher: BruteForceDenoiser, t: float, step: float):
    """Every (probability, target (L, V)) from two masked positions, by enumeration."""
    process = teacher.process
    start = torch.full((1, 2), MASK)
    first = teacher(start, t).marginals()[0, :, :V]
    alpha = [
        float(process.schedule.alpha(torch.tensor(u, dtype=torch.float64))) for u in (t, t - step)
    ]
    # A masked position is unmasked by the step with this probability.
    shown = (alpha[1] - alpha[0]) / (1 - alpha[0])
    found = []
    for state in enumerate_states(V + 1, 2):
        weight = 1.0
        for i, token in enumerate(state.tolist()):
            weight *= 1 - shown if token == MASK else shown * float(first[i, token])
        second = teacher(state[None], t - step).marginals()[0, :, :V]
        target = torch.where((state == MASK)[:, None], second, first)
        found.append((weight, target))
    assert sum(weight for weight, _ in found) == pytest.approx(1)
    return found


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_the_loss_is_that_of_every_enumerated_target(divergence, monkeypatch):
    """At one time and from two masks: the mean over many draws against the sum over states."""
    process, teacher = world()
    student = TabularStudent(process, 2, [0.7])
    generator = torch.Generator().manual_seed(0)
    student.table.data.copy_(torch.randn(student.table.shape, generator=generator).double())
    student.table.data[..., MASK] = -torch.inf
    rows = 40_000
    monkeypatch.setattr(
        "fewjump.objective.self_distillation.spread_uniform",
        lambda batch, *_: torch.full((batch,), 0.7, dtype=torch.float64),
    )
    monkeypatch.setattr(Absorbing, "corrupt", lambda self, x, *_: torch.full_like(x, MASK))
    objective = SelfDistillation(
        jumps_before=8, rounds=2, round=2, divergence=divergence, min_time=1e-9
    )
    loss, metrics = objective(student, teacher, torch.zeros(rows, 2, dtype=torch.int64), generator)
    loss.backward()
    assert student.table.grad is not None
    found = student.table.grad[0, -1]

    logits = student.table.detach()[0, -1, :, :V].clone().requires_grad_()
    value = torch.zeros((), dtype=torch.float64)
    kl = torch.zeros((), dtype=torch.float64)
    for weight, target in targets(teacher, 0.7, 0.25):
        log_q, log_p = logits.log_softmax(-1), target.log()
        each = log_q.exp() * (log_q - log_p)
        if divergence == "forward":
            each = target * (log_p - log_q)
            value = value - weight * (target * log_q).sum() / 2
        else:
            value = value + weight * each.sum() / 2
        kl = kl + weight * each.sum() / 2
    value.backward()
    assert logits.grad is not None
    assert float(loss.detach()) == pytest.approx(float(value.detach()), abs=0.004)
    assert float(metrics["kl_to_teacher"]) == pytest.approx(float(kl.detach()), abs=0.004)
    torch.testing.assert_close(found[:, :V], logits.grad, atol=0.004, rtol=0)
    assert float(logits.grad.abs().max()) > 0.05


def test_reverse_divergence_has_the_formula_s_value_and_gradient():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, generator=generator, dtype=torch.float64)
    bias[4] = -torch.inf
    bias.requires_grad_()
    target = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    target[..., 4] = target[..., 2] = -torch.inf
    rows, row_weight = torch.tensor([0, 2, 5]), torch.tensor([1.0, 0.5, 2.0])
    floor = 1e-4

    def plain(logits):
        log_q = logits.flatten(0, 1)[rows].log_softmax(-1)
        log_p = target.flatten(0, 1)[rows].log_softmax(-1).clamp(min=math.log(floor))
        q = log_q.exp()
        return (q * (log_q.masked_fill(q == 0, 0.0) - log_p)).sum(-1)

    def gradients(total):
        return torch.autograd.grad(total, (features, weight))

    def dense():
        return torch.nn.functional.linear(features, weight, bias)

    expected = plain(dense()).detach()
    for source in (dense(), LinearLogits(features, weight, bias, compute=torch.float64)):
        law = ProductLaw(source)
        total, each = law.reverse_divergence(ProductLaw(target), rows, floor, row_weight)
        torch.testing.assert_close(each, expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(total, (expected * row_weight).sum(), atol=1e-12, rtol=0)
        for found, right in zip(gradients(total), gradients((plain(dense()) * row_weight).sum())):
            torch.testing.assert_close(found, right, atol=1e-12, rtol=0)


TINY = {"hidden": 16, "blocks": 1, "heads": 2}
OPTIONS = {"batch_size": 16, "lr": 3e-3, "ema": 0.9, "progress": False, "log_every": 5}


@pytest.fixture(scope="module")
def trained():
    tokens = torch.randint(2, (300, 1), generator=torch.Generator().manual_seed(0)).repeat(1, 4)
    teacher = fewjump.train_teacher(
        tokens, Absorbing(3, LogLinear()), network=TINY, steps=20, **OPTIONS
    )
    return tokens, teacher


def test_each_round_learns_from_the_last_and_resumes_exactly(trained, tmp_path, monkeypatch):
    tokens, teacher = trained
    objective = SelfDistillation(jumps_before=8, rounds=3)

    def run(out):
        return fewjump.distill(teacher, tokens, objective=objective, steps=10, out=out, **OPTIONS)

    whole = run(tmp_path / "whole")
    learned_from = []
    plain = SelfDistillation.__call__

    def watched(self, student, teacher, batch, generator):
        learned_from.append((self.round, teacher))
        if len(learned_from) == 5:
            raise TrainingInterrupted("stopped by the test")
        return plain(self, student, teacher, batch, generator)

    with monkeypatch.context() as patch:
        patch.setattr(SelfDistillation, "__call__", watched)
        with pytest.raises(TrainingInterrupted):
            run(tmp_path / "cut")
    assert [number for number, _ in learned_from] == [1, 1, 1, 2, 2]
    first = fewjump.load(tmp_path / "cut" / ROUNDS / "1" / "model")
    for own, other in zip(learned_from[-1][1].parameters(), first.parameters()):
        assert torch.equal(own, other)
    again = run(tmp_path / "cut")
    for own, other, before in zip(whole.parameters(), again.parameters(), teacher.parameters()):
        assert torch.equal(own, other)
        if own.dim() > 1 and float(before.detach().abs().sum()) > 0:
            assert not torch.equal(own, before)
    for own, other in zip(
        fewjump.load(tmp_path / "cut" / "teacher").parameters(), teacher.parameters()
    ):
        assert torch.equal(own, other)


def test_ctrl_c_in_the_last_step_of_a_round_begins_no_other(trained, tmp_path, monkeypatch):
    tokens, teacher = trained
    objective = SelfDistillation(jumps_before=8, rounds=2)
    rounds, plain = [], SelfDistillation.__call__

    def watched(self, student, teacher, batch, generator):
        rounds.append(self.round)
        if len(rounds) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, student, teacher, batch, generator)

    def run(out):
        return fewjump.distill(teacher, tokens, objective=objective, steps=4, out=out, **OPTIONS)

    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(SelfDistillation, "__call__", watched)
        with pytest.raises(TrainingInterrupted, match="after step 2 of 2"):
            run(tmp_path / "cut")
    assert rounds == [1, 1]
    for own, other in zip(whole.parameters(), run(tmp_path / "cut").parameters()):
        assert torch.equal(own, other)


def test_a_folder_of_another_run_is_refused_before_anything_is_learned(trained, tmp_path):
    tokens, teacher = trained
    several = SelfDistillation(jumps_before=8, rounds=2)
    one = SelfDistillation(jumps_before=8, rounds=1)
    for name, first, second in (("a", one, several), ("b", several, one)):
        out = tmp_path / name
        fewjump.distill(teacher, tokens, objective=first, steps=2, out=out, **OPTIONS)
        before = (out / "model" / "model.safetensors").read_bytes()
        with pytest.raises(ValueError, match="another run"):
            fewjump.distill(teacher, tokens, objective=second, steps=2, out=out, **OPTIONS)
        assert (out / "model" / "model.safetensors").read_bytes() == before
    (tmp_path / "c" / "model").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds model"):
        fewjump.distill(teacher, tokens, objective=several, steps=2, out=tmp_path / "c", **OPTIONS)
    assert not (tmp_path / "c" / ROUNDS).exists()
    with pytest.raises(ValueError, match="cannot be made longer"):
        fewjump.distill(teacher, tokens, objective=several, steps=6, out=tmp_path / "b", **OPTIONS)
    with pytest.raises(ValueError, match="2 rounds need at least 2 steps"):
        fewjump.distill(teacher, tokens, objective=several, steps=1, **OPTIONS)


def test_what_the_method_is_not_for_is_refused(trained):
    tokens, teacher = trained
    with pytest.raises(ValueError, match="product"):
        fewjump.distill(
            teacher, tokens, student="chain", objective=SelfDistillation(), steps=3, **OPTIONS
        )
    uniform = fewjump.train_teacher(
        tokens, Uniform(2, LogLinear()), network=TINY, steps=1, **OPTIONS
    )
    with pytest.raises(ValueError, match="mask"):
        fewjump.distill(uniform, tokens, objective=SelfDistillation(), steps=3, **OPTIONS)
    with pytest.raises(ValueError, match="multiple of 16"):
        SelfDistillation(jumps_before=24, rounds=4)


def test_low_rank_rounds_end_in_an_ordinary_student(trained):
    pytest.importorskip("peft")
    tokens, teacher = trained
    objective = SelfDistillation(jumps_before=8, rounds=2)
    student = fewjump.distill(teacher, tokens, objective=objective, lora=2, steps=4, **OPTIONS)
    assert not any(hasattr(module, "peft_config") for module in student.modules())
    assert {n for n, _ in student.named_parameters()} == {n for n, _ in teacher.named_parameters()}
