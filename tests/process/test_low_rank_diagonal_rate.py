"""Low-rank noise with exit rates of each token's own, against dense exponentials."""

from __future__ import annotations

import json

import pytest
import torch

from fewjump.process import (
    LowRankDiagonalRate,
    LowRankRate,
    process_from_config,
)
from fewjump.process.exponential import exponential_from_series
from fewjump.random import generator_for
from fewjump.schedule import Linear, LogLinear, Schedule
from process.one_step import takes_a_step_without_a_square_matrix


def uneven(
    vocab: int, rank: int, seed: int = 0, schedule: Schedule | None = None
) -> LowRankDiagonalRate:
    """Exit rates between about 0.3 and 2, unequal memberships, a fifth of the entries zero."""
    source = generator_for(seed)
    left = torch.rand(vocab, rank, generator=source, dtype=torch.float64) ** 3 + 0.05
    right = torch.rand(rank, vocab, generator=source, dtype=torch.float64)
    right = (right * (right > 0.2)) ** 2
    right /= right.sum(-1, keepdim=True)
    return LowRankDiagonalRate(left, right, schedule or LogLinear())


def dense_kernel(process: LowRankDiagonalRate, s: float, t: float) -> torch.Tensor:
    """By a route that shares nothing: squared series of the dense generator."""
    gap = process.schedule.between(s, t).double().reshape(1)
    return exponential_from_series(process.base_rate(), gap)[0]


def test_the_generator_is_the_low_rank_part_and_the_diagonal_that_closes_it() -> None:
    process = uneven(12, 3)
    rate = process.base_rate()
    off = rate - torch.diag(rate.diagonal())
    assert float(rate.sum(-1).abs().max()) < 1e-14
    assert float(off.min()) >= 0
    assert float(process.exit_rates.max() / process.exit_rates.min()) > 2
    assert int(torch.linalg.matrix_rank(rate + torch.diag(process.exit_rates))) == 3


@pytest.mark.parametrize(("vocab", "rank"), [(12, 1), (30, 3), (60, 5)])
def test_every_product_is_the_dense_exponentials(vocab: int, rank: int) -> None:
    process, source = uneven(vocab, rank), generator_for(1)
    x = torch.randint(vocab, (2, 7), generator=source)
    rows = torch.randn(2, 7, vocab, generator=source, dtype=torch.float64)
    s, t = (torch.tensor(v, dtype=torch.float64) for v in ([0.1, 0.0], [0.6, 0.95]))
    dense = torch.stack([dense_kernel(process, float(a), float(b)) for a, b in zip(s, t)])
    for i, (a, b) in enumerate(zip(s.tolist(), t.tolist())):
        torch.testing.assert_close(
            dense[i],
            torch.linalg.matrix_exp(process.schedule.between(a, b) * process.base_rate()),
            atol=1e-11,
            rtol=0,
        )
    exact = {"atol": 1e-13, "rtol": 1e-11}
    kernel = process.kernel(s, t)
    torch.testing.assert_close(kernel.dense(), dense, **exact)
    at = torch.stack([dense[i][x[i]] for i in range(2)])
    torch.testing.assert_close(kernel.rows(x), at, **exact)
    at = torch.stack([dense[i].mT[x[i]] for i in range(2)])
    torch.testing.assert_close(kernel.columns(x), at, **exact)
    torch.testing.assert_close(kernel.push(rows), rows @ dense, **exact)
    torch.testing.assert_close(kernel.pull(rows), rows @ dense.mT, **exact)


def test_small_probabilities_keep_their_digits() -> None:
    process = uneven(20, 3)
    for t in (1e-6, 0.01, 0.5):
        torch.testing.assert_close(
            process.kernel(0.0, t).dense(), dense_kernel(process, 0.0, t), rtol=1e-11, atol=0
        )


def test_a_long_time_goes_through_several_runs() -> None:
    process = uneven(15, 2, schedule=Linear(400.0))
    assert process.kernel(0.0, 1.0)._runs(torch.tensor([400.0])) > 3
    torch.testing.assert_close(
        process.kernel(0.0, 0.9).dense(), dense_kernel(process, 0.0, 0.9), atol=1e-13, rtol=0
    )
    torch.testing.assert_close(
        process.kernel(0.0, 0.9).dense(), process.prior().expand(15, -1), atol=1e-12, rtol=0
    )


def test_equal_exit_rates_are_the_closed_form() -> None:
    members = torch.tensor([[1.0, 0], [0.7, 0.3], [0, 1], [0.5, 0.5]]).double()
    priors = torch.tensor([[0.4, 0.4, 0.2, 0], [0, 0.1, 0.3, 0.6]]).double()
    closed = LowRankRate(members, priors, LogLinear())
    # W scaled by 5 and U by 1/5: the same product.
    general = LowRankDiagonalRate(members / 5, priors * 5, LogLinear(), diagonal=-torch.ones(4))
    torch.testing.assert_close(general.kernel(0.1, 0.9).dense(), closed.kernel(0.1, 0.9).dense())
    torch.testing.assert_close(general.prior(), closed.prior())


def test_masks_at_rates_of_each_tokens_own() -> None:
    rates = torch.tensor([1.0, 0.25, 4.0, 0.0], dtype=torch.float64)
    mask = torch.tensor([[0.0, 0, 0, 2.0]])
    process = LowRankDiagonalRate(rates[:, None] / 2, mask, LogLinear(), mask=3)
    gap = process.schedule.between(0.2, 0.8)
    kept = torch.exp(-gap * rates)
    expected = torch.diag(kept)
    expected[:, 3] += 1 - kept
    torch.testing.assert_close(process.kernel(0.2, 0.8).dense(), expected, atol=1e-14, rtol=0)
    assert process.prior().tolist() == [0, 0, 0, 1]
    # A visible token is what it was: its likelihood under any other clean token is exactly 0.
    likelihood = process.likelihood(torch.tensor([[1, 3]]), 0.5)
    assert (likelihood[0, 0] > 0).tolist() == [False, True, False, False]
    assert bool((likelihood[0, 1] > 0).all())


def test_exact_ratios_give_the_posterior_back_with_one_time_a_row() -> None:
    process, source = uneven(40, 4), generator_for(1)
    posterior = torch.rand(3, 5, 40, generator=source, dtype=torch.float64)
    posterior /= posterior.sum(-1, keepdim=True)
    x_t = torch.randint(40, (3, 5), generator=source)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    ratios = process.ratios_from_posterior(posterior, x_t, t)
    found = process.recover(ratios, x_t, t)
    torch.testing.assert_close(found.posterior, posterior, atol=1e-9, rtol=0)
    dense = torch.linalg.solve(
        torch.stack([dense_kernel(process, 0.0, float(v)) for v in t]).mT, ratios.mT
    ).mT
    weights = process.weights_from_ratios(ratios, t)
    torch.testing.assert_close(weights, dense, atol=1e-8, rtol=1e-8)


def test_gradients_pass_through_a_reverse_step() -> None:
    process, source = uneven(6, 2), generator_for(4)
    logits = torch.randn(1, 2, 6, generator=source, dtype=torch.float64, requires_grad=True)
    x_t = torch.tensor([[1, 4]])

    def step(values: torch.Tensor) -> torch.Tensor:
        return process.reverse_marginals(values.softmax(-1), x_t, 0.2, 0.7)

    assert torch.autograd.gradcheck(step, (logits,))


def test_the_condition_number_above_the_dense_sizes_is_estimated_from_below() -> None:
    process = uneven(300, 4)
    for t in (0.2, 0.6):
        dense = float(torch.linalg.cond(dense_kernel(process, 0.0, t)))
        found = float(process.condition_number(t))
        assert 0.8 * dense < found <= dense * (1 + 1e-9)
    both = process.condition_number(torch.tensor([0.2, 0.6], dtype=torch.float64))
    torch.testing.assert_close(both[1], process.condition_number(0.6), rtol=1e-3, atol=0)


def test_no_operation_of_a_training_step_builds_a_square_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    takes_a_step_without_a_square_matrix(uneven(1500, 4), "clip", torch.float32, monkeypatch)


def test_corruption_does_not_depend_on_the_batch_split() -> None:
    process = uneven(50, 3)
    x = torch.arange(50).reshape(10, 5)
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    whole = process.corrupt(x, 0.0, t, generator_for(5))
    source = generator_for(5)
    parts = [process.corrupt(x[i : i + 1], 0.0, t[i : i + 1], source) for i in range(10)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("schedule", [Linear(60.0), Linear(3000.0)])
def test_a_kernel_that_left_nothing_is_refused(schedule: Schedule) -> None:
    process = uneven(6, 2, schedule=schedule)
    with pytest.raises(ValueError, match=r"singular|condition number"):
        process.weights_from_ratios(torch.rand(1, 1, 6, dtype=torch.float64), 1.0)


def test_one_fast_token_makes_the_error_name_the_condition_number() -> None:
    left = torch.full((8, 1), 0.1, dtype=torch.float64)
    left[3] = 60.0
    process = LowRankDiagonalRate(left, torch.full((1, 8), 1 / 8), Linear(1.0))
    with pytest.raises(ValueError, match=r"condition number of about \d"):
        process.weights_from_ratios(torch.rand(1, 1, 8, dtype=torch.float64), 1.0)


def test_its_configuration_rebuilds_it() -> None:
    process = uneven(5, 2)
    again = process_from_config(json.loads(json.dumps(process.config())))
    assert isinstance(again, LowRankDiagonalRate)
    assert again.config() == process.config()
    torch.testing.assert_close(
        again.kernel(0.1, 0.8).dense(), process.kernel(0.1, 0.8).dense(), atol=0, rtol=0
    )
    closed = {**process.config(), "diagonal": (-process.exit_rates).tolist()}
    assert process_from_config(closed).config() == process.config()


@pytest.mark.parametrize(
    ("left", "right", "diagonal", "said"),
    [
        ([[1.0], [-0.5]], [[0.5, 0.5]], None, r"left must not be negative, but entry \[1, 0\]"),
        ([[1.0], [1.0]], [[0.5, float("nan")]], None, "right must be a matrix of finite"),
        ([[1.0], [1.0]], [[0.5, 0.3, 0.2]], None, "do not fit"),
        ([[1.0, 1], [1, 1]], [[0.5, 0.5], [0, 0]], None, "row 1 of right"),
        ([[0.0], [0]], [[0.5, 0.5]], None, "no positive rate"),
        ([[0.0], [0], [1]], [[0.5, 0.5, 0]], None, "tokens 0 and 1 never leave"),
        ([[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]], None, "closed classes"),
        ([[1.0], [2.0]], [[0.5, 0.5]], [-1.0, -1.0], r"row 1 sums to 1; set diagonal\[1\] to -2"),
        ([[1.0], [2.0]], [[0.5, 0.5]], [-1.0], "diagonal must have shape"),
    ],
)
def test_what_is_no_such_noise_is_refused(left, right, diagonal, said) -> None:
    with pytest.raises(ValueError, match=said):
        LowRankDiagonalRate(
            torch.tensor(left),
            torch.tensor(right),
            LogLinear(),
            None if diagonal is None else torch.tensor(diagonal),
        )


def test_a_mask_must_be_a_state() -> None:
    with pytest.raises(ValueError, match="mask must lie"):
        LowRankDiagonalRate(torch.ones(3, 1), torch.ones(1, 3), LogLinear(), mask=3)
