from __future__ import annotations

import math

import pytest
import torch

import fewjump
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.evaluate import chi_square_test, data_law, decompose_error, entropy, kl, tv
from fewjump.law.base import enumerate_states
from fewjump.problem import EnumeratedJoint, MarkovChain
from fewjump.process import Absorbing, Uniform
from fewjump.random import categorical


def test_by_hand():
    p = torch.tensor([0.5, 0.5, 0.0])
    q = torch.tensor([0.25, 0.5, 0.25])
    assert kl(p, q) == pytest.approx(0.5 * math.log(2), abs=1e-15)
    assert kl(q, p) == math.inf
    assert tv(p, q) == pytest.approx(0.25, abs=1e-15)
    assert entropy(p) == pytest.approx(math.log(2), abs=1e-15)
    assert kl(p.reshape(3, 1), p.reshape(3, 1)) == 0


def test_kl_of_close_laws_keeps_its_digits():
    # KL = ε²/2·Σ 1/p·d² to leading order: 1e-18 here, below the rounding of Σ p log(p/q).
    p = torch.full((4,), 0.25, dtype=torch.float64)
    d = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64) * 1e-9
    assert kl(p, p + d) == pytest.approx(4 * 1e-18 / (2 * 0.25), rel=1e-2)


def test_laws_are_checked():
    with pytest.raises(ValueError, match="sum to 1"):
        kl(torch.tensor([0.5, 0.4]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="different shapes"):
        tv(torch.ones(1), torch.tensor([0.5, 0.5]))


def test_chi_square_by_hand_and_closed_form():
    # 1 degree of freedom: P(χ² ≥ s) = erfc(√(s/2)); 2 degrees: exp(−s/2).
    counts, probs = torch.tensor([60, 40]), torch.tensor([0.5, 0.5])
    result = chi_square_test(counts, probs)
    assert result.statistic == pytest.approx(4.0)
    assert result.degrees == 1
    assert result.p_value == pytest.approx(math.erfc(math.sqrt(2)), rel=1e-10)
    result = chi_square_test(torch.tensor([50, 30, 20]), torch.full((3,), 1 / 3))
    assert result.statistic == pytest.approx(14.0, rel=1e-5)
    assert result.p_value == pytest.approx(math.exp(-7), rel=1e-4)


def test_rare_cells_are_pooled():
    probs = torch.tensor([0.9, 0.04, 0.04, 0.02])
    pooled = chi_square_test(torch.tensor([85, 6, 5, 4]), probs)
    by_hand = chi_square_test(torch.tensor([85, 15]), torch.tensor([0.9, 0.1]))
    assert pooled.degrees == 1
    assert pooled.statistic == pytest.approx(by_hand.statistic, rel=1e-6)
    # A pool that is itself too small joins the rarest cell that stands alone.
    result = chi_square_test(torch.tensor([50, 48, 2]), torch.tensor([0.5, 0.48, 0.02]))
    assert result.degrees == 1
    assert result.statistic == pytest.approx(0.0, abs=1e-6)


def test_chi_square_of_the_impossible_and_the_certain():
    assert chi_square_test(torch.tensor([9, 1]), torch.tensor([1.0, 0.0])).p_value == 0
    assert chi_square_test(torch.tensor([10, 0]), torch.tensor([1.0, 0.0])).p_value == 1
    with pytest.raises(ValueError, match="at least one draw"):
        chi_square_test(torch.tensor([0, 0]), torch.tensor([0.5, 0.5]))


def test_chi_square_p_values_are_uniform_under_the_truth(generator):
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    draws = categorical(probs.expand(400, 500, 4), generator)
    p_values = [chi_square_test(torch.bincount(row, minlength=4), probs).p_value for row in draws]
    below = torch.tensor([sum(p < q for p in p_values) / 400 for q in (0.1, 0.5, 0.9)])
    assert float((below - torch.tensor([0.1, 0.5, 0.9])).abs().max()) < 0.075


@pytest.fixture
def problem():
    probs = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return EnumeratedJoint(probs**3 / (probs**3).sum())


def test_data_law(problem):
    chain = MarkovChain.random(3, 3, generator=torch.Generator().manual_seed(1))
    law = data_law(chain)
    assert law.shape == (3, 3, 3)
    x = enumerate_states(3, 3)[17]
    product = chain.initial[x[0]] * chain.transition[x[0], x[1]] * chain.transition[x[1], x[2]]
    assert float(law[tuple(x)]) == pytest.approx(float(product), abs=1e-15)


@pytest.mark.parametrize(
    "process", [Uniform(3, fewjump.LogLinear()), Absorbing(4, fewjump.LogLinear())]
)
def test_one_exact_step_loses_the_total_correlation(problem, process):
    # At one step nothing but factorization is lost. From pure noise it is the total correlation;
    # the log-linear schedule leaves 0.1% of the data in x_T, which the last digits show.
    parts = decompose_error(problem, process, problem.denoiser(process), "ancestral", 1)
    assert parts.factorization == pytest.approx(problem.one_step_floor(), rel=0.01)
    assert parts.euler == 0
    assert parts.network == 0
    assert parts.total == parts.factorization


def test_the_three_errors_are_told_apart(problem):
    process = Uniform(3, fewjump.LogLinear())
    exact = problem.denoiser(process)

    def blurred(x_t, t):
        return 0.7 * exact.law(x_t, t).logits

    wrong = LogitDenoiser(blurred, process, 3)
    ancestral = decompose_error(problem, process, wrong, "ancestral", 4)
    assert ancestral.euler == 0
    assert ancestral.network > 0.01
    euler = decompose_error(problem, process, wrong, "euler", 4)
    assert euler.factorization == ancestral.factorization
    assert euler.euler > 1e-3
    for parts in (ancestral, euler):
        assert parts.factorization + parts.euler + parts.network == pytest.approx(parts.total)
    # More steps remove the product floor and the discretisation faster than the network's error.
    fine = decompose_error(problem, process, wrong, "euler", 64)
    assert fine.factorization < 0.2 * euler.factorization
    assert abs(fine.euler) < 0.2 * euler.euler
    assert euler.network < euler.factorization
    assert fine.network > 3 * (fine.factorization + abs(fine.euler))


def test_a_joint_exact_denoiser_beats_the_product_floor(problem):
    # Its "network error" is minus the factorization error: the whole of it.
    process = Absorbing(4, fewjump.LogLinear())
    joint = problem.denoiser(process, joint=True)
    parts = decompose_error(problem, process, joint, "ancestral", 1)
    assert parts.network == pytest.approx(-parts.factorization, rel=0.02)
    assert parts.total < 1e-3


def test_the_wrong_denoiser_is_refused(problem):
    process = Uniform(4, fewjump.LogLinear())
    other = LogitDenoiser(lambda x, t: torch.zeros(*x.shape, 4), process, 3)
    with pytest.raises(ValueError, match="below 4"):
        decompose_error(problem, Uniform(3, fewjump.LogLinear()), other, "ancestral", 1)
