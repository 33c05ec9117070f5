"""Discrete consistency: its pair against Gaussians, its loss by brute force, its fixed point."""

from __future__ import annotations

import math

import pytest
import torch
from tabular import BruteForceDenoiser, TabularStudent, random_joint
from torch import Tensor

import fewjump
from fewjump.denoiser import NetworkDenoiser
from fewjump.law.base import enumerate_states
from fewjump.objective import DiscreteConsistency, freeze
from fewjump.process import Absorbing, Process, ResetToPrior, Uniform
from fewjump.schedule import LogLinear
from sampler.oracle import chi_square_p

SCHEDULE = LogLinear()


def clean_probability(ratio: float, vocab_size: int) -> float:
    """Pr(argmax(r·x₀ + ε) = x₀) = ∫ φ(z)·Φ(z + r)^{V−1} dz, by the trapezoidal rule."""
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    values = normal.log_prob(z).exp() * normal.cdf(z + ratio) ** (vocab_size - 1)
    return float(torch.trapezoid(values, z))


def signal_to_noise(alpha: float, vocab_size: int) -> float:
    """The paper's operator, inverted: r of the Gaussian whose argmax is uniform noise of α."""
    wanted, low, high = alpha + (1 - alpha) / vocab_size, 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if clean_probability(middle, vocab_size) < wanted else (low, middle)
        )
    return low


def test_the_operator_is_known_for_two_tokens() -> None:
    """Pr(N(0, 2) > −r) = Φ(r/√2)."""
    for ratio in (0.0, 0.7, 3.0):
        exact = (1 + math.erf(ratio / 2)) / 2
        assert clean_probability(ratio, 2) == pytest.approx(exact, abs=1e-14)


def pair_law(process: Process, x0: int, s: float, t: float) -> Tensor:
    """Pr(x_t, x_s | x₀) of one position: (V, V)."""
    x_t = torch.arange(process.vocab_size)
    after = process.flow_marginals(x_t, torch.full_like(x_t, x0), s, t)
    return process.kernel(0.0, t).dense()[x0, :, None] * after


@pytest.mark.parametrize("vocab_size", [2, 5])
@pytest.mark.parametrize(("s", "t"), [(0.3, 0.7), (0.5, 0.6)])
def test_one_gaussian_noise_makes_the_pair(vocab_size: int, s: float, t: float) -> None:
    """Draws of argmax(r·x₀ + ε) at two ratios, with the same ε, against the flow's pair."""
    process = Uniform(vocab_size, SCHEDULE)
    source = torch.Generator().manual_seed(3)
    noise = torch.randn(60_000, vocab_size, generator=source, dtype=torch.float64)
    x0 = vocab_size - 1
    states = []
    for time in (t, s):
        shown = noise.clone()
        shown[:, x0] += signal_to_noise(float(SCHEDULE.alpha(time)), vocab_size)
        states.append(shown.argmax(-1))
    law = pair_law(process, x0, s, t)
    assert chi_square_p(torch.stack(states, -1), law, vocab_size) > 1e-4
    # Each of the two is the process's; they are not a step of its chain.
    for marginal, time in ((law.sum(1), t), (law.sum(0), s)):
        truth = process.kernel(0.0, time).dense()[x0]
        torch.testing.assert_close(marginal, truth, atol=1e-14, rtol=0)
    chain = process.kernel(0.0, s).dense()[x0, :, None] * process.kernel(s, t).dense()
    assert chi_square_p(torch.stack(states, -1), chain.T, vocab_size) < 1e-9


def enumerated(teacher: BruteForceDenoiser, s: float, t: float) -> tuple[Tensor, Tensor]:
    """Pr(x_t, x_s) over states (N, N), and the teacher's law at each x_s (N, L, V)."""
    process, states = teacher.process, teacher.states
    laws = [pair_law(process, a, s, t) for a in range(process.vocab_size)]
    joint = torch.zeros(len(states), len(states), dtype=torch.float64)
    for weight, x0 in zip(teacher.probs, states.tolist(), strict=True):
        part = laws[x0[0]]
        for a in x0[1:]:
            part = torch.kron(part, laws[a])
        joint += weight * part
    return joint, teacher(states, s).marginals()


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_the_loss_is_that_of_the_enumerated_pairs(divergence, monkeypatch) -> None:
    process, s, t = Uniform(2, SCHEDULE), 0.45, 0.7
    teacher = BruteForceDenoiser(random_joint(2, 2, seed=3), 2, process, 2)
    freeze(teacher)
    student = TabularStudent(process, 2, [t])
    source = torch.Generator().manual_seed(0)
    student.table.data.normal_(generator=source)
    rows = 60_000
    batch = teacher.states[torch.multinomial(teacher.probs, rows, True, generator=source)]
    monkeypatch.setattr(
        "fewjump.objective.consistency.spread_uniform", lambda n, *_: torch.full((n,), s).double()
    )
    objective = DiscreteConsistency(
        jumps_before=8, rounds=2, round=2, divergence=divergence, min_time=1e-12
    )
    assert objective.step == 0.25
    loss, metrics = objective(student, teacher, batch, source)
    loss.backward()
    assert student.table.grad is not None

    joint, target = enumerated(teacher, s, t)
    table = student.table.detach()[0].clone().requires_grad_()
    mine, target = table.log_softmax(-1)[:, None], target.log()[None]
    if divergence == "reverse":
        value = kl = (mine.exp() * (mine - target)).sum((-1, -2))
    else:
        kl = (target.exp() * (target - mine)).sum((-1, -2))
        value = -(target.exp() * mine).sum((-1, -2))
    truth = (joint * value).sum() / 2
    truth.backward()
    assert table.grad is not None
    assert float(loss.detach()) == pytest.approx(float(truth.detach()), abs=0.006)
    assert float(metrics["kl_to_teacher"]) == pytest.approx(
        float((joint * kl).sum().detach()) / 2, abs=0.006
    )
    torch.testing.assert_close(student.table.grad[0], table.grad, atol=0.003, rtol=0)
    assert float(table.grad.abs().max()) > 0.02
    states = enumerate_states(2, 2)
    moved = (states[:, None] != states).double().mean(-1)
    assert float(metrics["cleaned"]) == pytest.approx(float((joint * moved).sum()), abs=0.006)


def test_an_exact_teacher_is_the_minimiser_as_the_step_falls_to_0_only() -> None:
    """How far E[p(x₀|x_s) | x_t] is from p(x₀|x_t): proportional to the step."""
    process, t = Uniform(2, SCHEDULE), 0.7
    teacher = BruteForceDenoiser(random_joint(2, 2, seed=3), 2, process, 2)

    def gap(step: float) -> float:
        joint, target = enumerated(teacher, t - step, t)
        best = torch.einsum("ts,slv->tlv", joint / joint.sum(1, keepdim=True), target)
        return float((best - teacher(teacher.states, t).marginals()).abs().max())

    assert gap(0.2) > 0.02
    assert gap(1e-3) / gap(5e-4) == pytest.approx(2, abs=0.02)
    assert gap(0.0) < 1e-14


OPTIONS = {"batch_size": 16, "ema": 0.9, "progress": False, "monitor": False}


def network(process: Process, **head: str) -> NetworkDenoiser:
    trunk = {"hidden": 16, "blocks": 1, "heads": 2}
    config = {"process": process.config(), "trunk": trunk, "length": 4}
    return NetworkDenoiser.from_config(config | ({"head": head} if head else {}))


def test_rounds_double_the_step() -> None:
    tokens = torch.randint(2, (40, 4), generator=torch.Generator().manual_seed(0))
    teacher = network(Uniform(2, SCHEDULE))
    # A fresh network says the same of every state.
    for parameter in teacher.parameters():
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    objective = DiscreteConsistency(jumps_before=12, rounds=2, known="prefix")
    rounds = objective.in_rounds()
    assert [one.step for one in rounds if isinstance(one, DiscreteConsistency)] == [1 / 12, 1 / 6]
    student = fewjump.distill(teacher, tokens, objective=objective, steps=4, **OPTIONS)
    pairs = zip(student.parameters(), teacher.parameters(), strict=True)
    assert any(not torch.equal(own, other) for own, other in pairs)


@pytest.mark.parametrize(
    ("process", "head", "message"),
    [
        (Uniform(2, SCHEDULE), {"kind": "chain"}, "student='product'"),
        (Absorbing(3, SCHEDULE), {}, "--process uniform"),
        (ResetToPrior(torch.tensor([0.2, 0.8]), SCHEDULE), {}, "--process uniform"),
    ],
)
def test_what_the_method_is_not_for_is_refused(process, head, message) -> None:
    with pytest.raises(ValueError, match=message):
        DiscreteConsistency().check(network(process, **head), freeze(network(process)))
