"""Steps by concrete scores: linear in the ratios, against dense matrices; what is drawn is that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewjump.denoiser import ScoreDenoiser
from fewjump.denoiser.constrain import constrain_logits, never_clean
from fewjump.inversion import invert_cdf
from fewjump.law import DenseLogits, LinearLogits, ProductLaw, Ratios
from fewjump.process import Process, ResetToPrior, TimeVaryingPrior, Uniform
from fewjump.process.prior_path import InterpolatedPriors, mask_and_uniform
from fewjump.random import SampleStreams
from fewjump.sampler import exact_output_law, run
from fewjump.sampler.moves import JumpMove, LawMove, one_hot
from fewjump.sampler.rates import RatioRates
from fewjump.sampler.reverse import reverse_rates, reverse_step
from fewjump.sampler.single_stage import reverse_move
from fewjump.schedule import LogLinear
from sampler.oracle import chi_square_p

V, L = 5, 3
PRIOR = torch.tensor([0.3, 0.1, 0.2, 0.15, 0.25], dtype=torch.float64)
PROCESSES: dict[str, Process] = {
    "uniform": Uniform(V, LogLinear()),
    "kept": Uniform(V, LogLinear(), kept=[1]),
    "prior": ResetToPrior(PRIOR, LogLinear()),
    "hybrid": TimeVaryingPrior(
        InterpolatedPriors(mask_and_uniform(V).tolist()), LogLinear(), mask=V - 1
    ),
    "moving": TimeVaryingPrior(
        lambda u: torch.stack([PRIOR, PRIOR.flip(0)])[(u > 0.5).long()], LogLinear()
    ),
}
X = torch.tensor([[0, 1, 4], [2, 3, 1], [4, 4, 0]])
SCALAR = torch.tensor(0.7).double(), torch.tensor(0.4).double()
OF_EACH = torch.tensor([0.9, 0.5, 0.6]).double(), torch.tensor([0.3, 0.45, 0.0]).double()
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=list(PROCESSES))
every_time = pytest.mark.parametrize("times", [SCALAR, OF_EACH], ids=["one time", "times"])


def ratios_of(spread: float, seed: int = 0, rows: int = 3) -> Tensor:
    """Imperfect ratios: independent of each other, and 1 at no token in particular."""
    source = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(rows, L, V, generator=source, dtype=torch.float64)).exp()


def exact_ratios(process: Process, t: Tensor) -> Tensor:
    """Ratios of a posterior, of which no step puts anything below zero."""
    posterior = ratios_of(1.0)
    posterior[..., never_clean(process)] = 0
    return process.ratios_from_posterior(posterior / posterior.sum(-1, keepdim=True), X, t)


def denoiser_of(process: Process, ratios: Tensor, method: Any = "clip") -> ScoreDenoiser:
    return ScoreDenoiser(lambda x, t: ratios[: len(x)].clone(), process, method, length=L)


def stay(table: Tensor, x: Tensor) -> Tensor:
    """Transition rows from the probabilities of other tokens, as a linear rule makes them."""
    here = one_hot(x, V)
    away = table * (1 - here)
    total = away.sum(-1, keepdim=True)
    away = away / total.clamp(min=1)
    return away + here * (1 - away.sum(-1, keepdim=True))


@every_process
@every_time
@pytest.mark.parametrize("exact", [True, False])
def test_the_analytic_step_is_that_of_dense_matrices(
    process: Process, times: tuple[Tensor, Tensor], exact: bool
) -> None:
    """r·P⁻¹ times P[·, x], with inverted matrices; an entry below zero is 0."""
    t, s = times
    ratios = exact_ratios(process, t) if exact else ratios_of(2.0)
    law = denoiser_of(process, ratios)(X, t)
    rates = reverse_step(law, process, X, t, s)
    assert isinstance(rates, RatioRates)
    ratios = ratios.scatter(-1, X[..., None], 1.0)
    kernel = process.kernel(s, t).dense().expand(3, V, V)
    staggered = torch.einsum("bly,bya->bla", ratios, torch.linalg.inv(kernel))
    column = torch.stack([kernel[b].T[X[b]] for b in range(3)])
    signed = staggered * column
    clipped = bool((signed * (1 - one_hot(X, V)) < -1e-9).any())
    assert clipped == (not exact), "one case must clip, the other must not"
    rows = JumpMove(X, rates, 1.0, "linear").rows()
    torch.testing.assert_close(rows, stay(signed.clamp(min=0), X), rtol=0, atol=1e-12)


@every_process
@every_time
def test_the_analytic_step_is_the_reverse_step_of_the_recovered_posterior(
    process: Process, times: tuple[Tensor, Tensor]
) -> None:
    """SEDD's theorem 4.1: the road through Eq. 8 leads to the same table."""
    t, s = times
    ratios = exact_ratios(process, t)
    law = denoiser_of(process, ratios)(X, t)
    rows = reverse_move(law, process, X, t, s).rows()  # type: ignore[attr-defined]
    closed = process.posterior_from_ratios(ratios.scatter(-1, X[..., None], 1.0), X, t)
    table = process.reverse_marginals(closed, X, s, t)
    torch.testing.assert_close(rows, stay(table.clamp(min=0), X), rtol=0, atol=1e-12)


@every_process
@every_time
def test_eulers_rates_are_the_generators_column_times_the_ratios(
    process: Process, times: tuple[Tensor, Tensor]
) -> None:
    t, _ = times
    ratios = ratios_of(2.0)
    rates = reverse_rates(denoiser_of(process, ratios)(X, t), process, X, t)
    assert isinstance(rates, RatioRates)
    generator = process.rate(t).expand(3, V, V)
    column = torch.stack([generator[b].T[X[b]] for b in range(3)])
    expected = (column * ratios * (1 - one_hot(X, V))).reshape(-1, V)
    index = torch.arange(3 * L)
    torch.testing.assert_close(rates.values(index), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(rates.open(index).total, expected.sum(-1), rtol=0, atol=1e-12)


@every_process
@every_time
def test_a_law_without_gradients_steps_by_the_same_ratios(
    process: Process, times: tuple[Tensor, Tensor]
) -> None:
    """What the Euler step of a score student under training is drawn from."""
    t, _ = times
    law, index = denoiser_of(process, ratios_of(2.0))(X, t), torch.arange(3 * L)
    assert isinstance(law, ProductLaw)
    found = reverse_rates(law.detach(), process, X, t).values(index)
    assert torch.equal(found, reverse_rates(law, process, X, t).values(index))


@every_process
@pytest.mark.parametrize("sampler", ["ancestral", "euler", "last"])
def test_draws_have_the_law_of_the_table(process: Process, sampler: str) -> None:
    n = 12_000
    ratios = ratios_of(1.0, rows=1)
    t, s = torch.tensor(0.6).double(), torch.tensor(0.45).double()

    def move(rows: int) -> Any:
        x = X[:1].expand(rows, -1)
        law = denoiser_of(process, ratios.expand(rows, -1, -1))(x, t)
        if sampler == "euler":
            return JumpMove(x, reverse_rates(law, process, x, t), t - s, "linear")
        return (
            LawMove(law, x, process) if sampler == "last" else reverse_move(law, process, x, t, s)
        )

    samples = move(n).sample(torch.Generator().manual_seed(1))
    assert chi_square_p(samples, move(1).table()[0], V) > 1e-4


@pytest.mark.parametrize("sampler", ["ancestral", "euler"])
def test_samples_have_the_exact_output_law(sampler: str) -> None:
    """An imperfect network that depends on the state, over several steps and the last draw."""
    weight = ratios_of(0.7, rows=1)[0].log()

    def network(x: Tensor, t: Tensor) -> Tensor:
        others = x.roll(1, -1)[..., None] == torch.arange(3)
        return weight[:2, :3] * (1 + 0.5 * x[:, :1, None]) + others * t[:, None, None]

    denoiser = ScoreDenoiser(network, Uniform(3, LogLinear()), log=True, length=2)
    law = exact_output_law(denoiser, 3, sampler)
    samples = run(denoiser, 20_000, 3, sampler, generator=0).samples
    assert chi_square_p(samples, law, 3) > 1e-4


@every_process
@pytest.mark.parametrize("method", ["clip", "project", "multiplicative"])
@pytest.mark.parametrize("spread", [0.02, 1.0])
def test_the_last_draw_is_from_the_recovered_law(
    process: Process, method: str, spread: float
) -> None:
    """Weights made of the ratios of a few rows, and logits made of all, are of one law.

    Neither is a law where all that is recovered is a token that is never clean.
    """
    t = OF_EACH[0]
    ratios = ratios_of(spread)
    late = denoiser_of(process, ratios, method)(X, t)
    index = torch.tensor([0, 4, 4, 8, 2])
    weights = late.source.weights(index)
    found = process.recover(ratios.scatter(-1, X[..., None], 1.0), X, t, method)  # type: ignore[arg-type]
    logits = constrain_logits(found.posterior.log(), X, process)
    expected = logits.softmax(-1)
    got = weights / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(
        got, expected.flatten(0, 1)[index], rtol=0, atol=1e-12, equal_nan=True
    )
    torch.testing.assert_close(late.marginals(), expected, rtol=0, atol=1e-12, equal_nan=True)


def test_a_report_is_made_when_it_is_asked_for() -> None:
    process, ratios = PROCESSES["uniform"], ratios_of(2.0)
    denoiser = denoiser_of(process, ratios)
    denoiser(X, OF_EACH[0])
    report = denoiser.last_recovery
    assert report is not None
    found = process.recover(ratios.scatter(-1, X[..., None], 1.0), X, OF_EACH[0], "clip")
    assert float(found.clipped_mass.max()) > 0.01
    torch.testing.assert_close(report.clipped_mass, found.clipped_mass)
    torch.testing.assert_close(report.condition_number, found.condition_number)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_many_blocks_are_inverted_where_their_table_is(
    deferred: bool, dtype: torch.dtype
) -> None:
    vocab, length = 700, 40
    process = Uniform(vocab, LogLinear())
    source = torch.Generator().manual_seed(2)
    features = torch.randn(2, length, 6, generator=source, dtype=dtype)
    weight = torch.randn(vocab, 6, generator=source, dtype=dtype)
    linear = LinearLogits(features, weight, torch.zeros(vocab, dtype=dtype))
    x = torch.randint(vocab, (2, length), generator=source)
    ratios = Ratios(linear if deferred else DenseLogits(linear.dense()), x, log=True)
    step = process.bridge_to(x, SCALAR[1], SCALAR[0]).by_ratios
    assert step is not None
    index = torch.randperm(2 * length, generator=source)[:50]
    rates = RatioRates(ratios, step)
    rows, values = rates.open(index), rates.values(index)
    exact = linear.dense().double().exp().scatter(-1, x[..., None], 1.0).flatten(0, 1)[index]
    step.weigh(exact, x, index)
    size = float(exact.sum(-1).max())
    close = {"rtol": 0, "atol": size * (1e-13 if dtype == torch.float64 else 3e-7)}
    torch.testing.assert_close(values.double(), exact, **close)
    torch.testing.assert_close(rows.total, exact.sum(-1), **close)
    which = torch.arange(50).repeat(20)
    u = torch.rand(1000, generator=source, dtype=torch.float64)
    assert torch.equal(rows.draw(which, u), invert_cdf(values[which], u))


def test_draws_for_a_seed_do_not_depend_on_the_batch() -> None:
    ratios = ratios_of(1.0, rows=1)
    denoiser = denoiser_of(PROCESSES["uniform"], ratios.expand(64, -1, -1))
    whole = run(denoiser, 60, 4, generator=5).samples
    assert torch.equal(run(denoiser, 60, 4, generator=5, batch_size=7).samples, whole)


def test_ratios_that_are_no_numbers_are_refused() -> None:
    process, ratios = PROCESSES["uniform"], ratios_of(1.0)
    ratios[1, 2, 3] = torch.nan
    law = denoiser_of(process, ratios)(X, SCALAR[0])
    for move in (
        reverse_move(law, process, X, *SCALAR),
        JumpMove(X, reverse_rates(law, process, X, SCALAR[0]), 0.3, "linear"),
        LawMove(law, X, process),
    ):
        with pytest.raises(ValueError, match="NaN"):
            move.sample(SampleStreams(0, torch.arange(3)))
