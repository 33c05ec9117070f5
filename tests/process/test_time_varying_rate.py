"""Generators that move: Magnus steps against a time-ordered reference, matrices against actions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from fewjump.process import (
    FixedRate,
    SummedRates,
    TimeVaryingRate,
    Uniform,
    birth_death_rate,
    discretised_gaussian_rate,
    flow,
    gidd,
    process_from_config,
)
from fewjump.process.magnus import step_matrices
from fewjump.process.rate_path import SampledRates
from fewjump.schedule import Linear, LogLinear
from laws.registry import random_rate
from laws.time_ordered import time_ordered

ENDS = random_rate(4, 5), random_rate(4, 6)
LAST = Linear(4.0)
PAIRS = [(0.0, 1.0), (0.2, 0.7), (0.5, 0.5001), (0.0, 1e-5), (0.3, 0.3)]


def turning(t):
    one, other = ENDS
    return (1 + math.cos(2 * math.pi * t)) * one + (1 + math.sin(2 * math.pi * t)) * other


def kinked(**options):
    path = SummedRates(ENDS, [0, 0.4, 1], [[1, 0], [0.1, 0.9], [0.8, 0.2]])
    return TimeVaryingRate(path, LAST, **options)


@pytest.mark.parametrize("route", ["dense", "action"])
@pytest.mark.parametrize(
    ("make", "through"),
    [(kinked, (0.4,)), (lambda **o: TimeVaryingRate(turning, LAST, **o), ())],
    ids=["sum", "function"],
)
def test_kernels_are_the_time_ordered_product(make, through, route):
    process = make(route=route, tolerance=1e-8)
    assert 0 < process.error < 1e-8
    for s, t in PAIRS:
        reference = time_ordered(process, s, t, through)
        torch.testing.assert_close(process.kernel(s, t).dense(), reference, rtol=0, atol=1e-8)
    # Not what a fixed generator would give.
    wrong = torch.linalg.matrix_exp(
        sum(process.rate(u) for u in torch.linspace(0.005, 0.995, 100).double()) / 100
    )
    assert float((process.kernel(0.0, 1.0).dense() - wrong).abs().max()) > 1e-4


def test_a_step_errs_by_its_fifth_power():
    path, widths = SampledRates(turning), (0.025, 0.0125, 0.00625)
    errors = []
    for h in widths:
        start, end = (torch.tensor([v], dtype=torch.float64) for v in (0.3, 0.3 + h))
        step = step_matrices(path, lambda level: level, start, end)[0]
        process = TimeVaryingRate(turning, Linear(1.0), tolerance=1e-9)
        errors.append(float((step - time_ordered(process, 0.3, 0.3 + h)).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(4.7 < order < 5.2 for order in orders), errors


def test_generators_that_commute_give_the_fixed_kernel():
    rate = random_rate(5)
    fixed = FixedRate(rate, LogLinear())
    moving = TimeVaryingRate(SummedRates([rate], [0, 1], [[1], [1]]), LogLinear())
    assert moving.flow.edges.numel() < 20
    for s, t in PAIRS:
        torch.testing.assert_close(
            moving.kernel(s, t).dense(), fixed.kernel(s, t).dense(), rtol=0, atol=1e-13
        )
    torch.testing.assert_close(moving.prior(), fixed.prior(), rtol=0, atol=1e-13)


def test_a_moving_prior_is_a_moving_rate():
    prior = gidd(4, LogLinear(), 0.3)
    rate = TimeVaryingRate(
        lambda t: prior.rate(t) / prior.schedule.sigma(t), LogLinear(), tolerance=1e-8
    )
    for s, t in PAIRS:
        torch.testing.assert_close(
            rate.kernel(s, t).dense(), prior.kernel(s, t).dense(), rtol=0, atol=1e-8
        )
    torch.testing.assert_close(rate.prior(), prior.prior(), rtol=0, atol=1e-8)


def test_far_entries_keep_their_digits():
    # Two levels up take two jumps: Pr ≈ (t·∫…)²/2, which the posterior divides by.
    path = SummedRates([birth_death_rate(8, up=1.0), birth_death_rate(8, up=3.0)], [0, 1],
                       [[1, 0], [0, 1]])  # fmt: skip
    process = TimeVaryingRate(path, Linear(60.0), tolerance=1e-8)
    t = 1e-5
    kernel = process.kernel(0.0, t).dense()
    jumps = 60 * t
    for k in range(1, 8):
        assert float(kernel[0, k]) == pytest.approx(jumps**k / math.factorial(k), rel=2e-3)


def sparse(vocab_size, **options):
    """A walk that spreads and a reset to the last state, weights moving: both sparse."""
    walk = birth_death_rate(vocab_size)
    reset = torch.zeros(vocab_size, vocab_size, dtype=torch.float64)
    reset[:-1, -1] = 1.0
    reset -= torch.diag(reset.sum(-1))
    matrices = [walk.to_sparse(), reset.to_sparse_csr()]
    path = SummedRates(matrices, [0, 1], [[2, 0.5], [0.5, 2]])
    return TimeVaryingRate(path, LAST, **options)


def test_the_action_agrees_with_the_matrices():
    acts, keeps = sparse(7, tolerance=1e-9), sparse(7, tolerance=1e-9, route="dense")
    assert type(acts.flow) is not type(keeps.flow)
    source = torch.Generator().manual_seed(0)
    x_t = torch.randint(0, 7, (3, 5), generator=source)
    x0 = torch.randint(0, 7, (3, 5), generator=source)
    posterior = torch.rand(3, 5, 7, generator=source, dtype=torch.float64)
    posterior = posterior / posterior.sum(-1, keepdim=True)
    batch = torch.tensor([0.05, 0.1, 0.1]).double(), torch.tensor([0.2, 0.15, 0.15]).double()
    for s, t in ((0.05, 0.2), batch):
        ratios = keeps.ratios_from_posterior(posterior, x_t, t)
        for name, arguments in (
            ("likelihood", (x_t, t)),
            ("bridge_marginals", (x_t, x0, s, t)),
            ("reverse_marginals", (posterior, x_t, s, t)),
            ("ratios_from_posterior", (posterior, x_t, t)),
            ("reverse_rates", (ratios, x_t, t)),
            ("posterior_from_ratios", (ratios, x_t, t)),
            ("condition_number", (t,)),
        ):
            mine, theirs = getattr(acts, name)(*arguments), getattr(keeps, name)(*arguments)
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)
        for name, arguments in (("dense", ()), ("pull", (ratios,)), ("rows", (x0,))):
            mine, theirs = (getattr(p.kernel(s, t), name)(*arguments) for p in (acts, keeps))
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)
    draws = acts.corrupt(torch.arange(7).repeat(4000, 1).mT, 0.05, 0.2, source)
    counts = torch.stack([torch.bincount(row, minlength=7) for row in draws]) / 4000
    assert float((counts - keeps.kernel(0.05, 0.2).dense()).abs().max()) < 0.04


def test_draws_do_not_depend_on_the_rest_of_the_batch():
    from fewjump.random import SampleStreams

    process = sparse(7, tolerance=1e-8)
    x = torch.randint(0, 7, (6, 4), generator=torch.Generator().manual_seed(1))
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    whole = process.corrupt(x, torch.zeros_like(t), t, SampleStreams(3, torch.arange(6)))
    part = process.corrupt(
        x[4:], torch.zeros(2).double(), t[4:], SampleStreams(3, torch.arange(4, 6))
    )
    assert torch.equal(whole[4:], part)


def test_a_large_sparse_generator_is_never_made_dense():
    vocab = 17_000
    state = torch.arange(vocab)
    pairs = torch.stack([state, (state + 1) % vocab])
    ring = torch.sparse_coo_tensor(pairs, torch.ones(vocab).double(), (vocab, vocab))
    ring = ring + torch.sparse_coo_tensor(torch.stack([state, state]), -torch.ones(vocab).double())
    away = torch.stack([state[1:], torch.zeros(vocab - 1).long()])
    reset = torch.sparse_coo_tensor(away, torch.ones(vocab - 1).double(), (vocab, vocab))
    leave = torch.stack([state[1:], state[1:]])
    reset = reset + torch.sparse_coo_tensor(leave, -torch.ones(vocab - 1).double(), reset.shape)
    path = SummedRates([ring, reset], [0, 1], [[1.0, 0.5], [0.5, 1.0]])
    process = TimeVaryingRate(path, LAST, tolerance=1e-3)
    x0 = torch.tensor([[5, 5, 16_000]])
    x_t = process.corrupt(x0, 0.0, 0.6, torch.Generator().manual_seed(0))
    assert x_t.shape == x0.shape
    # Only resets lead to state 0 from far below, at weights 0.5 + 0.5·t; jumps on lose a little.
    reached = float(process.likelihood(torch.tensor([[0]]), 0.6)[0, 0, 5])
    resets = 1 - math.exp(-4 * (0.5 * 0.6 + 0.25 * 0.36))
    assert 0.5 * resets < reached < resets
    for call in (lambda: process.kernel(0.0, 0.5).dense(), lambda: process.rate(0.5)):
        with pytest.raises(ValueError, match="too large"):
            call()
    with pytest.raises(ValueError, match="route='action'"):
        TimeVaryingRate(path, LAST, route="dense")


def test_sparse_matrices_survive_the_round_trip():
    process = sparse(5, tolerance=1e-8)
    again = process_from_config(process.config())
    assert again.config() == process.config()
    assert torch.equal(again.kernel(0.1, 0.6).dense(), process.kernel(0.1, 0.6).dense())


ZERO = torch.zeros(3, 3).double()
WALK = birth_death_rate(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SummedRates([], [0, 1], []), "at least one rate matrix"),
        (lambda: SummedRates([WALK, random_rate(4)], [0, 1], [[1, 1]] * 2), "of one size"),
        (lambda: SummedRates([WALK], [0, 0.5], [[1], [1]]), "go from 0 to 1"),
        (lambda: SummedRates([WALK], [0, 1], [[1], [-1]]), "non-negative"),
        (lambda: SummedRates([WALK], [0, 1], [[1, 1], [1, 1]]), "one\\s+column for each of 1"),
        (lambda: SummedRates([WALK], None, [[1], [1]]), "function of time"),
        (lambda: SummedRates([WALK], None, lambda t: -torch.ones(len(t), 1)), "non-negative"),
        (lambda: SummedRates([ZERO.to_sparse()], [0, 1], [[1], [1]]), "no positive rate"),
        (lambda: SummedRates([(-WALK).to_sparse()], [0, 1], [[1], [1]]), "must not be negative"),
        (lambda: SummedRates([WALK.tril().to_sparse()], [0, 1], [[1]] * 2), "sums to -1"),
        (lambda: TimeVaryingRate(lambda t: WALK * (1 - 2 * t), LAST), "rate function at t = "),
        (lambda: TimeVaryingRate(lambda t: WALK, LAST, route="fast"), "unknown route"),
        (lambda: TimeVaryingRate(lambda t: WALK, LAST, mask=3), "mask must lie"),
        (lambda: TimeVaryingRate(lambda t: WALK, LAST, tolerance=0), "tolerance"),
        (lambda: TimeVaryingRate(lambda t: WALK, Linear(40.0)).config(), "SummedRates"),
        (
            lambda: TimeVaryingRate(lambda t: torch.block_diag(WALK, WALK), LAST),
            "depends on the start",
        ),
        (lambda: process_from_config({**CONFIG, "rate": {"name": "Spline"}}), "saved rate is"),
    ],
)
def test_what_is_no_moving_rate_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


CONFIG = {"name": "TimeVaryingRate", "schedule": {"name": "LogLinear"}}


def test_a_chain_that_has_not_forgotten_is_noticed():
    with pytest.warns(UserWarning, match="poor start for generation"):
        TimeVaryingRate(lambda t: discretised_gaussian_rate(6), Linear(0.5))


def test_ratios_that_determine_nothing_are_refused():
    for route in ("dense", "action"):
        rate = Uniform(3, LogLinear()).base_rate()
        path = SummedRates([rate], [0, 1], [[1], [1]])
        process = TimeVaryingRate(path, Linear(80.0), route=route, tolerance=1e-6)
        ratios = torch.tensor([1.0, 2.0, 0.5]).expand(1, 2, 3)
        with pytest.raises(ValueError, match=r"singular|condition number"):
            process.posterior_from_ratios(ratios, torch.zeros(1, 2).long(), 1.0)


def test_a_constant_sparse_rate_is_one_exponential():
    walk, reset = birth_death_rate(9), random_rate(9)
    path = SummedRates([walk.to_sparse(), reset.to_sparse()], [0, 0.5, 1], [[2, 0.5]] * 3)
    process = TimeVaryingRate(path, Linear(6.0), route="action")
    assert len(process.flow.edges) == 2
    fixed = FixedRate(2 * walk + 0.5 * reset, Linear(6.0))
    s, t = torch.tensor([0.1, 0.0]).double(), torch.tensor([0.2, 0.9]).double()
    torch.testing.assert_close(
        process.kernel(s, t).dense(), fixed.kernel(s, t).dense(), atol=1e-13, rtol=0
    )
    ratios = torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t = torch.tensor([0.02, 0.1], dtype=torch.float64)
    torch.testing.assert_close(
        process.weights_from_ratios(ratios, t), fixed.weights_from_ratios(ratios, t), rtol=1e-9,
        atol=1e-9,
    )  # fmt: skip
    # Weights that change a little are not constant.
    assert not SummedRates([walk], [0, 0.5, 1], [[2], [2 + 1e-12], [2]]).constant


def test_parts_of_sparse_rows_do_not_change_a_result(monkeypatch):
    process = sparse(7, tolerance=1e-4)
    source = torch.Generator().manual_seed(3)
    rows = torch.rand(11, 7, generator=source, dtype=torch.float64)
    start, end = torch.full((11,), 0.1).double(), torch.linspace(0.2, 2.0, 11).double()
    whole = process.flow.act(rows, start, end)
    monkeypatch.setattr(flow, "_SPARSE_ELEMENTS", 1)
    torch.testing.assert_close(process.flow.act(rows, start, end), whole, rtol=1e-12, atol=0)
    kept = rows.clone()
    process.flow.act(rows, start, end, inverse=True)
    assert torch.equal(rows, kept)
