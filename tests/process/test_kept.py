"""Kept tokens: the laws of every process hold with them, and noise leaves them alone."""

from __future__ import annotations

import pytest
import torch

from fewjump.process import (
    Absorbing,
    Process,
    ResetToPrior,
    Uniform,
    gidd,
    process_from_config,
)
from fewjump.schedule import Cosine, LogLinear
from laws import test_process_laws as laws

MAKERS = {
    "absorbing": lambda schedule: Absorbing(4, schedule, mask=1, kept=(2,)),
    "uniform": lambda schedule: Uniform(4, schedule, kept=(0,)),
    "gidd": lambda schedule: gidd(4, schedule, 0.3, mask=1, kept=(2,)),
    "prior": lambda schedule: ResetToPrior(torch.tensor([0.3, 0.0, 0.7, 0.0]), schedule, kept=[1]),
}
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@EVERY
def test_the_forward_laws_hold(make) -> None:
    laws.test_kernel_is_the_exponential_of_the_generator(make, LogLinear())
    laws.test_kernels_compose(make, Cosine())
    laws.test_kolmogorov_equations(make, LogLinear())
    laws.test_batched_times_are_one_call_for_each(make)


@EVERY
def test_the_draws_follow_the_laws(make, generator) -> None:
    laws.test_corruption_follows_the_kernel(make, False, generator)
    laws.test_corruption_follows_the_kernel(make, True, generator)
    laws.test_draws_from_the_limit_law(make, generator)
    laws.test_bridge_follows_its_marginals(make, 0.2, 0.5, generator)


@EVERY
def test_the_backward_laws_hold(make) -> None:
    laws.test_markov_decomposition(make)
    laws.test_reverse_marginals(make, 0.3, 0.6)
    laws.test_recovery_of_the_posterior(make, "exact")
    laws.test_posterior_survives_the_round_trip(make)
    laws.test_reverse_rates_are_the_limit_of_reverse_steps(make)
    for t in (0.0, 0.5, 0.9):
        laws.test_condition_number(make, t)


@EVERY
def test_the_kernel_does_what_its_matrix_does(make) -> None:
    for batched in (False, True):
        laws.test_every_form_of_kernel_does_what_its_matrix_does(make, 0.2, 0.7, batched)


@EVERY
def test_noise_leaves_kept_tokens_alone(make, generator) -> None:
    process: Process = make(LogLinear())
    (kept,) = process.kept
    x = torch.full((50, 20), kept)
    assert torch.equal(process.corrupt(x, 0.0, 1.0, generator), x)
    others = torch.tensor([a for a in range(4) if a not in (kept, process.mask)])
    noisy = process.corrupt(others.repeat(200)[:, None], 0.0, 1.0, generator)
    assert kept not in noisy
    assert kept not in process.prior_sample((50, 20), generator)
    # Nothing else comes to show it, and it was nothing else.
    likelihood = process.likelihood(torch.arange(4)[:, None], 0.7)[:, 0]
    assert likelihood[kept].tolist() == [float(a == kept) for a in range(4)]
    assert likelihood[:, kept].tolist() == [float(x == kept) for x in range(4)]


@EVERY
def test_the_configuration_tells(make) -> None:
    process = make(LogLinear())
    again = process_from_config(process.config())
    assert again.kept == process.kept
    assert again.config() == process.config()
    plain = Absorbing(4, LogLinear()).config()
    assert "kept" not in plain


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Absorbing(4, LogLinear(), kept=[3]), "mask 3 is among the kept"),
        (lambda: Absorbing(4, LogLinear(), kept=[4]), r"must lie in \[0, 4\)"),
        (lambda: Uniform(3, LogLinear(), kept=[0, 1]), "at least two"),
        (lambda: Uniform(3, LogLinear(), kept=[-1]), r"must lie in \[0, 3\)"),
        (lambda: ResetToPrior(torch.ones(2) / 2, LogLinear(), kept=[0]), "at least two"),
        (lambda: ResetToPrior(torch.ones(4) / 4, LogLinear(), kept=[0]), "must be 0 at the kept"),
    ],
)
def test_nonsense_is_explained(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
