from __future__ import annotations

import math

import pytest
import torch

import fewjump
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.evaluate import data_law, decompose_error, entropy, kl, tv
from fewjump.law.base import enumerate_states
from fewjump.problem import EnumeratedJoint, MarkovChain
from fewjump.process import Absorbing, Uniform


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
