"""Reset processes: numerics near both ends, precisions, edge times, draws in batches."""

from __future__ import annotations

import pytest
import torch

from fewjump.process import Absorbing, ResetToPrior, Uniform
from fewjump.random import SampleStreams
from fewjump.schedule import Cosine, Geometric, Linear, LogLinear

PRIOR = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0])
PROCESSES = [
    Uniform(5, LogLinear()),
    Absorbing(5, LogLinear()),
    Absorbing(5, Cosine(), mask=0),
    ResetToPrior(PRIOR, Geometric()),
]
EACH = pytest.mark.parametrize("process", PROCESSES, ids=repr)


def posterior_of(process, x_t, t, dtype=torch.float64):
    weights = torch.rand(
        *x_t.shape, process.vocab_size, generator=torch.Generator().manual_seed(4)
    ).double()
    weights = weights * (process.likelihood(x_t, t) > 0)
    return (weights / weights.sum(-1, keepdim=True)).to(dtype)


@pytest.mark.parametrize(
    "prior", [[0.5, 0.6], [-0.1, 1.1], [1.0], [[0.5, 0.5]], [torch.nan, 1.0], [0.0, 0.0]]
)
def test_what_is_not_a_law_is_refused(prior):
    with pytest.raises(ValueError, match="prior must be"):
        ResetToPrior(torch.tensor(prior), LogLinear())


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="vocab_size"):
        Uniform(1, LogLinear())
    with pytest.raises(ValueError, match="vocab_size"):
        Absorbing(1, LogLinear())
    with pytest.raises(ValueError, match="mask must lie"):
        Absorbing(5, LogLinear(), mask=5)
    assert Absorbing(5, LogLinear()).mask == 4


@EACH
def test_a_step_from_tiny_times_is_still_a_law(process, generator):
    x0 = torch.arange(5).repeat(400)[:, None]
    for s, t in ((0.0, 1e-30), (1e-12, 2e-12), (0.999999, 1.0), (0.0, 1.0)):
        x_t = process.corrupt(x0, 0.0, t, generator)
        posterior = posterior_of(process, x_t, t)
        reverse = process.reverse_marginals(posterior, x_t, s, t)
        assert bool((reverse >= -1e-15).all())
        torch.testing.assert_close(reverse.sum(-1), torch.ones(2000, 1).double())
        x_s = process.bridge(x_t, x0, s, t, generator)
        possible = process.bridge_marginals(x_t, x0, s, t).gather(-1, x_s[..., None]) > 0
        assert bool(possible.all())


@EACH
def test_one_shot_step_returns_the_posterior(process, generator):
    x_t = process.prior_sample((6, 3), generator)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        posterior = posterior_of(process, x_t, 1.0, dtype)
        for t in (1.0, torch.ones(6), torch.ones(6, dtype=torch.float64)):
            reverse = process.reverse_marginals(posterior, x_t, 0.0, t)
            assert reverse.dtype == dtype
            tolerance = {torch.float64: 1e-14, torch.float32: 2e-7, torch.bfloat16: 8e-3}[dtype]
            assert float((reverse - posterior).abs().max()) <= tolerance


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_input_is_the_rounded_float64_result(process, dtype, generator):
    x_t = process.corrupt(torch.arange(5).repeat(4)[:, None], 0.0, 0.4, generator)
    # Unit roundoff of the format, with a margin for the sums and products of one step.
    tolerance = 8 * torch.finfo(dtype).eps
    low = posterior_of(process, x_t, 0.4, dtype)
    high = low.double()
    for method, arguments in (
        ("reverse_marginals", (x_t, 0.1, 0.4)),
        ("ratios_from_posterior", (x_t, 0.4)),
    ):
        a = getattr(process, method)(low, *arguments)
        b = getattr(process, method)(high, *arguments)
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


def test_ratios_near_the_data_do_not_overflow_float16():
    process = Uniform(512, Linear(sigma_max=5.0))
    x_t = torch.zeros(1, 1, dtype=torch.int64)
    posterior = torch.zeros(1, 1, 512, dtype=torch.float16)
    posterior[..., 0] = 1.0
    # The likelihood of every other token is below the smallest float16.
    ratios = process.ratios_from_posterior(posterior, x_t, 1e-7)
    assert bool(ratios.isfinite().all())
    assert ratios[0, 0, 0] == 1


@EACH
def test_float32_times_near_the_ends(process):
    x_t = torch.tensor([[0, 2, 3, 4]])
    for s, t in ((2.0**-20, 2.0**-19), (1 - 2.0**-20, 1 - 2.0**-22), (0.0, 2.0**-24)):
        exact = process.bridge_to(x_t, s, t).coefficients
        single = process.bridge_to(x_t, torch.tensor(s), torch.tensor(t)).coefficients
        for a, b in zip(single[:3], exact[:3]):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@EACH
def test_draws_do_not_depend_on_the_batch_split(process):
    x0 = torch.arange(5).repeat(2, 8)[:, :20].reshape(8, 5)
    t = torch.linspace(0.1, 1.0, 8)

    def walk(rows):
        streams = SampleStreams(3, rows)
        x_t = process.corrupt(x0[rows], 0.0, t[rows], streams)
        x_s = process.bridge(x_t, x0[rows], t[rows] / 2, t[rows], streams)
        return torch.stack([x_t, x_s, process.prior_sample(x_t.shape, streams)], 1)

    whole = walk(torch.arange(8))
    assert torch.equal(whole, torch.cat([walk(torch.arange(3)), walk(torch.arange(3, 8))]))


def test_condition_number_is_that_of_the_mixing():
    process = Uniform(50_257, LogLinear())
    for t in (0.1, 0.9, 1.0):
        expected = 1 / float(process.schedule.alpha(t))
        assert float(process.condition_number(t)) == pytest.approx(expected, rel=1e-12)
    assert float(Absorbing(50_257, LogLinear()).condition_number(0.0)) == 1.0


def test_gradients_pass_through_the_steps():
    process = Uniform(4, LogLinear())
    with torch.inference_mode():  # a copy of the prior is cached here first
        process.likelihood(torch.zeros(1, 1).long(), 0.5)
        process.ratios_from_posterior(torch.full((1, 1, 4), 0.25), torch.zeros(1, 1).long(), 0.5)
    x_t = torch.tensor([[1, 2]])
    logits = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    logits.requires_grad_(True)

    def steps(values):
        posterior = values.softmax(-1)
        ratios = process.ratios_from_posterior(posterior, x_t, 0.6)
        return (
            process.reverse_marginals(posterior, x_t, 0.2, 0.6),
            process.reverse_rates(ratios, x_t, 0.6),
            process.posterior_from_ratios(ratios, x_t, 0.6),
        )

    assert torch.autograd.gradcheck(steps, (logits,))
    single = logits.detach().float().requires_grad_(True)
    process.ratios_from_posterior(single.softmax(-1), x_t, 0.6).square().sum().backward()
    assert single.grad is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@EACH
def test_results_are_the_same_on_an_accelerator(process):
    x0 = torch.arange(5).repeat(4)[:, None]
    t = torch.linspace(0.1, 1.0, 20)
    for where in ("cpu", "cuda"):
        streams = SampleStreams(3, torch.arange(20))
        x_t = process.corrupt(x0.to(where), 0.0, t.to(where), streams)
        x_s = process.bridge(x_t, x0.to(where), 0.05, t.to(where), streams)
        posterior = posterior_of(process, x_t.cpu(), t).to(where)
        ratios = process.ratios_from_posterior(posterior, x_t, t.to(where))
        found = [
            x_t, x_s, posterior, ratios,
            process.reverse_marginals(posterior, x_t, 0.05, t.to(where)),
            process.reverse_rates(ratios, x_t, t.to(where)),
            process.posterior_from_ratios(ratios, x_t, t.to(where), "clip"),
            process.kernel(0.0, t.to(where)).dense(),
        ]  # fmt: skip
        if where == "cpu":
            expected = found
    for a, b in zip(found, expected):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-10, atol=1e-12)
