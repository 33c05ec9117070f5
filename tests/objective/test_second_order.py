"""The second-order draw of x_s follows the sampler's own law, and its error falls as the cube."""

from __future__ import annotations

import math

import pytest
import torch
from tabular import BruteForceDenoiser, euler_table, random_joint

from fewjump.law.base import enumerate_states, ravel
from fewjump.law.posterior import outer
from fewjump.law.product import ProductLaw
from fewjump.objective import ConditionalMatching, freeze
from fewjump.objective.intermediate import draw_earlier
from fewjump.process import Absorbing, FixedRate, ResetToPrior, Uniform, birth_death_rate
from fewjump.process import rescale_to_gap as rescale
from fewjump.sampler.base import Move
from fewjump.sampler.two_stage import ThetaTrapezoidal
from fewjump.schedule import Linear, LogLinear

CASES = [
    (Uniform(3, Linear(3.0)), 3),
    (Absorbing(3, LogLinear()), 2),
    (ResetToPrior(torch.tensor([0.6, 0.3, 0.1]), Linear(3.0)), 3),
    (FixedRate(rescale(birth_death_rate(3)), Linear(4.0)), 3),
]


def step_law(teacher, x_t: torch.Tensor, t: float, s: float) -> torch.Tensor:
    """Law of x_s after one θ-trapezoidal step from a single state, by enumerating both leaps."""
    states = enumerate_states(teacher.process.vocab_size, x_t.shape[1])
    times = [torch.tensor(v, dtype=torch.float64) for v in (t, s)]
    moves = ThetaTrapezoidal().moves(teacher, x_t, *times)
    first: Move = next(moves)
    law = torch.zeros(len(states), dtype=torch.float64)
    for weight, middle in zip(first.table()[0], states):
        if weight > 0:
            again = ThetaTrapezoidal().moves(teacher, x_t, *times)
            next(again)
            law += weight * again.send(middle[None]).table()[0]
    return law


@pytest.mark.parametrize(("process", "clean"), CASES, ids=lambda c: type(c).__name__)
def test_draws_follow_the_samplers_law_at_times_of_their_own(process, clean, generator):
    teacher = freeze(BruteForceDenoiser(random_joint(clean, 2, 1), 2, process, clean))
    x_t = torch.tensor([[2, 1 if clean == 3 else 2]])
    n, pairs = 20_000, [(0.8, 0.3), (0.6, 0.45)]
    many = x_t.expand(2 * n, -1)
    t = torch.tensor([p[0] for p in pairs], dtype=torch.float64).repeat(n)
    s = torch.tensor([p[1] for p in pairs], dtype=torch.float64).repeat(n)
    drawn, _ = draw_earlier(ThetaTrapezoidal(), teacher, many, s, t, generator)
    for which, (later, earlier) in enumerate(pairs):
        law = step_law(teacher, x_t, later, earlier)
        assert float(law.sum()) == pytest.approx(1)
        share = torch.bincount(ravel(drawn[which::2], 3), minlength=9).double() / n
        assert bool((share[law < 1e-15] == 0).all())
        error = (share - law).abs()
        assert bool((error <= 4.5 * (law * (1 - law) / n).sqrt() + 1 / n).all())


def reverse(probs, process, states, x_t, s, t):
    """The true p(x_s|x_t) over all states."""
    p_s = torch.zeros(len(states), dtype=torch.float64)
    kernel = process.kernel(0.0, s).dense()
    for weight, x0 in zip(probs, enumerate_states(3, 2)):
        p_s += weight * kernel[x0[0], states[:, 0]] * kernel[x0[1], states[:, 1]]
    between = process.kernel(s, t).dense()
    joint = p_s * between[states[:, 0], x_t[0, 0]] * between[states[:, 1], x_t[0, 1]]
    return joint / joint.sum()


def test_its_error_is_third_order_in_the_step_and_eulers_is_second():
    process, mild = Uniform(3, Linear(3.0)), torch.tensor([1.0, 1.2, 0.9, 1.1, 1, 1, 0.8, 1, 1.3])
    probs = mild.double() / mild.sum()
    teacher = freeze(BruteForceDenoiser(probs, 2, process, 3))
    states, x_t, t = enumerate_states(3, 2), torch.tensor([[0, 2]]), 0.5
    errors: dict[str, list[float]] = {"euler": [], "trapezoidal": []}
    gaps = (0.04, 0.02)
    for gap in gaps:
        truth = reverse(probs, process, states, x_t, t - gap, t)
        later = torch.tensor([t], dtype=torch.float64)
        table = euler_table(process, teacher(x_t, t), x_t, later - gap, later)
        errors["euler"].append(float((outer(table)[0] - truth).abs().sum()))
        law = step_law(teacher, x_t, t, t - gap)
        errors["trapezoidal"].append(float((law - truth).abs().sum()))
    order = {k: math.log(a / b) / math.log(gaps[0] / gaps[1]) for k, (a, b) in errors.items()}
    assert order["euler"] == pytest.approx(2, abs=0.2)
    assert order["trapezoidal"] == pytest.approx(3, abs=0.3)


def test_the_objective_uses_it_and_reports_its_clamped_mass(generator):
    torch.manual_seed(0)
    process = Uniform(3, Linear(3.0))
    teacher = freeze(BruteForceDenoiser(random_joint(3, 2, 1), 2, process, 3))

    class Student(BruteForceDenoiser):
        """Its own logits, one for all states, and a record of the times it was asked at."""

        def __init__(self) -> None:
            super().__init__(random_joint(3, 2, 1), 2, process, 3)
            self.logits = torch.nn.Parameter(torch.zeros(1, 2, 3, dtype=torch.float64))
            self.asked: list[tuple[torch.Tensor, bool]] = []

        def law(self, x_t, t):
            self.asked.append((t, torch.is_grad_enabled()))
            return ProductLaw(self.logits.expand(x_t.shape[0], -1, -1))

    student = Student()
    batch = torch.zeros(64, 2, dtype=torch.int64)
    objective = ConditionalMatching("student-trapezoidal")
    loss, metrics = objective(student, teacher, batch, generator)
    loss.backward()
    assert student.logits.grad is not None
    assert float(student.logits.grad.abs().max()) > 0
    (first, with_gradient), (middle, without) = student.asked
    assert with_gradient
    assert not without
    assert bool((middle < first).all())
    assert float(metrics["clipped_mass"]) >= 0
