"""What every problem must satisfy: one law behind its samples, numbers and posteriors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fewjump.evaluate.exact import data_law, entropy, kl
from fewjump.law.posterior import outer
from fewjump.problem import Problem
from fewjump.process import Absorbing, Uniform
from fewjump.random import generator_for
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import LogLinear
from laws.registry_problems import PROBLEMS
from sampler.oracle import chi_square_p

every = pytest.mark.parametrize("make", PROBLEMS.params())


def test_every_problem_is_registered() -> None:
    assert PROBLEMS.missing() == set()


@every
def test_numbers_are_those_of_the_law(make: Callable[[], Problem]) -> None:
    problem = make()
    law = data_law(problem)
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert problem.entropy() == pytest.approx(entropy(law), abs=1e-10)
    for i, marginal in enumerate(problem.marginals()):
        others = [axis for axis in range(problem.length) if axis != i]
        torch.testing.assert_close(marginal, law.sum(others), atol=1e-12, rtol=0)
    product = outer(problem.marginals()[None])[0].reshape(law.shape)
    assert problem.one_step_floor() == pytest.approx(kl(law, product), abs=1e-10)


@every
def test_samples_follow_the_law(make: Callable[[], Problem]) -> None:
    problem = make()
    drawn = problem.sample(20_000, generator_for(5))
    assert chi_square_p(drawn, data_law(problem), problem.vocab_size) > 1e-3


@every
@pytest.mark.parametrize("masked", [False, True])
def test_the_joint_posterior_of_pure_noise_gives_the_law_back(
    make: Callable[[], Problem], masked: bool
) -> None:
    problem = make()
    size, schedule = problem.vocab_size, LogLinear()
    process = Absorbing(size + 1, schedule) if masked else Uniform(size, schedule)
    output = exact_output_law(problem.denoiser(process, joint=True), 1)
    # Uniform noise keeps a thousandth of the data, which its limit law has forgotten.
    assert kl(data_law(problem), output) < (1e-10 if masked else 1e-4)
