"""Data that are a list of sequences: against the enumerated joint of the same law."""

from __future__ import annotations

import time

import pytest
import torch

from fewjump.law.base import ravel
from fewjump.problem import EnumeratedJoint, FiniteSupport
from fewjump.process import Absorbing, Process, Uniform
from fewjump.random import generator_for
from fewjump.sampler.exact import exact_output_law
from fewjump.schedule import LogLinear

V, L = 3, 4


def problem() -> FiniteSupport:
    generator = generator_for(4)
    sequences = torch.randint(V, (30, L), generator=generator)
    return FiniteSupport(sequences, torch.rand(30, generator=generator), vocab_size=V)


def as_table(problem: FiniteSupport) -> EnumeratedJoint:
    probs = torch.zeros(V**L, dtype=torch.float64)
    probs[ravel(problem.support.sequences, V)] = problem.probs
    return EnumeratedJoint(probs.reshape((V,) * L))


def test_repeated_sequences_have_the_sum_of_their_weights() -> None:
    sequences = torch.tensor([[1, 0], [0, 1], [1, 0], [1, 1]])
    problem = FiniteSupport(sequences, torch.tensor([1.0, 2.0, 3.0, 0.0]))
    p = problem.log_prob(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])).exp()
    torch.testing.assert_close(p, torch.tensor([0, 1 / 3, 2 / 3, 0]).double())
    assert (problem.vocab_size, problem.length, len(problem.support)) == (2, 2, 3)


@pytest.mark.parametrize("process", [Absorbing(V + 1, LogLinear()), Uniform(V, LogLinear())])
def test_teachers_steps_scores_and_floors_are_the_tables(process: Process) -> None:
    ours, table = problem(), as_table(problem())
    x0 = ours.sample(20, generator_for(1))
    # Also states that no sequence of the list can have led to.
    x_t = torch.cat([process.corrupt(x0, 0.0, 0.6, generator_for(2)), torch.randint(V, (20, L))])
    for quantity in ("ratios", "noised_log_prob"):
        order = (x_t, 0.6, process)
        found, wanted = getattr(ours, quantity)(*order), getattr(table, quantity)(*order)
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=1e-11)
    for steps, joint in ((1, True), (2, False), (2, True)):
        laws = [exact_output_law(p.denoiser(process, joint), steps) for p in (ours, table)]
        torch.testing.assert_close(*laws, atol=1e-12, rtol=0)
    assert ours.one_step_floor() == pytest.approx(table.one_step_floor(), abs=1e-12)
    floor = ours.product_floor(process, 0.5, 4000, generator_for(3))
    assert floor.low - 0.02 < table.product_floor(process, 0.5).value < floor.high + 0.02


def test_a_long_list_of_long_sequences() -> None:
    """200,000 sequences of 64 tokens, ten evaluations: the time of a few seconds."""
    generator = generator_for(1)
    sequences = torch.randint(9, (200_000, 64), generator=generator)
    problem = FiniteSupport(sequences)
    process = Absorbing(10, LogLinear())
    x0 = problem.sample(8, generator)
    x_t = torch.where(torch.rand(8, 64, generator=generator) < 0.7, 9, x0)
    started = time.perf_counter()
    law = problem.denoiser(process, joint=True)(x_t, 0.7)
    # 19 visible tokens of nine kinds leave one sequence of 200,000.
    assert torch.equal(law.sample(generator), x0)
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(0, 3).long(),), "must be"),
        ((torch.zeros(2, 3),), "integers"),
        ((torch.tensor([[0, 5]]), None, 3), "0..2"),
        ((torch.tensor([[0, -1]]),), "0..0"),
        ((torch.tensor([[0, 1]]), torch.tensor([0.0])), "not all 0"),
        ((torch.tensor([[0, 1]]), torch.tensor([float("nan")])), "finite"),
        ((torch.tensor([[0, 1]]), torch.ones(2)), "weights"),
    ],
)
def test_what_is_no_law_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiniteSupport(*arguments)


def test_the_list_and_its_runs_are_those_of_the_enumerated_joint() -> None:
    mine, table = problem(), as_table(problem())
    sequences, probs = mine.listed()
    torch.testing.assert_close(table.log_prob(sequences).exp(), probs)
    for n in range(1, L + 1):
        torch.testing.assert_close(mine.ngram_law(n), table.ngram_law(n), rtol=0, atol=1e-12)
    assert not mine.all_possible()
    assert FiniteSupport(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])).all_possible()
