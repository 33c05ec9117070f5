"""Properties that every process must satisfy, each against brute force where there is one.

The truth comes from the generator and the schedule alone: joint kernels are Kronecker products of
matrix exponentials, posteriors are Bayes' rule over all V^L sequences.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewjump.process import DenseKernel, FixedRate, Process, ResetToPrior, Uniform
from fewjump.schedule import Cosine, Geometric, Linear, LogLinear
from laws.registry import PROCESSES, Registry, random_rate
from laws.time_ordered import time_ordered

V, L = 4, 3
S, T = 0.3, 0.6
TIGHT = 1e-10
EVERY = pytest.mark.parametrize("make", PROCESSES.params())
pytestmark = pytest.mark.filterwarnings("ignore:at t = 1 the slowest mode:UserWarning")


def exponential(matrix):
    """exp of a (V, V) matrix: 30 terms of the series at 1/2^k of it, squared k times.

    Not ``torch.linalg.matrix_exp``, whose error reaches 7e-12 on small generators.
    """
    halvings = max(0, math.ceil(math.log2(max(float(matrix.abs().sum(-1).max()), 1e-300)))) + 1
    term = total = torch.eye(len(matrix), dtype=torch.float64)
    for n in range(1, 31):
        term = term @ matrix / (n * 2**halvings)
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total


def moves(process):
    """Whether the generator is more than one matrix times a rate."""
    return type(process).base_rate is Process.base_rate


def truth(process, s, t):
    """P_{t|s} as the exponential of the generator, time-ordered if it changes: (V, V)."""
    if moves(process):
        return time_ordered(process, s, t)
    return exponential(process.schedule.between(s, t) * process.base_rate())


def joint_kernel(process, s, t):
    """P_{t|s} over whole sequences, (V^L, V^L), the last position varying fastest."""
    one = truth(process, s, t)
    return torch.kron(torch.kron(one, one), one)


def all_states():
    grid = torch.cartesian_prod(*[torch.arange(V)] * L)
    return grid.reshape(-1, L)


def random_joint(seed=0):
    source = torch.Generator().manual_seed(seed)
    weights = torch.rand(V**L, generator=source, dtype=torch.float64) ** 3 + 1e-3
    return weights / weights.sum()


def by_position(table):
    """Rows (N, V^L) of joint probabilities → per-position marginals (N, L, V)."""
    table = table.reshape(-1, V, V, V)
    return torch.stack([table.sum((2, 3)), table.sum((1, 3)), table.sum((1, 2))], 1)


class Brute:
    """Everything about p(x₀)·P_{s|0}·P_{t|s} on V^L states."""

    def __init__(self, process, s=S, t=T):
        self.states = all_states()
        data = random_joint()
        self.p_s, self.p_t = (data @ joint_kernel(process, 0.0, u) for u in (s, t))
        to_s, to_t = joint_kernel(process, 0.0, s), joint_kernel(process, 0.0, t)
        # Rows are x_t (or x_s), columns x₀ (or x_s).
        self.clean_given_t = (data[:, None] * to_t / self.p_t).mT
        self.clean_given_s = (data[:, None] * to_s / self.p_s).mT
        self.s_given_t = (self.p_s[:, None] * joint_kernel(process, s, t) / self.p_t).mT

    def ratios(self):
        """p_t(x with xⁱ→y)/p_t(x): (V^L, L, V)."""
        out = torch.empty(V**L, L, V, dtype=torch.float64)
        for i in range(L):
            for y in range(V):
                moved = self.states.clone()
                moved[:, i] = y
                index = (moved * torch.tensor([V * V, V, 1])).sum(-1)
                out[:, i, y] = self.p_t[index] / self.p_t
        return out


def close(a, b, tolerance=TIGHT):
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= tolerance


# -- the registry -------------------------------------------------------------------------------


def test_every_process_is_registered():
    assert PROCESSES.missing() == set()


def test_an_unregistered_subclass_is_noticed():
    base = type("Base", (), {"__module__": "fewjump.process.base"})
    child = type("Child", (base,), {"__module__": "fewjump.process.base"})
    grandchild = type("Grandchild", (child,), {"__module__": "fewjump.process.fixed_rate"})
    type("Stranger", (base,), {"__module__": "somewhere.else"})
    registry = Registry(base, "fewjump.process")
    assert registry.missing() == {child, grandchild}
    registry.add(child, child)
    assert registry.missing() == {grandchild}


# -- the forward chain --------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("schedule", [LogLinear(), Geometric(), Cosine(), Linear(5.0)])
def test_kernel_is_the_exponential_of_the_generator(make, schedule):
    process = make(schedule)
    for s, t in ((0.0, 0.0), (0.0, 1e-4), (0.0, 0.5), (0.2, 0.9), (0.0, 1.0), (0.7, 0.7)):
        kernel = process.kernel(s, t).dense()
        assert kernel.dtype == torch.float64
        assert bool((kernel >= 0).all())
        close(kernel.sum(-1), torch.ones(V, dtype=torch.float64), 1e-14)
        jump = s == 0 < t and float(schedule.sigma_bar(0.0)) > 0 and moves(process)
        close(kernel, truth(process, s, t), 1e-11 if jump else 1e-13)
    assert torch.equal(process.kernel(0.4, 0.4).dense(), torch.eye(V, dtype=torch.float64))


@EVERY
@pytest.mark.parametrize("schedule", [LogLinear(), Geometric(), Cosine(), Linear(5.0)])
def test_kernels_compose(make, schedule):
    process = make(schedule)

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted))
    def check(times):
        s, t, u = times
        close(
            process.kernel(s, t).dense() @ process.kernel(t, u).dense(),
            process.kernel(s, u).dense(),
            1e-13,
        )

    check()


@EVERY
@pytest.mark.parametrize("schedule", [LogLinear(), Geometric(), Cosine(), Linear(5.0)])
def test_kolmogorov_equations(make, schedule):
    process, h = make(schedule), 1e-4
    stencil = ((-2, 1), (-1, -8), (1, 8), (2, -1))
    for s, t in ((0.2, 0.6), (0.4, 0.8)):
        forward = sum(c * process.kernel(s, t + k * h).dense() for k, c in stencil) / (12 * h)
        backward = sum(c * process.kernel(s + k * h, t).dense() for k, c in stencil) / (12 * h)
        close(forward, process.kernel(s, t).dense() @ process.rate(t), 1e-9)
        close(backward, -process.rate(s) @ process.kernel(s, t).dense(), 1e-9)


@EVERY
def test_generator_and_limit_law(make):
    process = make(LogLinear())
    prior = process.prior()
    close(prior.sum(), torch.tensor(1.0, dtype=torch.float64), 1e-14)
    # Noising to the end leaves it as it is, whether or not the generators commute.
    close(prior @ truth(process, 0.0, 1.0), prior, 1e-12)
    rate = process.rate(0.7) / process.schedule.sigma(0.7)
    close(rate.sum(-1), torch.zeros(V, dtype=torch.float64), 1e-14)
    assert bool((rate - torch.diag(rate.diagonal()) >= 0).all())
    if moves(process):
        with pytest.raises(ValueError, match=r"use rate\(t\)"):
            process.base_rate()
        return
    rate = process.base_rate()
    close(prior @ rate, torch.zeros(V, dtype=torch.float64), 1e-14)
    close(exponential(200 * rate), prior.expand(V, V), 1e-12)
    times = torch.tensor([0.2, 0.7], dtype=torch.float64)
    close(process.rate(times)[1], process.schedule.sigma(0.7) * rate, 1e-14)


@EVERY
def test_batched_times_are_one_call_for_each(make):
    process = make(LogLinear())
    x_t = torch.tensor([[0, 1, 2], [3, 1, 0], [2, 2, 1], [0, 3, 3]])
    s = torch.tensor([0.0, 0.1, 0.5, 0.2], dtype=torch.float64)
    t = torch.tensor([0.2, 0.7, 0.5, 0.6], dtype=torch.float64)
    likelihood = torch.stack([process.likelihood(x, v) for x, v in zip(x_t, t.tolist())])
    posterior = random_posterior(likelihood)
    x0 = posterior.argmax(-1)
    ratios = process.ratios_from_posterior(posterior, x_t, t)
    for call in (
        lambda i, x, s, t: process.kernel(s, t).dense(),
        lambda i, x, s, t: process.likelihood(x, t),
        lambda i, x, s, t: process.reverse_marginals(posterior[i], x, s, t),
        lambda i, x, s, t: process.bridge_marginals(x, x0[i], s, t),
        lambda i, x, s, t: process.ratios_from_posterior(posterior[i], x, t),
        lambda i, x, s, t: process.reverse_rates(ratios[i], x, t),
        lambda i, x, s, t: process.weights_from_ratios(ratios[i], t),
        lambda i, x, s, t: process.posterior_from_ratios(ratios[i], x, t),
        lambda i, x, s, t: process.posterior_from_ratios(ratios[i], x, t, "multiplicative"),
        lambda i, x, s, t: process.condition_number(t),
    ):
        whole = call(slice(None), x_t, s, t)
        single = torch.stack([call(i, x_t[i], float(s[i]), float(t[i])) for i in range(4)])
        torch.testing.assert_close(whole, single, rtol=1e-9, atol=1e-12)
    # A state of one position for each time, and one with a further axis.
    close(process.likelihood(x_t[:, 0], t), likelihood[:, 0], 1e-14)
    close(process.likelihood(x_t[:, None], t), likelihood[:, None], 1e-14)


# -- draws --------------------------------------------------------------------------------------


def chi_square_p(counts, law):
    """Upper tail probability of Pearson's statistic over rows of counts (N, V)."""
    expected = counts.sum(-1, keepdim=True) * law
    assert bool((counts[law < 1e-12] == 0).all()), "a draw of probability zero"
    kept = law >= 1e-12
    statistic = ((counts - expected) ** 2 / expected.clamp(min=1e-300))[kept].sum()
    freedom = int(kept.sum()) - counts.shape[0]
    if freedom == 0:
        return 1.0
    return float(torch.special.gammaincc(torch.tensor(freedom / 2.0).double(), statistic / 2))


def count(draws):
    """Draws (N, n) → counts (N, V)."""
    return torch.stack([torch.bincount(row, minlength=V) for row in draws]).double()


def test_chi_square_notices_a_small_error(generator):
    law = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    draws = torch.multinomial(law, 40_000, replacement=True, generator=generator)
    assert chi_square_p(count(draws), law) > 1e-3
    assert chi_square_p(count(draws), law + torch.tensor([0.01, -0.01, 0.0, 0.0])) < 1e-4


@EVERY
@pytest.mark.parametrize("batched", [False, True])
def test_corruption_follows_the_kernel(make, batched, generator):
    process, n = make(LogLinear()), 20_000
    x = torch.arange(V)[:, None].expand(V, n) if not batched else torch.arange(V).repeat(n)
    for s, t in ((0.0, 0.5), (0.3, 0.8), (0.0, 1.0)):
        if batched:  # more elements than positions: times that differ within the batch
            times = torch.tensor([t, 0.9]).double().repeat_interleave(V).repeat(n)[: V * n]
            draws = process.corrupt(x, torch.zeros_like(times) + s, times, generator)
            keep = times == t
            draws = torch.stack([draws[keep & (x == a)] for a in range(V)])
        else:
            draws = process.corrupt(x, s, t, generator)
        assert chi_square_p(count(draws), truth(process, s, t).clamp(min=0)) > 1e-4
    assert torch.equal(process.corrupt(x, 0.4, 0.4, generator), x)
    assert torch.equal(process.corrupt(x, 0.0, 0.0, generator), x)


@EVERY
def test_draws_from_the_limit_law(make, generator):
    process = make(LogLinear())
    draws = process.prior_sample((4, 5000), generator)
    assert draws.shape == (4, 5000)
    assert chi_square_p(count(draws.reshape(1, -1)), process.prior()[None]) > 1e-4


@EVERY
@pytest.mark.parametrize(("s", "t"), [(0.2, 0.5), (0.0, 0.5), (0.5, 0.5), (0.05, 1.0)])
def test_bridge_follows_its_marginals(make, s, t, generator):
    process, n = make(LogLinear()), 8000
    # Pairs that can occur: the bridge of an impossible pair has no law.
    x0, x_t = (truth(process, 0.0, t) > 1e-12).nonzero().unbind(1)
    if s == t:
        close(process.bridge_marginals(x_t, x0, s, t), torch.eye(V, dtype=torch.float64)[x_t])
    # Bayes' rule from the exponentials alone.
    law = truth(process, 0.0, s)[x0] * truth(process, s, t).mT[x_t]
    law = law / law.sum(-1, keepdim=True)
    close(process.bridge_marginals(x_t, x0, s, t), law, 1e-12)
    draws = process.bridge(x_t[:, None].expand(-1, n), x0[:, None].expand(-1, n), s, t, generator)
    assert chi_square_p(count(draws), law) > 1e-4
    if s == 0:
        assert torch.equal(draws, x0[:, None].expand(-1, n))


@EVERY
@pytest.mark.parametrize(("s", "t"), [(S, T), (0.0, T), (T, T)])
def test_the_flow_keeps_the_law_given_the_data_and_moves_least(make, s, t, generator):
    process, n = make(LogLinear()), 8000
    at_t, at_s = truth(process, 0.0, t), truth(process, 0.0, s)
    x0, x_t = (at_t > 1e-12).nonzero().unbind(1)
    law = process.flow_marginals(x_t, x0, s, t)
    after = torch.zeros(V, V, dtype=torch.float64)
    close(after.index_add(0, x0, at_t[x0, x_t, None] * law), at_s, 1e-12)
    # No step between two laws lets more tokens stay than the smaller of their probabilities.
    stayed = law.gather(-1, x_t[:, None])[:, 0]
    close(stayed * at_t[x0, x_t], torch.minimum(at_t, at_s)[x0, x_t], 1e-12)
    draws = process.flow_step(
        x_t[:, None].expand(-1, n), x0[:, None].expand(-1, n), s, t, generator
    )
    assert chi_square_p(count(draws), law) > 1e-4


# -- the backward chain against brute force -----------------------------------------------------


@EVERY
def test_markov_decomposition(make):
    process = make(LogLinear())
    brute = Brute(process)
    # p(x_s|x_t) from the library: the bridge of a whole sequence, mixed over the exact posterior.
    pairs = process.bridge_marginals(
        brute.states[:, None, :].expand(-1, V**L, -1), brute.states.expand(V**L, -1, -1), S, T
    )
    joint = pairs[:, :, 0, :, None, None] * pairs[:, :, 1, None, :, None]
    joint = (joint * pairs[:, :, 2, None, None, :]).reshape(V**L, V**L, V**L)
    s_given_t = (brute.clean_given_t[:, :, None] * joint).sum(1)
    close(s_given_t, brute.s_given_t)
    close(s_given_t @ brute.clean_given_s, brute.clean_given_t)


@EVERY
@pytest.mark.parametrize(("s", "t"), [(S, T), (0.0, T), (T, T), (1e-4, 0.2), (0.2, 0.2001)])
def test_reverse_marginals(make, s, t):
    process = make(LogLinear())
    brute = Brute(process, s, t)
    posterior = by_position(brute.clean_given_t)
    reverse = process.reverse_marginals(posterior, brute.states, s, t)
    close(reverse, by_position(brute.s_given_t))
    close(reverse.sum(-1), torch.ones(V**L, L, dtype=torch.float64), 1e-12)
    if s == 0:
        close(reverse, posterior, 1e-12)


@EVERY
def test_ratios_from_the_posterior(make):
    process = make(LogLinear())
    brute = Brute(process)
    ratios = process.ratios_from_posterior(by_position(brute.clean_given_t), brute.states, T)
    # At a visible token the posterior does not determine the ratios (see the docstring).
    known = (process.likelihood(brute.states, T) > 0).all(-1)
    assert bool(known.any())
    close(ratios[known], brute.ratios()[known])


@EVERY
@pytest.mark.parametrize("method", ["exact", "clip", "project"])
def test_recovery_of_the_posterior(make, method):
    process = make(LogLinear())
    brute = Brute(process)
    assert float(process.condition_number(T)) < 1e5
    found = process.recover(brute.ratios(), brute.states, T, method)
    close(found.posterior, by_position(brute.clean_given_t))
    assert float(found.clipped_mass.max()) < TIGHT


@EVERY
def test_multiplicative_recovery_fits_the_ratios(make):
    process = make(LogLinear())
    brute = Brute(process, 0.1, 0.3)
    posterior = process.posterior_from_ratios(brute.ratios(), brute.states, 0.3, "multiplicative")
    close(posterior, by_position(brute.clean_given_t), 2e-3)


@EVERY
def test_posterior_survives_the_round_trip(make):
    process = make(LogLinear())
    x_t = all_states()
    for t in (0.05, 0.5, 0.7):
        posterior = random_posterior(process.likelihood(x_t, t))
        ratios = process.ratios_from_posterior(posterior, x_t, t)
        close(ratios.gather(-1, x_t[..., None]), torch.ones(V**L, L, 1, dtype=torch.float64))
        close(process.posterior_from_ratios(ratios, x_t, t), posterior)


@EVERY
def test_reverse_rates_are_the_limit_of_reverse_steps(make):
    process, h = make(LogLinear()), 1e-4  # truncation error O(h⁴)
    brute = Brute(process)
    posterior = by_position(brute.clean_given_t)
    ratios = brute.ratios()
    rates = process.reverse_rates(ratios, brute.states, T)
    weights = (-25 / 12, 4, -3, 4 / 3, -1 / 4)
    slope = sum(
        c * process.reverse_marginals(posterior, brute.states, T - k * h, T)
        for k, c in enumerate(weights)
    )
    close(slope / h, rates, 1e-8)
    close(rates.sum(-1), torch.zeros(V**L, L, dtype=torch.float64), 1e-12)


@EVERY
@pytest.mark.parametrize("t", [0.0, 0.01, 0.5, 0.9])
def test_condition_number(make, t):
    process = make(LogLinear())
    expected = torch.linalg.cond(truth(process, 0.0, t))
    # A singular value is computed to ε of the largest one: ε·c of the smallest.
    rtol = max(1e-12, 1e-15 * float(expected))
    torch.testing.assert_close(process.condition_number(t), expected, rtol=rtol, atol=0)


# -- structured forms against the dense ones ----------------------------------------------------


def random_posterior(likelihood, seed=5):
    source = torch.Generator().manual_seed(seed)
    weights = torch.rand(likelihood.shape, generator=source, dtype=torch.float64) + 0.01
    weights = weights * (likelihood > 0)
    return weights / weights.sum(-1, keepdim=True)


class AsMatrix(Process):
    """A process whose kernels are the matrices of another one's."""

    def __init__(self, process):
        self.process = process
        self.vocab_size, self.schedule = process.vocab_size, process.schedule

    def kernel(self, s, t):
        return DenseKernel(self.process.kernel(s, t).dense())

    def rate(self, t):
        return self.process.rate(t)

    def prior(self):
        return self.process.prior()

    def config(self):
        return self.process.config()


@EVERY
@pytest.mark.parametrize(("s", "t"), [(0.2, 0.7), (0.0, 0.7), (0.7, 0.7), (0.0, 0.0), (0.5, 1.0)])
@pytest.mark.parametrize("batched", [False, True])
def test_every_form_of_kernel_does_what_its_matrix_does(make, s, t, batched):
    process = make(Cosine(eps=1e-2))
    matrix = AsMatrix(process)
    x_t = all_states()
    if batched:
        s, t = torch.full((V**L,), s).double(), torch.full((V**L,), t).double()
    posterior = random_posterior(process.likelihood(x_t, t))
    ratios = matrix.ratios_from_posterior(posterior, x_t, t)
    weights = process.posterior_weights(posterior, x_t, t)
    x0 = posterior.argmax(-1)
    # An inverse loses ε times the condition number.
    condition = float(process.condition_number(t).max())
    loss = 4e-16 * condition
    for name, arguments in (
        ("likelihood", (x_t, t)),
        ("reverse_marginals", (posterior, x_t, s, t)),
        ("bridge_marginals", (x_t, x0, s, t)),
        ("ratios_from_posterior", (posterior, x_t, t)),
        ("reverse_rates", (ratios, x_t, t)),
        ("weights_from_ratios", (ratios, t)),
        ("posterior_from_ratios", (ratios, x_t, t)),
        ("condition_number", (t,)),
    ):
        solved = name in ("weights_from_ratios", "posterior_from_ratios", "condition_number")
        if solved and condition > 1e12:
            continue
        agree(getattr(process, name), getattr(matrix, name), arguments, loss if solved else 0.0)
    forms = process.kernel(s, t), matrix.kernel(s, t)
    for name, arguments in (
        ("rows", (x_t,)),
        ("columns", (x_t,)),
        ("push", (weights,)),
        ("pull", (ratios,)),
        ("times_columns", (ratios, x_t)),
        ("divide_columns", (posterior, x_t)),
        ("row_entropies", ()),
    ):
        agree(*(getattr(kernel, name) for kernel in forms), arguments, 0.0)


def agree(form, matrix, arguments, loss):
    # Of what may be overwritten each gets a copy.
    found, expected = (
        call(*(a.clone() if isinstance(a, torch.Tensor) else a for a in arguments))
        for call in (form, matrix)
    )
    scale = max(1.0, float(expected.abs().max()))
    close(found / scale, expected / scale, max(1e-13, loss))


@pytest.mark.parametrize("v", [2, 3, 7])
def test_condition_number_of_reset_processes_of_any_size(v, generator):
    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 10**6), st.floats(0.0, 0.99), st.integers(0, v - 1))
    def check(seed, t, zeros):
        source = torch.Generator().manual_seed(seed)
        prior = torch.rand(v, generator=source, dtype=torch.float64) + 1e-3
        prior[:zeros] = 0
        process = ResetToPrior(prior / prior.sum(), LogLinear())
        expected = torch.linalg.cond(process.kernel(0.0, t).dense())
        torch.testing.assert_close(process.condition_number(t), expected, rtol=1e-9, atol=0)

    check()


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.integers(2, 7), st.integers(0, 10**6), st.floats(0.0, 3.0))
def test_random_generators(v, seed, total):
    process = FixedRate(random_rate(v, seed), Linear(sigma_max=6.0))
    t = total / 6
    close(process.kernel(0.0, t).dense(), exponential(total * process.base_rate()), 1e-12)
    assert bool((process.kernel(0.0, t).dense() >= 0).all())


def test_a_reset_process_is_a_fixed_rate():
    reset = Uniform(V, LogLinear())
    fixed = FixedRate(reset.base_rate(), LogLinear())
    assert math.isclose(fixed.spectral_gap, 1.0, rel_tol=1e-12)
    close(fixed.prior(), reset.prior(), 1e-14)
    close(fixed.kernel(0.1, 0.8).dense(), reset.kernel(0.1, 0.8).dense(), 1e-14)
    close(fixed.condition_number(0.5), reset.condition_number(0.5), 1e-12)
