"""Inverse distillation: its gradient is that of a KL between noised laws, for every process."""

from __future__ import annotations

import pytest
import torch
from test_on_policy import LEGENDRE, ExactAuxiliary, L, V, gradient, kernels, make_student, setting
from torch import Tensor

import fewjump
from fewjump.assembly import build_student
from fewjump.law.base import enumerate_states
from fewjump.objective import InverseDistillation, MomentMatching, TokenMatching, freeze
from fewjump.objective.on_policy import StudentWithAuxiliary
from fewjump.objective.score_function import DrawnAt, leave_one_out, score_surrogate
from fewjump.process import Absorbing, FixedRate, Process, ResetToPrior, Uniform
from fewjump.random import generator_for
from fewjump.schedule import Linear, LogLinear
from fewjump.train import TrainingInterrupted

TINY = 1e-30
RING = torch.roll(torch.eye(V), 1, dims=1) - torch.eye(V)


def processes(most: float) -> list[Process]:
    """All noise that is left at t = 1 is exp(−``most``) of the data."""
    return [
        Uniform(V, Linear(most)),
        ResetToPrior(torch.tensor([0.6, 0.3, 0.1]), Linear(most)),
        FixedRate(RING.double(), Linear(most)),
        Absorbing(V + 1, Linear(most)),
    ]


def start_law(process: Process) -> Tensor:
    return process.prior()[enumerate_states(process.vocab_size, L)].prod(-1)


def noised(process: Process, law: Tensor, u: float) -> Tensor:
    """Law of x_u, (N,), of a law of x₀."""
    states = enumerate_states(process.vocab_size, L)
    return law @ process.kernel(0.0, u).dense()[states[:, None], states].prod(-1)


def enumerated(objective, student, teacher, low: float, high: float) -> tuple[Tensor, Tensor]:
    """E∫ du w(u)·R_ψ*, and the surrogate of its gradient, over every (x_t, x₀, x_u) from t = 1."""
    process = student.process
    states, start = enumerate_states(process.vocab_size, L), start_law(process)
    log_law, size = student(states, 1.0).enumerate(), len(states)
    auxiliary = ExactAuxiliary(student, {1.0: start})
    x0, x_u = states.repeat_interleave(size, 0), states.repeat(size, 1)
    value, surrogate = torch.zeros(()).double(), torch.zeros(()).double()
    for node, weight in LEGENDRE:
        u = torch.tensor([low + (high - low) * 0.5 * (node + 1)], dtype=torch.float64)
        at = u.expand(size)
        fake, real = (one(states, at).select(torch.arange(size).repeat(size)) for one in
                      (auxiliary, teacher))  # fmt: skip
        drawn = DrawnAt(states, u, x_u[None], u.expand(len(x_u)), u, process)
        reward = objective._reward(fake, real, x0, drawn)
        reward = reward.sum(-1).reshape(size, size) * objective._time_weight(process, u)
        reward = reward * weight * 0.5 * (high - low)
        mass = kernels(process, u, 1.0)[0] * (start[:, None] * log_law.detach().exp())[..., None]
        each = torch.where(mass > 1e-25, mass * reward, 0.0).sum(-1)
        value, surrogate = value + each.sum(), surrogate + (each * log_law).sum()
    return value, surrogate


@pytest.mark.parametrize("process", processes(40.0), ids=["uniform", "prior", "ring", "absorbing"])
@pytest.mark.parametrize("kind", ["product", "joint"])
def test_with_an_exact_auxiliary_the_gradient_is_that_of_the_kl_of_noised_laws(process, kind):
    problem, teacher, student = setting(process, kind)
    low, high = 0.015, 0.04
    value, surrogate = enumerated(InverseDistillation(floor=TINY), student, teacher, low, high)

    def divergence(u: float) -> Tensor:
        states = enumerate_states(process.vocab_size, L)
        law = start_law(process) @ student(states, 1.0).enumerate().exp()
        mine = noised(process, law, u)
        real = problem.noised(process, u).reshape(-1)
        used = mine > 0
        return (mine[used] * (mine[used] / real[used]).log()).sum()

    expected = divergence(low) - divergence(high)
    assert float(expected.detach()) > 0.05
    torch.testing.assert_close(value, expected.detach(), atol=1e-8, rtol=1e-7)
    right = gradient(expected, student)
    torch.testing.assert_close(gradient(surrogate, student), right, atol=1e-8, rtol=1e-6)
    assert float(right.abs().max()) > 0.003


def test_the_baseline_of_the_other_draws_costs_no_bias():
    """Over every pair of draws from one law, and it takes out what is common to them."""
    log_law = torch.randn(7, generator=generator_for(1)).double().requires_grad_()
    reward = torch.randn(7, generator=generator_for(2)).double() + 20
    law = log_law.log_softmax(-1)
    exact = torch.autograd.grad((law.exp() * reward).sum(), log_law, retain_graph=True)[0]
    pair = torch.cartesian_prod(torch.arange(7), torch.arange(7)).T
    chance = law.detach().exp()[pair].prod(0)

    def moments(advantage: Tensor) -> tuple[Tensor, Tensor]:
        each = score_surrogate(law[pair], advantage).mean(0)
        found = torch.stack(
            [torch.autograd.grad(one, log_law, retain_graph=True)[0] for one in each]
        )
        mean = chance @ found
        return mean, chance @ (found - mean).square().sum(-1)

    mean, spread = moments(leave_one_out(reward[pair]))
    bare, wide = moments(reward[pair])
    torch.testing.assert_close(mean, exact, atol=1e-12, rtol=0)
    torch.testing.assert_close(bare, exact, atol=1e-12, rtol=0)
    assert float(spread) < 0.05 * float(wide)


@pytest.mark.parametrize(
    ("process", "kind"),
    [(processes(4.0)[0], "joint"), (Absorbing(V + 1, LogLinear()), "mixture")],
    ids=["uniform-score", "absorbing-expected"],
)
def test_the_drawn_gradient_with_its_anchor_is_unbiased(process, kind):
    problem, teacher, student = setting(process, kind)
    low, weight = 0.1, 0.7
    objective = InverseDistillation(draws=2, min_time=low, floor=TINY, anchor=weight)
    states, start = enumerate_states(process.vocab_size, L), start_law(process)
    law = student(states, 1.0).enumerate()
    product = teacher(states, 1.0).enumerate()
    used = law.detach().exp() > 1e-20
    away = start @ torch.where(used, law.exp() * (law - product.clamp(min=-1e3)), 0.0).sum(-1)
    expected = gradient(enumerated(objective, student, teacher, low, 1.0)[1], student)
    expected = expected + weight * gradient(away, student)
    pair = StudentWithAuxiliary(student, ExactAuxiliary(student, {1.0: start}))
    batch, seen, anchored = problem.sample(2000, generator_for(1)), [], []
    for call in range(16):
        loss, metrics = objective(pair, teacher, batch, generator_for(2, call))
        seen.append(gradient(loss, student) * L)
        anchored.append(float(metrics["kl_to_teacher"]) * L)
    drawn, spread = torch.stack(seen).mean(0), torch.stack(seen).std(0) / 4
    error = (drawn - expected).abs()
    assert bool((error <= 6 * spread + 1e-4 * float(expected.abs().max()) + 1e-6).all())
    assert float(expected.norm()) > 4 * float(spread.norm())
    assert sum(anchored) / 16 == pytest.approx(float(away.detach()), abs=0.02)


def test_the_anchor_falls_to_nothing_once_the_student_learns():
    process = processes(4.0)[0]
    problem, teacher, student = setting(process)
    pair = StudentWithAuxiliary(student, make_student("product", process))
    objective = InverseDistillation(warmup=2, anchor=0.5)
    objective.settle(pair, 8, {})
    assert objective.anchor_steps == 4
    batch = problem.sample(4, generator_for(1))

    def at(step: int) -> tuple[float, bool]:
        objective.begin_step(step)
        _, metrics = objective(pair, teacher, batch, generator_for(1))
        return objective._anchor_weight, "kl_to_teacher" in metrics

    assert [at(step) for step in (0, 2, 4, 6, 7)] == [
        (0.5, True),
        (0.5, True),
        (0.25, True),
        (0.0, False),
        (0.0, False),
    ]
    longer = InverseDistillation(warmup=2)
    longer.settle(pair, 100, {"anchor_steps": 4})
    assert longer.anchor_steps == 4


NETWORK = {"hidden": 16, "blocks": 1, "heads": 2}
QUICK = {"batch_size": 16, "ema": 0.9, "progress": False, "device": "cpu", "warmup": 1}


@pytest.mark.parametrize(
    ("method", "process", "kind", "head"),
    [
        (InverseDistillation, Uniform(2, LogLinear()), "chain", {}),
        (InverseDistillation, Absorbing(3, LogLinear()), "product", {}),
        (MomentMatching, Absorbing(3, LogLinear()), "latent", {"categories": 0, "size": 4}),
        (TokenMatching, Uniform(2, LogLinear()), "mixture", {}),
    ],
    ids=["uniform-chain", "absorbing-product", "moments-latent", "tokens-mixture"],
)
def test_a_run_resumes_exactly_with_its_auxiliary(
    method, process, kind, head, tmp_path, monkeypatch
):
    tokens = torch.randint(2, (300, 1), generator=generator_for(0)).repeat(1, 4)
    teacher = fewjump.train_teacher(tokens, process, network=NETWORK, steps=3, **QUICK)
    before = [p.detach().clone() for p in teacher.parameters()]

    def run(out):
        objective = method(steps=2, warmup=2)
        data = tokens if objective.needs_data else None
        return fewjump.distill(
            teacher,
            data,
            student=kind,
            head=head,
            objective=objective,
            steps=8,
            save_every=3,
            out=out,
            **QUICK,
        )

    whole = run(tmp_path / "whole")
    plain, calls = method.__call__, []

    def cut(self, *inputs):
        calls.append(1)
        if len(calls) == 6:
            raise TrainingInterrupted("stopped by the test")
        return plain(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(method, "__call__", cut)
        with pytest.raises(TrainingInterrupted):
            run(tmp_path / "cut")
    again = run(tmp_path / "cut")
    assert isinstance(whole, fewjump.denoiser.NetworkDenoiser)
    assert whole.kind == kind
    for own, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, other)
    assert all(torch.equal(p, q) for p, q in zip(before, teacher.parameters(), strict=True))
    started = build_student(teacher, kind, None, head, True, 4, 0)
    moved = zip(whole.parameters(), started.parameters(), strict=True)
    assert any(not torch.equal(own, other) for own, other in moved)


def test_what_the_method_is_not_for_is_refused():
    process = processes(4.0)[0]
    problem, teacher, student = setting(process, "product")
    pair = StudentWithAuxiliary(student, make_student("product", process))
    with pytest.raises(ValueError, match="bound's own weights"):
        InverseDistillation(weighting="uniform")
    with pytest.raises(ValueError, match="anchor must be"):
        InverseDistillation(anchor=-1.0)
    with pytest.raises(ValueError, match="anchor_steps"):
        InverseDistillation(anchor_steps=0)
    with pytest.raises(ValueError, match="none of the 200 steps"):
        InverseDistillation().settle(pair, 200, {})
    batch = problem.sample(4, generator_for(1))
    with pytest.raises(ValueError, match="noise with a mask"):
        InverseDistillation(estimator="expected")(pair, teacher, batch, generator_for(1))
    latent = fewjump.denoiser.NetworkDenoiser.from_config(
        {
            "process": process.config(),
            "length": L,
            "trunk": NETWORK,
            "head": {"kind": "latent", "size": 2},
        }
    )
    with pytest.raises(ValueError, match="a bound of it"):
        InverseDistillation().check(StudentWithAuxiliary(latent, freeze(student)), teacher)
