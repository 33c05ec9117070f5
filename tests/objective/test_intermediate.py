"""Draws of x_s: the structured Euler step follows the dense formula; rollouts follow the chain."""

from __future__ import annotations

import pytest
import torch
from tabular import BruteForceDenoiser, Constant, euler_table, random_joint

from fewjump.law.base import enumerate_states, ravel
from fewjump.law.product import ProductLaw
from fewjump.objective.intermediate import draw_earlier, roll_down
from fewjump.process import (
    Absorbing,
    DenseKernel,
    ResetToPrior,
    Uniform,
    gidd,
    mask_to_uniform,
)
from fewjump.process.base import Process
from fewjump.sampler import Ancestral, Euler, ThetaTrapezoidal
from fewjump.schedule import Linear, LogLinear

PRIOR = torch.tensor([0.5, 0.2, 0.2, 0.1])
PROCESSES = [
    Uniform(4, LogLinear()),
    Absorbing(4, LogLinear()),
    Absorbing(4, Linear(3.0)),
    ResetToPrior(PRIOR, Linear(2.0)),
    gidd(4, LogLinear(), 0.3),
    mask_to_uniform(4, Linear(2.0)),
]
SAMPLERS = [Euler(), Ancestral(), ThetaTrapezoidal()]
N = 60_000


def assert_same_law(draws: torch.Tensor, table: torch.Tensor) -> None:
    """Frequencies of (N,) draws within 4.5 standard errors of the (V,) table, zeros exact."""
    n = draws.shape[0]
    share = torch.bincount(draws, minlength=table.shape[0]).double() / n
    table = table.double()
    assert (share[table == 0] == 0).all()
    error = (share - table).abs()
    assert (error <= 4.5 * (table * (1 - table) / n).sqrt() + 1 / n).all(), (share, table)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("gap", [0.05, 0.6])
def test_structured_euler_follows_equation_11(process, gap, generator):
    x_t = torch.tensor([[1, 3]])
    logits = torch.tensor([[[0.2, 1.0, -1.0, 0.4], [0.0, 0.5, 1.5, -0.5]]], dtype=torch.float64)
    if isinstance(process, Absorbing):
        logits[..., 3] = -torch.inf
        logits[0, 0] = torch.tensor([-torch.inf, 0.0, -torch.inf, -torch.inf])
    t, s = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.8 - gap], dtype=torch.float64)
    law = ProductLaw(logits)
    # The formula, written out: Δt·σ(t)·Q[y, x]·r_y off the diagonal.
    ratios = process.ratios_from_posterior(law.marginals(), x_t, t)
    rate = process.rate(float(t)).T[x_t] * ratios * (t - s)
    rate = rate.scatter(-1, x_t[..., None], 0.0)
    total = rate.sum(-1)
    table = rate / total.clamp(min=1)[..., None]
    table = table.scatter(-1, x_t[..., None], (1 - total).clamp(min=0)[..., None])
    torch.testing.assert_close(euler_table(process, law, x_t, s, t), table, atol=1e-12, rtol=0)
    student = Constant(process, logits)
    drawn, clipped = draw_earlier(
        Euler(), student, x_t.expand(N, -1), s.expand(N), t.expand(N), generator
    )
    torch.testing.assert_close(clipped, (total - 1).clamp(min=0).mean())
    for position in range(2):
        assert_same_law(drawn[:, position], table[0, position])


def test_dense_and_structured_draws_agree_on_a_foreign_process(generator):
    class Dense(Process):
        """A uniform process known only through its matrices."""

        vocab_size, schedule = 4, LogLinear()

        def base_rate(self):
            return Uniform(4, LogLinear()).base_rate()

        def kernel(self, s, t):
            return DenseKernel(Uniform(4, LogLinear()).kernel(s, t).dense())

        def prior(self):
            return Uniform(4, LogLinear()).prior()

        def config(self):
            return {}

    logits = torch.tensor([[[0.2, 1.0, -1.0, 0.4]]], dtype=torch.float64)
    x_t = torch.full((N, 1), 2)
    t = torch.full((N,), 0.7, dtype=torch.float64)
    drawn, _ = draw_earlier(Euler(), Constant(Dense(), logits), x_t, t - 0.2, t, generator)
    table = euler_table(Uniform(4, LogLinear()), ProductLaw(logits), x_t[:1], t[:1] - 0.2, t[:1])
    assert_same_law(drawn[:, 0], table[0, 0])


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_the_exact_step_follows_the_reverse_marginals(process, generator):
    logits = torch.tensor([[[0.2, 1.0, -1.0, 0.4]]], dtype=torch.float64)
    if isinstance(process, Absorbing):
        logits[..., 3] = -torch.inf
    x_t = torch.tensor([[3]])
    t, s = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    drawn, _ = draw_earlier(
        Ancestral(),
        Constant(process, logits),
        x_t.expand(N, 1),
        s.expand(N),
        t.expand(N),
        generator,
    )
    table = process.reverse_marginals(ProductLaw(logits).marginals(), x_t, s, t)
    assert_same_law(drawn[:, 0], table[0, 0])


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize(
    "sampler", [Euler(), Ancestral(), ThetaTrapezoidal()], ids=lambda s: s.name
)
def test_rows_with_times_of_their_own_follow_the_tables_of_their_times(process, sampler):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, 4, generator=generator, dtype=torch.float64)
    x_t = torch.randint(0, 4, (4, 3), generator=generator)
    if isinstance(process, Absorbing):
        logits[..., 3] = -torch.inf
        visible = x_t != 3
        certain = torch.full_like(logits, -torch.inf).scatter(-1, x_t[..., None], 0.0)
        logits = torch.where(visible[..., None], certain, logits)
    t = torch.tensor([0.9, 0.6, 0.6, 0.3], dtype=torch.float64)
    s = torch.tensor([0.5, 0.55, 0.1, 0.2], dtype=torch.float64)

    def tables(rows):
        """What the step's moves draw from, the first draw being x_t itself."""
        times = (t[rows], s[rows]) if len(rows) > 1 else (t[rows[0]], s[rows[0]])
        moves = sampler.moves(Constant(process, logits[rows]), x_t[rows], *times)
        found = [next(moves).rows()]
        if sampler.evaluations == 2:
            found.append(moves.send(x_t[rows]).rows())
        return torch.stack(found)

    together = tables([0, 1, 2, 3])
    for row in range(4):
        torch.testing.assert_close(together[:, row], tables([row])[:, 0], atol=1e-12, rtol=0)


def test_rollout_reaches_the_true_marginal_of_x_s(generator):
    """From the prior down to s with many exact steps, x_s follows p_s up to O(1/steps)."""
    process, probs = Uniform(3, Linear(8.0)), random_joint(3, 2)
    teacher = BruteForceDenoiser(probs, 2, process, 3)
    n = 20_000
    start = torch.ones(n, dtype=torch.float64)
    x = process.prior_sample((n, 2), generator)
    x = roll_down(teacher, x, start, 0.1 * start, 40, generator)
    states = enumerate_states(3, 2)
    kernel = process.kernel(0.0, 0.1).dense()
    p_s = torch.stack(
        [
            (kernel[:, y[0]][states[:, 0]] * kernel[:, y[1]][states[:, 1]] * probs).sum()
            for y in states
        ]
    )
    share = torch.bincount(ravel(x, 3), minlength=9).double() / n
    assert (share - p_s).abs().sum() / 2 < 0.02
    assert (share - 1 / 9).abs().sum() / 2 > 0.1
