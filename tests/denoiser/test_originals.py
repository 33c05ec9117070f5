"""What the originals need of denoisers: evidence left out, raw outputs, ratios to step by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewjump.denoiser import HEADS, NetworkDenoiser, ScoreDenoiser
from fewjump.denoiser.constrain import LeftOneOut
from fewjump.process import Absorbing, Process, Uniform
from fewjump.sampler import SAMPLERS
from fewjump.sampler.moves import JumpMove
from fewjump.schedule import LogLinear

V, L = 5, 4
TRUNK = {"hidden": 8, "blocks": 1, "heads": 2, "condition_dim": 4, "conv_kernel": 0}
TIMES = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)


def scrambled(denoiser: torch.nn.Module, scale: float = 0.5) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in denoiser.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)


def network(process: Process, kind: str = "product", **options: object) -> NetworkDenoiser:
    config = {"process": process.config(), "trunk": TRUNK, "head": {"kind": kind}, "length": L}
    torch.manual_seed(0)
    denoiser = NetworkDenoiser.from_config({**config, **options}).double().eval()
    scrambled(denoiser)
    return denoiser


def states() -> Tensor:
    return torch.randint(V, (3, L), generator=torch.Generator().manual_seed(7))


def test_the_law_is_the_networks_answer_times_the_likelihood() -> None:
    denoiser = network(Uniform(V, LogLinear()), leave_one_out=True)
    x = states()
    with torch.no_grad():
        level = denoiser.process.schedule.sigma_bar(TIMES)
        others = denoiser.raw_logits(x, level).softmax(-1)
        expected = others * denoiser.process.likelihood(x, TIMES)
        expected = expected / expected.sum(-1, keepdim=True)
        torch.testing.assert_close(denoiser(x, TIMES).marginals(), expected, rtol=0, atol=1e-13)


def test_a_step_of_that_law_is_the_originals_formula() -> None:
    """UDLM's and Duo's ancestral step, written out as their papers have it."""
    denoiser = network(Uniform(V, LogLinear()), leave_one_out=True)
    x = states()
    for t, s in ((0.9, 0.7), (0.4, 0.1), (0.05, 0.0)):
        now, later = torch.tensor(t).double(), torch.tensor(s).double()
        a_t, a_s = denoiser.process.schedule.alpha(now), denoiser.process.schedule.alpha(later)
        with torch.no_grad():
            level = denoiser.process.schedule.sigma_bar(now)
            p = denoiser.raw_logits(x, level.expand(3)).softmax(-1)
            move = next(SAMPLERS["ancestral"]().moves(denoiser, x, now, later))
        assert isinstance(move, JumpMove)
        here = torch.nn.functional.one_hot(x, V).double()
        r = a_t / a_s
        above = a_t * V * p * here + (r - a_t) * here + (a_s - a_t) * p + (1 - r) * (1 - a_s) / V
        below = a_t * V * p.gather(-1, x[..., None]) + 1 - a_t
        torch.testing.assert_close(move.rows(), above / below, rtol=0, atol=1e-12)


# A shared mixture is for absorbing processes.
@pytest.mark.parametrize("kind", sorted(set(HEADS) - {"shared-mixture"}))
def test_every_student_of_such_a_teacher_starts_at_its_law(kind: str) -> None:
    teacher = network(Uniform(V, LogLinear()), leave_one_out=True)
    student = network(Uniform(V, LogLinear()), kind, leave_one_out=True)
    student.warm_start(teacher)
    x, x0 = states(), states().flip(0)
    with torch.no_grad():
        found, expected = student(x, TIMES).log_prob(x0), teacher(x, TIMES).log_prob(x0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gradients_reach_through_the_evidence() -> None:
    denoiser = network(Uniform(V, LogLinear()), leave_one_out=True)
    x = states()
    loss = denoiser(x, TIMES).log_prob(x.flip(0)).sum()
    loss.backward()
    bias = denoiser.head.linear.bias  # type: ignore[union-attr]
    grad, step = bias.grad[1].item(), 1e-6  # type: ignore[index]
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            bias[1] += sign * step  # type: ignore[operator]
            values.append(float(denoiser(x, TIMES).log_prob(x.flip(0)).sum()))
            bias[1] -= sign * step  # type: ignore[operator]
    assert grad == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_evidence_at_both_ends_of_time_is_finite() -> None:
    seen = LeftOneOut(Uniform(V, LogLinear()), torch.tensor([0.0, 1e-12, 50.0]))
    evidence = seen.own_evidence()
    assert bool(evidence.isfinite().all())
    assert float(evidence[2]) == pytest.approx(0, abs=1e-15)
    denoiser = network(Uniform(V, LogLinear()), leave_one_out=True)
    with torch.no_grad():
        at_data = denoiser(states(), 0.0).marginals()
    torch.testing.assert_close(at_data.argmax(-1), states())


def test_leave_one_out_needs_uniform_noise_and_agreement() -> None:
    with pytest.raises(ValueError, match="uniform noise, got a Absorbing"):
        network(Absorbing(V, LogLinear()), leave_one_out=True)
    with pytest.raises(ValueError, match="leave_one_out=True"):
        network(Uniform(V, LogLinear())).warm_start(
            network(Uniform(V, LogLinear()), leave_one_out=True)
        )


@pytest.mark.parametrize("scaled", [True, False])
def test_score_networks_give_their_outputs_and_a_product_student(scaled: bool) -> None:
    process = Absorbing(V, LogLinear())
    config = {"process": process.config(), "trunk": TRUNK, "length": L, "scaled": scaled}
    denoiser = ScoreDenoiser.from_config(config).double().eval()
    scrambled(denoiser)
    assert denoiser.config()["scaled"] is scaled
    x = states()
    level = process.schedule.sigma_bar(TIMES)
    with torch.no_grad():
        raw, score = denoiser.raw_logits(x, level), denoiser.log_score(x, level)
        torch.testing.assert_close(score.exp(), denoiser.ratios(x, TIMES))
        offset = torch.log(torch.expm1(level) * (V - 1))[:, None, None] if scaled else 0.0
        expected = (raw - offset).scatter(-1, x[..., None], 0.0)
        torch.testing.assert_close(score, expected)
        student = denoiser.as_network()
        found = student(x, TIMES).marginals()
        torch.testing.assert_close(found, denoiser(x, TIMES).marginals(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("process", [Absorbing(V, LogLinear()), Uniform(V, LogLinear())], ids=str)
def test_samplers_step_by_the_ratios_of_an_imperfect_network(process: Process) -> None:
    """SEDD's Euler and analytic steps, written out, and not those of the law nearest to them."""
    config = {"process": process.config(), "trunk": TRUNK, "length": L}
    torch.manual_seed(0)
    denoiser = ScoreDenoiser.from_config(config).double().eval()
    scrambled(denoiser)
    # A short step: the ratios of random weights are large, and Euler's must not overshoot here.
    x, t, s = states(), torch.tensor(0.6).double(), torch.tensor(0.599).double()
    with torch.no_grad():
        ratios = denoiser.ratios(x, t.expand(3))
        euler = next(SAMPLERS["euler"]().moves(denoiser, x, t, s))
        analytic = next(SAMPLERS["ancestral"]().moves(denoiser, x, t, s))
    assert isinstance(euler, JumpMove)
    assert isinstance(analytic, JumpMove)
    here = torch.nn.functional.one_hot(x, V).double()
    rate = process.base_rate().T[x] * ratios * process.schedule.sigma(t)
    rate = rate * (1 - here)
    rate = rate - here * rate.sum(-1, keepdim=True)
    torch.testing.assert_close(euler.rows(), here + (t - s) * rate, rtol=0, atol=1e-12)
    kernel = process.kernel(s, t).dense()
    staggered = ratios @ torch.linalg.inv(kernel)
    # What an imperfect network puts below zero is not drawn.
    away = (staggered * kernel.T[x] * (1 - here)).clamp(min=0)
    table = away + here * (1 - away.sum(-1, keepdim=True))
    torch.testing.assert_close(analytic.rows(), table, rtol=0, atol=1e-10)
