"""Exactness: the analytic step, joint denoisers, first hitting, and the local error of a step."""

from __future__ import annotations

import pytest
import torch

from fewjump.law.base import enumerate_states, ravel
from fewjump.process import Absorbing, FixedRate, ResetToPrior, Uniform
from fewjump.sampler import ThetaRK2, ThetaTrapezoidal, exact_output_law
from fewjump.sampler.exact import _push
from fewjump.sampler.single_stage import reverse_move
from fewjump.schedule import Linear, LogLinear
from laws.registry import PROCESSES, random_rate
from sampler.oracle import problem_for, random_joint, slope, total_variation

# Some registered chains keep some of the data at t = 1; nothing here depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:at t = 1 the slowest mode")

T, S = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)


@pytest.mark.parametrize("name", [n for n in PROCESSES.names() if not n.startswith("Absorbing")])
def test_ancestral_is_the_analytic_step(name: str) -> None:
    """(P_{t|s}⁻ᵀ r)(x_s)·P_{t|s}[x_s, x_t], SEDD's step, from exact ratios by enumeration."""
    process = PROCESSES.make(name, Linear(3.0))
    problem = problem_for(process, 2)
    states = enumerate_states(4, 2)
    to_t, between = process.kernel(0.0, T).dense(), process.kernel(S, T).dense()
    law_t = to_t.T @ problem.probs @ to_t
    reachable = law_t.flatten() > 0
    states = states[reachable]
    law = problem.denoiser(process)(states, T)
    table = reverse_move(law, process, states, T, S).table().reshape(-1, 4, 4)
    for row, x in zip(table, states, strict=True):
        ratios = law_t[:, x[1]] / law_t[x[0], x[1]]
        analytic = torch.linalg.solve(between.T, ratios) * between[:, x[0]]
        assert torch.allclose(row.sum(1), analytic, atol=1e-10)


def test_ancestral_is_the_analytic_step_of_a_masked_position() -> None:
    process = Absorbing(4, LogLinear())
    problem = random_joint(3, 2)
    x = torch.tensor([[3, 1]])
    row = reverse_move(problem.denoiser(process)(x, T), process, x, T, S).table().reshape(4, 4)
    alpha_t, alpha_s = process.schedule.alpha(T), process.schedule.alpha(S)
    posterior = problem.probs[:, 1] / problem.probs[:, 1].sum()
    ratios = torch.cat([posterior * alpha_t / (1 - alpha_t), torch.ones(1, dtype=torch.float64)])
    between = process.kernel(S, T).dense()
    analytic = torch.linalg.solve(between.T, ratios) * between[:, 3]
    assert torch.allclose(row[:, 1], analytic, atol=1e-12)
    assert torch.allclose(row[:3, 1], posterior * (alpha_s - alpha_t) / (1 - alpha_t), atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "make",
    [
        lambda schedule: Uniform(3, schedule),
        lambda schedule: Absorbing(4, schedule),
        lambda schedule: ResetToPrior(torch.tensor([0.2, 0.3, 0.5]), schedule),
        lambda schedule: FixedRate(random_rate(3), schedule),
    ],
)
def test_a_joint_law_makes_every_number_of_steps_exact(make, steps: int) -> None:
    """Σ̄(1) = 40 leaves nothing of the data at t = 1; a schedule that ends at α(1) = 1e-3 errs by
    the distance between its x_1 and the prior."""
    problem = random_joint(3, 3)
    exact = exact_output_law(problem.denoiser(make(Linear(40.0)), joint=True), steps)
    assert (exact - problem.probs).abs().max() < 1e-13
    usual = exact_output_law(problem.denoiser(make(LogLinear()), joint=True), steps)
    assert total_variation(usual, problem.probs) < 1e-3


@pytest.mark.parametrize("joint", [False, True])
def test_first_hitting_with_a_step_per_position_is_the_data_law(joint: bool) -> None:
    problem = random_joint(3, 3)
    denoiser = problem.denoiser(Absorbing(4, LogLinear()), joint=joint)
    for steps in (3, 5):
        law = exact_output_law(denoiser, steps, "first-hitting")
        assert (law - problem.probs).abs().max() < 1e-14
    coarse = total_variation(exact_output_law(denoiser, 2, "first-hitting"), problem.probs)
    assert (coarse < 1e-14) == joint


def test_one_step_is_one_shot_for_every_sampler() -> None:
    problem = random_joint(3, 2)
    denoiser = problem.denoiser(Absorbing(4, LogLinear()))
    marginals = problem.probs.sum(1)[:, None] * problem.probs.sum(0)
    for name in ("euler", "tau-leaping", "ancestral", "theta-trapezoidal", "theta-rk2"):
        assert torch.allclose(exact_output_law(denoiser, 1, name), marginals, atol=1e-14)


def test_local_error_of_the_two_stage_methods() -> None:
    """One step from a fixed x_t against the true reverse conditional: Δ³, and Δ² for theta-rk2.

    theta-rk2 forgets the jumps of its first stage, so the mixed second difference
    Σ μ(ν)(T_ν − 1)(A_{T_ν x} − A_x) is missing at order Δ².
    """
    process = Uniform(3, Linear(4.0))
    problem = random_joint(3, 2, roughness=0.2)
    product, joint = problem.denoiser(process), problem.denoiser(process, joint=True)
    x = torch.tensor([[0, 2]])
    gaps = (0.04, 0.02, 0.01)
    start = torch.zeros(9, dtype=torch.float64)
    start[int(ravel(x, 3))] = 1
    t = torch.tensor(0.3, dtype=torch.float64)
    for sampler, order in ((ThetaTrapezoidal(), 3), (ThetaTrapezoidal(0.3), 3), (ThetaRK2(), 2)):
        found = []
        for gap in gaps:
            truth = reverse_move(joint(x, t), process, x, t, t - gap).table()[0]
            law = _push(lambda y, g=gap, m=sampler: m.moves(product, y, t, t - g), start, 3, 2)
            found.append(total_variation(law, truth))
        assert abs(slope([1 / g for g in gaps], found) - order) < 0.15, found


def test_clear_errors() -> None:
    uniform = random_joint(3, 2).denoiser(Uniform(3, LogLinear()))
    with pytest.raises(ValueError, match="ancestral"):
        exact_output_law(uniform, 2, "first-hitting")
    masked = random_joint(3, 2).denoiser(Absorbing(4, LogLinear()))
    masked.time_conditioned = True
    with pytest.raises(ValueError, match="random times"):
        exact_output_law(masked, 2, "first-hitting")
    masked.length = 9
    with pytest.raises(ValueError, match="smaller problem"):
        exact_output_law(masked, 2, "euler")
    masked.length = None
    with pytest.raises(ValueError, match="length"):
        exact_output_law(masked, 2)
    with pytest.raises(ValueError, match="unknown sampler"):
        exact_output_law(uniform, 2, "eular")


def test_evaluations_are_not_charged_to_the_denoiser() -> None:
    denoiser = random_joint(3, 2).denoiser(Uniform(3, LogLinear()))
    exact_output_law(denoiser, 3, "theta-trapezoidal")
    assert denoiser.evaluations == 0
