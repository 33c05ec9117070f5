"""ExactDenoiser: which vocabularies fit, the mask, and states of probability zero."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from fewjump.denoiser.score import ScoreDenoiser
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.markov import MarkovLaw
from fewjump.law.product import ProductLaw
from fewjump.problem import EnumeratedJoint, HiddenMarkovChain, MarkovChain, Problem, xor
from fewjump.process import Absorbing, ResetToPrior, Uniform
from fewjump.random import generator_for
from fewjump.schedule import Linear, LogLinear

V, L = 3, 3


def with_unused_token(unused: int) -> EnumeratedJoint:
    """A random law over V tokens inside V + 1, of which ``unused`` never occurs."""
    inner = EnumeratedJoint.random(V, L, 1.0, generator_for(1)).probs
    used = torch.tensor([a for a in range(V + 1) if a != unused])
    probs = torch.zeros((V + 1,) * L, dtype=torch.float64)
    probs[torch.meshgrid(*[used] * L, indexing="ij")] = inner
    return EnumeratedJoint(probs)


def never_token_two(chain: bool) -> Problem:
    """Token 2 never occurs, and neither does a repeated token."""
    transition = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    initial = torch.tensor([0.3, 0.7, 0.0])
    markov = MarkovChain(initial, transition, L)
    if chain:
        return markov
    joint = markov.initial
    for _ in range(L - 1):
        joint = joint[..., None] * markov.transition
    return EnumeratedJoint(joint)


def test_kinds_of_law() -> None:
    process = Uniform(V, LogLinear())
    chain = MarkovChain.random(V, L, 1.0, generator_for(2))
    hidden = HiddenMarkovChain.random(2, V, L, 1.0, generator_for(2))
    joint = EnumeratedJoint.random(V, L, 1.0, generator_for(2))
    x_t = torch.zeros(2, L, dtype=torch.int64)
    for problem, kind in ((chain, MarkovLaw), (hidden, MarkovLaw), (joint, EnumeratedLaw)):
        product = problem.denoiser(process)(x_t, 0.5)
        law = problem.denoiser(process, joint=True)(x_t, 0.5)
        assert isinstance(product, ProductLaw)
        assert isinstance(law, kind)
        assert product.logits.dtype == torch.float64
        torch.testing.assert_close(product.marginals(), law.marginals(), atol=1e-14, rtol=0)
    denoiser = chain.denoiser(process)
    denoiser(x_t, 0.5)
    assert (denoiser.evaluations, denoiser.length, denoiser.clean_vocab_size) == (1, L, V)
    assert denoiser.time_conditioned
    assert denoiser.process is process


@pytest.mark.parametrize("unused", [3, 1])
def test_a_mask_among_the_tokens_equals_a_mask_of_its_own(unused: int) -> None:
    inside = with_unused_token(unused)
    used = [a for a in range(V + 1) if a != unused]
    outside = EnumeratedJoint.random(V, L, 1.0, generator_for(1))
    first = inside.denoiser(Absorbing(V + 1, LogLinear(), mask=unused), joint=True)
    second = outside.denoiser(Absorbing(V + 1, LogLinear()), joint=True)
    assert not first.time_conditioned
    assert second.clean_vocab_size == V
    names = torch.tensor([*used, unused])  # token of `outside` (mask last) → token of `inside`
    x_t = torch.tensor([[3, 3, 3], [0, 3, 2], [3, 1, 1], [2, 0, 1]])
    ours, other = first(names[x_t], 0.4).marginals(), second(x_t, 0.4).marginals()
    torch.testing.assert_close(ours[..., names], other, atol=1e-13, rtol=0)
    assert float(ours[..., unused].max()) == 0
    assert float(other[..., V].max()) == 0
    assert bool((second(x_t, 0.4).sample() < V).all())


def test_absorbing_does_not_depend_on_time_even_where_likelihoods_underflow() -> None:
    problem = EnumeratedJoint.random(V, L, 1.0, generator_for(1))
    denoiser = problem.denoiser(Absorbing(V + 1, Linear(sigma_max=2000.0)))
    x_t = torch.tensor([[3, 0, 3], [3, 3, 3], [1, 2, 0]])
    reference = denoiser(x_t, 0.3).marginals()
    for t in (0.0, 1e-9, 0.9, 1.0):
        assert torch.equal(denoiser(x_t, t).marginals(), reference)


@pytest.mark.parametrize("chain", [True, False])
def test_states_of_probability_zero_get_independent_positions(
    chain: bool, generator: torch.Generator
) -> None:
    problem = never_token_two(chain)
    process = Absorbing(V + 1, LogLinear())
    x_t = torch.tensor([[0, 0, 3], [2, 3, 3], [0, 3, 0], [3, 3, 3]])
    for joint in (False, True):
        law = problem.denoiser(process, joint=joint)(x_t, 0.5)
        ours = law.marginals()
        prior = torch.nn.functional.pad(problem.marginals(), (0, 1))
        hot = torch.eye(V + 1, dtype=torch.float64)
        torch.testing.assert_close(ours[0], torch.stack([hot[0], hot[0], prior[2]]))
        # Token 2 has marginal 0 as well: the likelihood alone decides.
        torch.testing.assert_close(ours[1], torch.stack([hot[2], prior[1], prior[2]]))
        torch.testing.assert_close(ours[2], torch.stack([hot[0], hot[1], hot[0]]))
        draws = law.sample(generator)
        assert draws[0, :2].tolist() == [0, 0]
        assert draws[1, 0] == 2
        assert bool((draws < V).all())
    log_p = problem.noised_log_prob(x_t, 0.5, process)
    assert log_p.isinf().tolist() == [True, True, False, False]
    ratios = problem.ratios(x_t, 0.5, process)
    assert bool(torch.isfinite(ratios).all())
    independent = process.ratios_from_posterior(ours[:2], x_t[:2], 0.5)
    torch.testing.assert_close(ratios[:2], independent, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(ratios.gather(-1, x_t[..., None])[..., 0], torch.ones(4, L).double())


def test_a_position_that_no_token_explains_says_nothing() -> None:
    # The prior never draws tokens 0 and 1 and at t = 0 nothing has been drawn: x_t = 2 is
    # impossible there for data that never holds a 2.
    process = ResetToPrior(torch.tensor([0.0, 0.0, 1.0]), LogLinear())
    problem = never_token_two(True)
    marginals = problem.denoiser(process)(torch.tensor([[2, 2, 2]]), 1.0).marginals()
    torch.testing.assert_close(marginals[0], problem.marginals(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (Uniform(V + 1, LogLinear()), "must agree"),
        (Absorbing(V + 2, LogLinear()), r"vocab_size=4"),
        (Absorbing(V + 1, LogLinear(), mask=0), r"vocab_size=4"),
        (Absorbing(V, LogLinear()), "is a token of the problem"),
    ],
)
def test_vocabularies_that_do_not_fit_are_refused(
    process: Absorbing | Uniform, message: str
) -> None:
    problems = [
        EnumeratedJoint.random(V, L, 1.0, generator_for(1)),
        MarkovChain.random(V, L, 1.0, generator_for(1)),
    ]
    for problem in problems:
        with pytest.raises(ValueError, match=message):
            problem.denoiser(process)
        with pytest.raises(ValueError, match=message):
            problem.ratios(torch.zeros(1, L, dtype=torch.int64), 0.5, process)


@pytest.mark.parametrize("absorbing", [True, False])
def test_exact_scores_through_recovery_give_the_exact_posterior(absorbing: bool) -> None:
    problem = MarkovChain.random(V, L, 0.7, generator_for(5))
    process = Absorbing(V + 1, LogLinear()) if absorbing else Uniform(V, LogLinear())
    x_t = process.corrupt(problem.sample(50, generator_for(6)), 0.0, 0.5, generator_for(7))
    scores = ScoreDenoiser(partial(problem.ratios, process=process), process)
    for t in (0.2, torch.linspace(0.1, 0.9, 50)):
        exact = problem.denoiser(process)(x_t, t).marginals()
        torch.testing.assert_close(scores(x_t, t).marginals(), exact, atol=1e-10, rtol=0)


def test_a_wrong_length_is_refused() -> None:
    problem = xor(3)
    with pytest.raises(ValueError, match="sequences of 3 tokens"):
        problem.denoiser(Uniform(2, LogLinear()))(torch.zeros(1, 4, dtype=torch.int64), 0.5)


def test_joint_denoiser_samples_the_data_law_in_one_step(generator: torch.Generator) -> None:
    problem = xor(4)
    process = Absorbing(3, LogLinear())
    x_t = process.prior_sample((2000, 4))
    even: Tensor = problem.denoiser(process, joint=True)(x_t, 1.0).sample(generator).sum(-1) % 2
    assert int(even.sum()) == 0
    product = problem.denoiser(process)(x_t, 1.0).sample(generator).sum(-1) % 2
    assert 0.4 < float(product.double().mean()) < 0.6
