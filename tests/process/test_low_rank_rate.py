"""Low-rank noise: its clusters, its conditioning, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch

from fewjump.denoiser.logits import LogitDenoiser
from fewjump.process import (
    LowRankRate,
    ResetToPrior,
    SummedRates,
    TimeVaryingRate,
    process_from_config,
)
from fewjump.random import generator_for
from fewjump.schedule import Linear, LogLinear
from process.one_step import takes_a_step_without_a_square_matrix


def clusters(vocab: int, rank: int, seed: int = 0) -> LowRankRate:
    source = generator_for(seed)
    members = torch.rand(vocab, rank, generator=source, dtype=torch.float64) ** 3
    priors = torch.rand(rank, vocab, generator=source, dtype=torch.float64) ** 2
    return LowRankRate(
        members / members.sum(-1, keepdim=True), priors / priors.sum(-1, keepdim=True), LogLinear()
    )


def test_one_cluster_is_a_reset_to_its_prior() -> None:
    prior = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    one = LowRankRate(torch.ones(3, 1), prior[None], LogLinear())
    reset = ResetToPrior(prior, LogLinear())
    torch.testing.assert_close(one.kernel(0.2, 0.7).dense(), reset.kernel(0.2, 0.7).dense())
    torch.testing.assert_close(one.condition_number(0.7), reset.condition_number(0.7))


def test_the_condition_number_is_the_dense_kernels() -> None:
    process = clusters(12, 3)
    for t in (0.1, 0.6, 0.95):
        dense = torch.linalg.cond(process.kernel(0.0, t).dense())
        torch.testing.assert_close(process.condition_number(t), dense, rtol=1e-8, atol=0)
    wide = clusters(4, 3)  # the factors span every direction: α alone is no singular value
    dense = torch.linalg.cond(wide.kernel(0.0, 0.5).dense())
    torch.testing.assert_close(wide.condition_number(0.5), dense, rtol=1e-8, atol=0)


def test_exact_ratios_give_the_posterior_back_with_one_time_a_row() -> None:
    process = clusters(40, 4)
    source = generator_for(1)
    posterior = torch.rand(3, 5, 40, generator=source, dtype=torch.float64)
    posterior /= posterior.sum(-1, keepdim=True)
    x_t = torch.randint(40, (3, 5), generator=source)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    ratios = process.ratios_from_posterior(posterior, x_t, t)
    dense = torch.stack(
        [
            (posterior[i] / process.kernel(0.0, float(t[i])).dense()[:, x_t[i]].mT)
            @ process.kernel(0.0, float(t[i])).dense()
            for i in range(3)
        ]
    )
    torch.testing.assert_close(ratios, dense)
    for method in ("exact", "clip", "project", "multiplicative"):
        found = process.recover(ratios, x_t, t, method)
        torch.testing.assert_close(found.posterior, posterior, atol=1e-3, rtol=0)
    exact = process.recover(ratios, x_t, t).posterior
    torch.testing.assert_close(exact, posterior, atol=1e-11, rtol=0)


def test_no_operation_of_a_training_step_builds_a_square_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    takes_a_step_without_a_square_matrix(
        clusters(3000, 4), "multiplicative", torch.float64, monkeypatch
    )


def test_a_kernel_that_left_nothing_is_refused() -> None:
    process = LowRankRate(torch.ones(3, 1), torch.full((1, 3), 1 / 3), Linear(60.0))
    with pytest.raises(ValueError, match="singular"):
        process.weights_from_ratios(torch.ones(1, 1, 3), 1.0)


def test_its_configuration_rebuilds_it() -> None:
    process = clusters(5, 2)
    again = process_from_config(process.config())
    assert isinstance(again, LowRankRate)
    assert again.config() == process.config()
    torch.testing.assert_close(
        again.kernel(0.1, 0.8).dense(), process.kernel(0.1, 0.8).dense(), atol=0, rtol=0
    )


@pytest.mark.parametrize(
    ("members", "priors", "said"),
    [
        ([[1.0], [0.5]], [[0.5, 0.5]], "memberships"),
        ([[1.0], [1.0]], [[0.5, 0.6]], "priors"),
        ([[1.0], [1.0]], [[0.5, 0.3, 0.2]], "do not fit"),
        ([[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]], "closed classes"),
    ],
)
def test_what_is_no_such_noise_is_refused(members, priors, said) -> None:
    with pytest.raises(ValueError, match=said):
        LowRankRate(torch.tensor(members), torch.tensor(priors), LogLinear())


def test_a_denoiser_over_sparse_rates_can_be_copied() -> None:
    rate = torch.tensor([[-1.0, 1, 0], [0, -1, 1], [1, 0, -1]]).to_sparse()
    process = TimeVaryingRate(SummedRates([rate], [0, 1], [[1], [1]]), Linear(8.0), route="action")
    denoiser = LogitDenoiser(lambda x, t: torch.zeros(*x.shape, 3), process, 2)
    assert copy.deepcopy(denoiser).process is process
