"""Markov and hidden Markov chains against the enumerated joints they define."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from fewjump.law.base import enumerate_states, ravel
from fewjump.problem import (
    EnumeratedJoint,
    HiddenMarkovChain,
    MarkovChain,
    reference_hidden_markov_chain,
    reference_markov_chain,
)
from fewjump.problem.chain import ChainProblem
from fewjump.process import Absorbing, FixedRate, Process, ResetToPrior, Uniform
from fewjump.random import generator_for
from fewjump.schedule import LogLinear

V, L, S = 3, 4, 5
TOLERANCE = 1e-10


def dense(chain: ChainProblem) -> EnumeratedJoint:
    """The chain as a table, by multiplying out the definition (states summed last)."""
    emission = torch.eye(len(chain.initial)).double() if chain.emission is None else chain.emission
    table = chain.initial[:, None] * emission
    joint = table.T[..., None] * torch.eye(len(chain.initial)).double()[None]
    # joint[x, z', z] keeps only z' = z: one axis per token, then the current state.
    joint = joint.sum(1)
    for _ in range(chain.length - 1):
        joint = torch.einsum("...z,zw,wx->...xw", joint, chain.transition, emission)
    return EnumeratedJoint(joint.sum(-1))


def with_zeros() -> MarkovChain:
    initial = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    transition = torch.tensor([[0.0, 0.7, 0.3], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    return MarkovChain(initial, transition.double(), L)


CHAINS: dict[str, ChainProblem] = {
    "stationary": MarkovChain.random(V, L, 0.5, generator_for(1)),
    "started": MarkovChain.random(V, L, 0.5, generator_for(2), stationary=False),
    "zeros": with_zeros(),
    "hidden": HiddenMarkovChain.random(S, V, L, 0.5, generator_for(3)),
    "hidden-started": HiddenMarkovChain.random(2, V, L, 0.5, generator_for(4), stationary=False),
}


def fixed_rate() -> FixedRate:
    rate = torch.tensor([[-1.0, 0.9, 0.1], [0.2, -0.5, 0.3], [0.6, 0.4, -1.0]])
    return FixedRate(rate.double(), LogLinear())


PROCESSES: dict[str, Process] = {
    "uniform": Uniform(V, LogLinear()),
    "absorbing": Absorbing(V + 1, LogLinear()),
    "prior": ResetToPrior(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), LogLinear()),
    "fixed-rate": fixed_rate(),
}
chain_cases = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
process_cases = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


@chain_cases
def test_the_law_of_the_data(chain: ChainProblem, generator: torch.Generator) -> None:
    table = dense(chain)
    states = enumerate_states(V, L)
    torch.testing.assert_close(
        chain.log_prob(states).exp(), table.probs.flatten(), atol=1e-13, rtol=0
    )
    torch.testing.assert_close(chain.marginals(), table.marginals(), atol=1e-13, rtol=0)
    assert chain.entropy() == pytest.approx(table.entropy(), abs=TOLERANCE)
    assert chain.one_step_floor() == pytest.approx(table.one_step_floor(), abs=TOLERANCE)
    pairs = torch.zeros(V, V, dtype=torch.float64)
    for i in range(L - 1):
        others = [axis for axis in range(L) if axis not in (i, i + 1)]
        pairs += table.probs.sum(others) / (L - 1)
    torch.testing.assert_close(chain.bigram_law(), pairs, atol=1e-13, rtol=0)
    chisquare = pytest.importorskip("scipy.stats").chisquare
    counts = torch.bincount(ravel(chain.sample(40_000, generator), V), minlength=V**L)
    expected = table.probs.flatten() * 40_000
    possible = expected > 0
    assert int(counts[~possible].sum()) == 0
    assert float(chisquare(counts[possible].numpy(), expected[possible].numpy()).pvalue) > 1e-3


@chain_cases
@process_cases
@pytest.mark.parametrize("t", [0.02, 0.5, 1.0])
def test_posteriors_and_ratios(chain: ChainProblem, process: Process, t: float) -> None:
    table = dense(chain)
    states = enumerate_states(process.vocab_size, L)
    states = states[table.noised(process, t)[tuple(states.T)] > 1e-200]
    for joint in (False, True):
        ours = chain.denoiser(process, joint=joint)(states, t)
        truth = table.denoiser(process, joint=joint)(states, t)
        torch.testing.assert_close(ours.marginals(), truth.marginals(), atol=TOLERANCE, rtol=0)
    # `ours` and `truth` are joint laws here.
    few = states[:: max(1, len(states) // 40)]
    ours = chain.denoiser(process, joint=True)(few, t)
    truth = table.denoiser(process, joint=True)(few, t)
    torch.testing.assert_close(
        ours.enumerate().exp(), truth.enumerate().exp(), atol=TOLERANCE, rtol=0
    )
    torch.testing.assert_close(
        chain.noised_log_prob(states, t, process),
        table.noised_log_prob(states, t, process),
        atol=1e-10,
        rtol=1e-12,
    )
    torch.testing.assert_close(
        chain.ratios(states, t, process),
        table.ratios(states, t, process),
        atol=TOLERANCE,
        rtol=TOLERANCE,
    )


@chain_cases
def test_product_floor_estimate(chain: ChainProblem, generator: torch.Generator) -> None:
    process = PROCESSES["uniform"]
    exact = dense(chain).product_floor(process, 0.5).value
    estimate = chain.product_floor(process, 0.5, 1000, generator)
    assert abs(estimate.value - exact) < estimate.high - estimate.low + 1e-12


def test_total_correlation_of_a_stationary_chain_is_l_minus_one_informations() -> None:
    chain = CHAINS["stationary"]
    assert isinstance(chain, MarkovChain)
    joint = chain.initial[:, None] * chain.transition
    product = chain.initial[:, None] * chain.initial
    information = float((joint * (joint / product).log()).sum())
    assert chain.one_step_floor() == pytest.approx((L - 1) * information, abs=1e-12)
    assert dense(chain).one_step_floor() == pytest.approx((L - 1) * information, abs=1e-10)
    # As t → 1 with nothing kept, the law given x_t is the data's and so is its correlation.
    process = Absorbing(V + 1, LogLinear())
    masked = torch.full((1, L), V)
    law = chain.denoiser(process, joint=True)(masked, 1.0)
    correlation = law.total_correlation()  # type: ignore[attr-defined]
    assert float(correlation) == pytest.approx((L - 1) * information, abs=1e-12)


def test_entropy_rates() -> None:
    chain = MarkovChain.random(V, 40, 0.5, generator_for(1))
    longer = MarkovChain(chain.initial, chain.transition, 41)
    assert chain.entropy_rate() == pytest.approx(longer.entropy() - chain.entropy(), abs=1e-12)
    # A hidden chain whose emission reveals the state has the Markov chain's rate.
    revealed = HiddenMarkovChain(chain.initial, chain.transition, torch.eye(V), 40)
    estimate = revealed.entropy_rate(chains=64, tokens=400, burn_in=10)
    assert estimate.low - 0.02 < chain.entropy_rate() < estimate.high + 0.02
    assert 0 < estimate.high - estimate.low < 0.05
    # H(x^L | x^{<L}) falls towards the rate of a hidden chain.
    hidden = HiddenMarkovChain.random(4, V, 11, 0.4, generator_for(5))
    shorter = HiddenMarkovChain(hidden.initial, hidden.transition, hidden.emission, 10)
    bound = hidden.entropy() - shorter.entropy()
    rate = hidden.entropy_rate(chains=64, tokens=1500, burn_in=50)
    assert rate.value == pytest.approx(bound, abs=3 * (rate.high - rate.low) + 1e-3)


def test_entropy_estimate_of_a_long_hidden_chain() -> None:
    chain = MarkovChain.random(V, 30, 0.5, generator_for(1))
    revealed = HiddenMarkovChain(chain.initial, chain.transition, torch.eye(V), 30)
    estimate = revealed.estimate_entropy(20_000, generator_for(6))
    assert abs(estimate.value - chain.entropy()) < estimate.high - estimate.low
    # The number without an interval is the same at every call.
    assert revealed.entropy() == pytest.approx(revealed.entropy(), rel=1e-12)


def test_the_reference_chain_has_the_published_curve() -> None:
    chain = reference_markov_chain()
    assert chain.entropy_rate() == pytest.approx(1.094, abs=5e-4)
    independent = chain.initial[:, None] * chain.initial
    one_step = 0.5 * float((independent - chain.bigram_law()).abs().sum())
    assert one_step == pytest.approx(0.43, abs=0.005)
    floor = chain.bigram_tv_floor(16_384, 4, generator_for(7))
    assert floor.value == pytest.approx(0.003, abs=7e-4)


def test_bigram_tv_of_the_exact_teacher_in_four_steps() -> None:
    chain = reference_markov_chain()
    process = Uniform(8, LogLinear())
    denoiser = chain.denoiser(process)
    generator = generator_for(8)
    x = process.prior_sample((4096, 32), generator)
    for t, s in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25)):
        x = process.bridge(x, denoiser(x, t).sample(generator), s, t, generator)
    x = denoiser(x, 0.25).sample(generator)
    assert chain.bigram_tv(x) == pytest.approx(0.13, abs=0.01)


def test_reference_hidden_chain() -> None:
    chain = reference_hidden_markov_chain()
    assert (chain.vocab_size, chain.length, len(chain.initial)) == (8, 32, 16)
    rate = chain.entropy_rate(tokens=300)
    assert rate.low < 1.365
    assert rate.high > 1.345


@pytest.mark.parametrize("make", [reference_markov_chain, None], ids=["markov", "hidden"])
def test_long_sequences_are_finite_and_fast(make: object, generator: torch.Generator) -> None:
    chain = reference_markov_chain(512) if make is not None else reference_hidden_markov_chain(512)
    process = Uniform(8, LogLinear())
    t = torch.linspace(1e-4, 1, 64, dtype=torch.float64)
    x_t = process.corrupt(chain.sample(64, generator), 0.0, t, generator)
    start = time.perf_counter()
    law = chain.denoiser(process, joint=True)(x_t, t)
    marginals = law.marginals()
    draws = law.sample(generator)
    log_prob = law.log_prob(draws)
    assert time.perf_counter() - start < 10
    assert bool(torch.isfinite(log_prob).all())
    torch.testing.assert_close(marginals.sum(-1), torch.ones(64, 512).double(), atol=1e-12, rtol=0)
    # −log p of 64 exact draws averages to the exact entropy of the posterior.
    if make is not None:
        difference = -log_prob - law.entropy()  # type: ignore[attr-defined]
        assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(64)


def test_random_rows_follow_their_concentration() -> None:
    sharp = MarkovChain.random(6, 4, 0.1, generator_for(1)).entropy_rate()
    flat = MarkovChain.random(6, 4, 10.0, generator_for(1)).entropy_rate()
    assert sharp < 0.5 < 1.7 < flat < math.log(6)
    first, again = (MarkovChain.random(6, 4, 1.0, generator_for(1)) for _ in range(2))
    torch.testing.assert_close(first.transition, again.transition, atol=1e-15, rtol=0)


def two_worlds() -> Tensor:
    return torch.block_diag(torch.full((2, 2), 0.5), torch.full((1, 1), 1.0)).double()


def test_bad_chains_are_refused() -> None:
    third = torch.full((3,), 1 / 3)
    with pytest.raises(ValueError, match="transition must be non-negative"):
        MarkovChain(third, torch.ones(3, 3), 4)
    with pytest.raises(ValueError, match=r"initial must be \(S,\)"):
        MarkovChain(third, torch.full((2, 2), 0.5), 4)
    with pytest.raises(ValueError, match="emission must be"):
        HiddenMarkovChain(third, torch.eye(3), torch.eye(2), 4)
    with pytest.raises(ValueError, match="length"):
        MarkovChain(third, torch.eye(3), 0)
    with pytest.raises(ValueError, match="several stationary laws"):
        MarkovChain(third, two_worlds(), 4).entropy_rate()
    with pytest.raises(ValueError, match="no bigrams"):
        MarkovChain(third, torch.eye(3), 1).bigram_law()
    with pytest.raises(ValueError, match="concentration"):
        MarkovChain.random(3, 4, 0.0)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("n", range(1, L + 1))
def test_runs_of_tokens_have_the_law_of_the_enumerated_joint(name: str, n: int) -> None:
    chain = CHAINS[name]
    table = dense(chain).probs
    expected = torch.zeros((V,) * n, dtype=torch.float64)
    for start in range(L - n + 1):
        others = [axis for axis in range(L) if not start <= axis < start + n]
        expected += (table.sum(others) if others else table) / (L - n + 1)
    for problem in (chain, dense(chain)):
        found = problem.ngram_law(n).reshape(expected.shape)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_runs_that_have_no_table_are_refused() -> None:
    chain = MarkovChain.random(200, 4, generator=generator_for(1))
    for n in (0, 3, 5):
        with pytest.raises(ValueError, match=f"runs of {n} of 4 tokens"):
            chain.ngram_law(n)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_says_whether_all_is_possible(name: str) -> None:
    assert CHAINS[name].all_possible() == bool((dense(CHAINS[name]).probs > 0).all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_tokens_of_narrow_types_have_the_same_probability(dtype: torch.dtype) -> None:
    """Of torch's index types uint8 is a mask where a table has as many rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor([[1, 1, 2], [1, 1, 1], [2, 3, 1], [3, 3, 3]])
    for problem in (
        MarkovChain.random(4, 3, generator=generator),
        HiddenMarkovChain.random(4, 4, 3, generator=generator),
    ):
        assert torch.equal(problem.log_prob(x.to(dtype)), problem.log_prob(x))
        law, t = problem.denoiser(Uniform(4, LogLinear())), 0.5
        assert torch.equal(law(x.to(dtype), t).marginals(), law(x, t).marginals())
        for wrong in (x.double(), x.bool()):
            with pytest.raises(ValueError, match="give integers"):
                problem.log_prob(wrong)
            with pytest.raises(ValueError, match="x_t must hold token numbers"):
                law(wrong, t)
