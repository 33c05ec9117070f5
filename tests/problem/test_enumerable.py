"""EnumeratedJoint against tables written out in full, for every kind of process."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from fewjump.law.base import enumerate_states, ravel
from fewjump.problem import EnumeratedJoint, copy, ising, xor
from fewjump.process import Absorbing, FixedRate, Process, ResetToPrior, Uniform
from fewjump.schedule import LogLinear

TOLERANCE = 1e-10
V, L = 3, 3


def random_rate(size: int) -> Tensor:
    rate = torch.rand(size, size, generator=torch.Generator().manual_seed(8)).double() + 0.1
    rate.fill_diagonal_(0)
    return rate - torch.diag(rate.sum(-1))


PROCESSES: dict[str, Process] = {
    "uniform": Uniform(V, LogLinear()),
    "absorbing": Absorbing(V + 1, LogLinear()),
    "prior": ResetToPrior(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), LogLinear()),
    "fixed-rate": FixedRate(random_rate(V), LogLinear()),
}
process_cases = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


@pytest.fixture(scope="module")
def problem() -> EnumeratedJoint:
    return EnumeratedJoint.random(V, L, 1.5, torch.Generator().manual_seed(4))


def kron_kernel(process: Process, s: float, t: float, rows: int) -> Tensor:
    """Kernel of whole sequences, (rows^L, V^L), as an explicit product over positions."""
    one = process.kernel(s, t).dense()
    before, after = enumerate_states(rows, L), enumerate_states(process.vocab_size, L)
    whole = torch.ones(len(before), len(after), dtype=torch.float64)
    for i in range(L):
        whole = whole * one[before[:, i][:, None], after[:, i][None]]
    return whole


def all_states(problem: EnumeratedJoint, process: Process, t: float) -> tuple[Tensor, Tensor]:
    """Every x_t of positive probability and p(x₀|x_t) as rows (n, v^L)."""
    joint = problem.probs.reshape(-1, 1) * kron_kernel(process, 0.0, t, V)
    total = joint.sum(0)
    rows = (total > 0).nonzero()[:, 0]
    return enumerate_states(process.vocab_size, L)[rows], (joint[:, rows] / total[rows]).T


@process_cases
@pytest.mark.parametrize("t", [0.05, 0.6, 1.0])
def test_posteriors_match_explicit_bayes(
    problem: EnumeratedJoint, process: Process, t: float
) -> None:
    x_t, exact = all_states(problem, process, t)
    law = problem.posterior(x_t, t, process)
    tokens = enumerate_states(V, L)
    wide = law.enumerate().exp()
    assert wide.shape == (len(x_t), process.vocab_size**L)
    torch.testing.assert_close(
        wide[:, ravel(tokens, process.vocab_size)], exact, atol=TOLERANCE, rtol=0
    )
    torch.testing.assert_close(wide.sum(-1), torch.ones(len(x_t)).double(), atol=1e-12, rtol=0)
    hot = torch.nn.functional.one_hot(tokens, process.vocab_size).double()
    marginals = torch.einsum("ns,slv->nlv", exact, hot)
    for denoiser in (problem.denoiser(process), problem.denoiser(process, joint=True)):
        torch.testing.assert_close(denoiser(x_t, t).marginals(), marginals, atol=TOLERANCE, rtol=0)


@process_cases
def test_a_batch_of_times_is_each_time_alone(problem: EnumeratedJoint, process: Process) -> None:
    x_t, _ = all_states(problem, process, 0.5)
    x_t = x_t[:12]
    times = torch.linspace(0.1, 0.9, len(x_t), dtype=torch.float64)
    for joint in (False, True):
        denoiser = problem.denoiser(process, joint=joint)
        together = denoiser(x_t, times).marginals()
        alone = [denoiser(x_t[i : i + 1], float(s)).marginals() for i, s in enumerate(times)]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-13, rtol=0)
    scores = problem.ratios(x_t, times, process)
    each = [problem.ratios(x_t[i : i + 1], float(s), process) for i, s in enumerate(times)]
    torch.testing.assert_close(scores, torch.cat(each), atol=1e-12, rtol=1e-12)


@process_cases
@pytest.mark.parametrize("t", [0.1, 0.7])
def test_noised_law_and_ratios(problem: EnumeratedJoint, process: Process, t: float) -> None:
    law_t = problem.probs.reshape(1, -1) @ kron_kernel(process, 0.0, t, V)
    noised = problem.noised(process, t)
    torch.testing.assert_close(noised.flatten(), law_t[0], atol=1e-12, rtol=0)
    x_t, _ = all_states(problem, process, t)
    log_p = problem.noised_log_prob(x_t, t, process)
    torch.testing.assert_close(log_p.exp(), noised[tuple(x_t.T)], atol=1e-12, rtol=1e-10)
    exact = torch.empty(len(x_t), L, process.vocab_size, dtype=torch.float64)
    for n, i, y in itertools.product(range(len(x_t)), range(L), range(process.vocab_size)):
        moved = x_t[n].clone()
        moved[i] = y
        exact[n, i, y] = noised[tuple(moved)] / noised[tuple(x_t[n])]
    ours = problem.ratios(x_t, t, process)
    torch.testing.assert_close(ours, exact, atol=TOLERANCE, rtol=TOLERANCE)
    posterior = process.posterior_from_ratios(ours, x_t, t)
    marginals = problem.denoiser(process)(x_t, t).marginals()
    torch.testing.assert_close(posterior, marginals, atol=1e-9, rtol=0)


@process_cases
def test_joint_reverse_conditional(problem: EnumeratedJoint, process: Process) -> None:
    s, t = 0.3, 0.75
    x_t, exact = all_states(problem, process, t)
    law_s = problem.noised(process, s).flatten()
    between = kron_kernel(process, s, t, process.vocab_size)
    columns = law_s[:, None] * between[:, ravel(x_t, process.vocab_size)]
    reverse = (columns / columns.sum(0)).T
    law = problem.reverse_conditional(x_t, s, t, process)
    torch.testing.assert_close(law.enumerate().exp(), reverse, atol=TOLERANCE, rtol=0)
    # Markov decomposition: mixing p(x₀|x_s) over the reverse conditional gives p(x₀|x_t).
    possible = law_s > 0
    joint_s = problem.probs.reshape(-1, 1) * kron_kernel(process, 0.0, s, V)
    posterior_s = joint_s[:, possible] / law_s[possible]
    mixed = law.enumerate().exp()[:, possible] @ posterior_s.T
    torch.testing.assert_close(mixed, exact, atol=TOLERANCE, rtol=0)


@process_cases
def test_product_floor_is_the_average_total_correlation(
    problem: EnumeratedJoint, process: Process, generator: torch.Generator
) -> None:
    t = 0.6
    x_t, exact = all_states(problem, process, t)
    tokens = enumerate_states(V, L)
    marginals = problem.denoiser(process)(x_t, t).marginals()
    product = torch.ones_like(exact)
    for i in range(L):
        product = product * marginals[:, i][:, tokens[:, i]]
    kl = torch.xlogy(exact, exact).sum(-1) - torch.xlogy(exact, product).sum(-1)
    weight = problem.noised(process, t)[tuple(x_t.T)]
    floor = problem.product_floor(process, t)
    assert floor.value == pytest.approx(float(weight @ kl), abs=TOLERANCE)
    assert floor.low == floor.value == floor.high
    law = problem.posterior(x_t, t, process)
    torch.testing.assert_close(law.total_correlation(), kl, atol=TOLERANCE, rtol=0)
    entropy = -torch.xlogy(exact, exact).sum(-1)
    torch.testing.assert_close(law.entropy(), entropy, atol=TOLERANCE, rtol=0)
    # The estimate every other problem uses agrees with the closed form.
    estimate = super(EnumeratedJoint, problem).product_floor(process, t, 4000, generator)
    spread = 2 * (estimate.high - estimate.low)
    assert abs(estimate.value - floor.value) < spread


def test_floor_at_pure_noise_is_the_total_correlation_of_the_data(
    problem: EnumeratedJoint,
) -> None:
    process = Absorbing(V + 1, LogLinear(eps=1e-12))
    assert problem.product_floor(process, 1.0).value == pytest.approx(
        problem.one_step_floor(), abs=1e-9
    )


def test_sampling_and_log_prob(generator: torch.Generator) -> None:
    chisquare = pytest.importorskip("scipy.stats").chisquare

    problem = EnumeratedJoint.random(3, 3, 1.0, generator)
    draws = problem.sample(60_000, generator)
    counts = torch.bincount(ravel(draws, 3), minlength=27)
    expected = problem.probs.flatten() * len(draws)
    assert float(chisquare(counts.numpy(), expected.numpy()).pvalue) > 1e-3
    states = enumerate_states(3, 3)
    torch.testing.assert_close(problem.log_prob(states).exp(), problem.probs.flatten())
    assert problem.entropy() == pytest.approx(
        -float((problem.log_prob(states).exp() * problem.log_prob(states)).sum()), abs=1e-12
    )


def test_examples_have_their_known_correlations() -> None:
    assert xor(5).one_step_floor() == pytest.approx(math.log(2), abs=1e-12)
    assert copy(5, 3).one_step_floor() == pytest.approx(2 * math.log(5), abs=1e-12)
    weights = [math.exp(0.7 * (2 * a - 1) * (2 * b - 1)) for a in (0, 1) for b in (0, 1)]
    two = torch.tensor(weights, dtype=torch.float64).reshape(2, 2)
    torch.testing.assert_close(ising(1, 2, 0.7).probs, two / two.sum())
    square = ising(2, 2, 0.3)
    aligned, opposed = square.probs[1, 1, 1, 1], square.probs[0, 1, 1, 0]
    assert float((aligned / opposed).log()) == pytest.approx(8 * 0.3, abs=1e-12)


def test_a_grid_of_65536_states_is_fast_and_right(generator: torch.Generator) -> None:
    problem = ising(4, 4, 0.4)
    process = Uniform(2, LogLinear())
    x_t = process.corrupt(problem.sample(256, generator), 0.0, 0.5, generator)
    law = problem.posterior(x_t, 0.5, process)
    keep = process.kernel(0.0, 0.5).dense()
    states = enumerate_states(2, 16)
    for row in (0, 101):
        weights = problem.probs.flatten() * keep[states, x_t[row]].prod(-1)
        weights /= weights.sum()
        exact = torch.stack([weights[states[:, i] == 1].sum() for i in range(16)])
        torch.testing.assert_close(law.marginals()[row, :, 1], exact, atol=1e-12, rtol=0)
    assert law.sample(generator).shape == (256, 16)
    assert 0 < problem.product_floor(process, 0.5).value < problem.one_step_floor()


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (torch.ones(2, 3) / 6, "same size"),
        (torch.ones(2, 2), "must be non-negative with sums of 1"),
        (torch.tensor([1.5, -0.5]), "non-negative"),
        (torch.zeros((2,) * 20), "too many"),
    ],
)
def test_bad_tables_are_refused(probs: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnumeratedJoint(probs)


def test_bad_tokens_and_times_are_refused(problem: EnumeratedJoint) -> None:
    with pytest.raises(ValueError, match=r"tokens must lie in 0\.\.2"):
        problem.log_prob(torch.full((1, L), V))
    with pytest.raises(ValueError, match="expected"):
        problem.log_prob(torch.zeros(1, L + 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="scalar time"):
        problem.noised(PROCESSES["uniform"], torch.tensor([0.1, 0.2]))


def test_reverse_conditional_of_an_impossible_state_is_a_product() -> None:
    problem, process = xor(3), Absorbing(3, LogLinear())
    s, t = 0.2, 0.6
    odd = torch.tensor([[1, 0, 0], [1, 2, 0]])
    law = problem.reverse_conditional(odd, s, t, process)
    assert law.log_evidence.isinf().tolist() == [True, False]
    torch.testing.assert_close(law.marginals()[0], torch.eye(3).double()[odd[0]])
    # A masked position stays so at rate 1−α_s over 1−α_t; otherwise parity decides it.
    stay = float(process.schedule.one_minus_alpha(s) / process.schedule.one_minus_alpha(t))
    expected = torch.tensor([0.0, 1 - stay, stay], dtype=torch.float64)
    torch.testing.assert_close(law.marginals()[1, 1], expected, atol=1e-12, rtol=0)
