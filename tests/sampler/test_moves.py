"""Each move draws its own table; jump probabilities survive float32; untouched rows stay unread."""

from __future__ import annotations

import pytest
import torch

from fewjump.denoiser.constrain import constrain_logits
from fewjump.denoiser.logits import LogitDenoiser
from fewjump.law import ProductLaw
from fewjump.process import Absorbing, ResetToPrior, Uniform
from fewjump.random import SampleStreams
from fewjump.sampler.first_hitting import EventMove
from fewjump.sampler.moves import JointReverseMove, JumpMove, LawMove
from fewjump.sampler.rates import CombinedRates, DenseRates
from fewjump.sampler.reverse import reverse_rates, reverse_step
from fewjump.sampler.single_stage import reverse_move
from fewjump.schedule import Linear, LogLinear
from laws.registry import PROCESSES
from sampler.oracle import chi_square_p, problem_for, random_joint, random_law

# Some registered chains keep some of the data at t = 1; nothing here depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:at t = 1 the slowest mode")

N = 12_000
T, S = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)


def assert_draws_its_table(build, vocab: int) -> None:
    """``build(n)`` makes the move for n equal rows."""
    table = build(1).table()
    assert float(table.sum()) == pytest.approx(1, abs=1e-9)
    samples = build(N).sample(torch.Generator().manual_seed(1))
    assert chi_square_p(samples, table, vocab) > 1e-4


def law_and_state(process, n: int, length: int = 2):
    logits = random_law(1, length, process.vocab_size).logits.expand(n, -1, -1).clone()
    absorbing = isinstance(process, Absorbing)
    x = torch.tensor([process.mask if absorbing else 2, 0][:length]).expand(n, -1)
    return ProductLaw(constrain_logits(logits, x, process)), x


@pytest.mark.parametrize("name", PROCESSES.names())
def test_reverse_move_of_a_product_law(name: str) -> None:
    process = PROCESSES.make(name, LogLinear())

    def build(n: int):
        law, x = law_and_state(process, n)
        return reverse_move(law, process, x, T, S)

    assert_draws_its_table(build, process.vocab_size)
    law, x = law_and_state(process, 1)
    expected = process.reverse_marginals(law.marginals(), x, S, T)
    table = build(1).table().reshape(process.vocab_size, -1)
    assert torch.allclose(table.sum(1), expected[0, 0], atol=1e-14)
    assert torch.allclose(table.sum(0), expected[0, 1], atol=1e-14)


@pytest.mark.parametrize("rule", ["poisson", "linear"])
@pytest.mark.parametrize("name", PROCESSES.names())
def test_jumps_by_rates(name: str, rule) -> None:
    process = PROCESSES.make(name, LogLinear())

    def build(n: int):
        law, x = law_and_state(process, n)
        return JumpMove(x, reverse_rates(law, process, x, T), T - S, rule)

    assert_draws_its_table(build, process.vocab_size)


@pytest.mark.parametrize("name", PROCESSES.names())
def test_rates_are_the_reverse_rates_of_the_process(name: str) -> None:
    process = PROCESSES.make(name, LogLinear())
    problem = problem_for(process, 2)
    x = process.prior_sample((6, 2), torch.Generator().manual_seed(2))
    law = problem.denoiser(process)(x, T)
    rates = reverse_rates(law, process, x, T)
    ratios = process.ratios_from_posterior(law.marginals(), x, T)
    expected = process.reverse_rates(ratios, x, T).scatter(-1, x[..., None], 0.0)
    index = torch.arange(12)
    assert torch.allclose(rates.values(index), expected.reshape(12, -1), atol=1e-12)
    total = rates.open(index).total.reshape(6, 2)
    assert torch.allclose(total, expected.sum(-1), atol=1e-12)
    assert bool((rates.bound >= total - 1e-12).all())


def test_combined_rates_are_clamped_and_say_so() -> None:
    process = Uniform(3, LogLinear())
    first_law, x = law_and_state(process, 1)
    second_law = random_law(1, 2, 3, seed=9)
    first = reverse_rates(first_law, process, x, T)
    second = reverse_rates(second_law, process, x, S)
    index = torch.arange(2)
    plain = 2 * second.values(index) - 1.5 * first.values(index)
    rates = CombinedRates(second, 2.0, first, -1.5, x)
    rows = rates.open(index)
    negative = rows.negative
    assert bool((plain < 0).any())
    assert negative is not None
    assert torch.allclose(rates.values(index), plain.clamp(min=0))
    assert torch.allclose(rows.total, plain.clamp(min=0).sum(-1))
    assert torch.allclose(negative, -plain.clamp(max=0).sum(-1))
    # Where nothing is below zero, nothing is clamped: no rounding of float32 sums either.
    many = torch.rand(2, 3, 700, generator=torch.Generator().manual_seed(0)) + 0.1
    here = x.new_zeros(1, 3)
    parts = [DenseRates(table[None], here) for table in many]
    rates = CombinedRates(parts[0], 1.0, parts[1], 0.7, here)
    none = rates.open(torch.arange(3)).negative
    assert none is not None
    assert torch.equal(none, torch.zeros(3).double())

    def build(n: int):
        many = [ProductLaw(law.logits.expand(n, -1, -1)) for law in (first_law, second_law)]
        state = x.expand(n, -1)
        one = reverse_rates(many[0], process, state, T)
        two = reverse_rates(many[1], process, state, S)
        return JumpMove(state, CombinedRates(two, 2.0, one, -1.5, state), 0.3, "poisson")

    assert_draws_its_table(build, 3)
    move = build(N)
    move.sample(torch.Generator().manual_seed(3))
    assert move.clamped is not None
    assert float(move.clamped) == pytest.approx(0.3 * float(negative.mean()), rel=0.1)


def test_euler_reports_the_excess_over_one() -> None:
    process = Uniform(3, Linear(20.0))
    law, x = law_and_state(process, 4)
    rates = reverse_rates(law, process, x, T)
    move = JumpMove(x, rates, 0.5, "linear")
    move.sample(torch.Generator().manual_seed(3))
    excess = (rates.open(torch.arange(8)).total * 0.5 - 1).clamp(min=0).mean()
    assert excess > 0
    assert torch.allclose(move.clamped, excess)


@pytest.mark.parametrize("name", PROCESSES.names())
def test_joint_reverse(name: str) -> None:
    process = PROCESSES.make(name, LogLinear())
    problem = problem_for(process, 2)

    def build(n: int):
        x = torch.tensor([2 if process.mask is None else process.mask, 0]).expand(n, -1)
        return JointReverseMove(problem.denoiser(process, joint=True)(x, T), process, x, T, S)

    assert float(build(1).table().max()) < 0.99
    assert_draws_its_table(build, process.vocab_size)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("extra_mask", [False, True])
def test_last_draw(joint: bool, extra_mask: bool) -> None:
    problem = random_joint(3, 2)
    process = Absorbing(4, LogLinear()) if extra_mask else Uniform(3, LogLinear())
    denoiser = problem.denoiser(process, joint=joint)

    def build(n: int):
        x = torch.tensor([[process.vocab_size - 1, 1]]).expand(n, -1)
        return LawMove(denoiser(x, T), x, process)

    assert_draws_its_table(build, process.vocab_size)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_reveal(joint: bool, rounds: int) -> None:
    process = Absorbing(3, LogLinear())
    denoiser = random_joint(2, 3).denoiser(process, joint=joint)
    for state in ([2, 2, 2], [2, 1, 2], [0, 1, 1]):
        assert_draws_its_table(
            lambda n, s=state: EventMove(
                denoiser, torch.tensor([s]).expand(n, -1), T.expand(n), rounds, None
            ),
            3,
        )


def test_event_times_have_their_law() -> None:
    """1 − α at the k-th of n events is the k-th largest of n uniforms: mean (n − k + 1)/(n + 1)."""
    process = Absorbing(3, LogLinear())
    denoiser = random_joint(2, 3).denoiser(process)
    x = torch.full((20_000, 3), 2)
    for rounds, events in ((3, 1), (2, 2), (1, 3)):
        move = EventMove(denoiser, x, T.expand(len(x)), rounds, None)
        move.sample(torch.Generator().manual_seed(0))
        assert move.time is not None
        share = process.schedule.one_minus_alpha(move.time) / process.schedule.one_minus_alpha(T)
        assert float(share.mean()) == pytest.approx((4 - events) / 4, abs=0.01)


def test_small_jump_probability_survives_float32() -> None:
    """Flat logits, unmask probability 1/1024: one float32 Gumbel draw unmasks none of 20,000."""
    process = Absorbing(50_000, LogLinear())
    flat = LogitDenoiser(lambda x, t: torch.zeros(*x.shape, 50_000), process)
    t = torch.tensor(0.5, dtype=torch.float64)
    s = t * (1 - 1 / 1024)
    x = torch.full((1, 200), process.mask)
    law = flat(x, t)
    streams = torch.Generator().manual_seed(4)
    jumps = 0
    for _ in range(500):
        out = reverse_move(law, process, x, t, s).sample(streams)
        jumps += int((out != x).sum())
    expected = 500 * 200 / 1024
    assert abs(jumps - expected) < 4 * expected**0.5


@pytest.mark.parametrize(
    "process", [Uniform(50, LogLinear()), ResetToPrior(torch.arange(1.0, 51) / 1275, LogLinear())]
)
def test_rows_that_cannot_jump_are_not_read(process) -> None:
    x = process.prior_sample((8, 100), torch.Generator().manual_seed(0))
    law = random_law(8, 100, 50)
    t, s = torch.tensor(0.5).double(), torch.tensor(0.49).double()
    rates = reverse_step(law, process, x, t, s)
    read: list[torch.Tensor] = []
    original = rates.open
    rates.open = lambda index: (read.append(index), original(index))[1]  # type: ignore[method-assign]
    JumpMove(x, rates, 1.0, "linear").sample(torch.Generator().manual_seed(1))
    expected = float(rates.bound.sum())
    assert abs(sum(map(len, read)) - expected) < 5 * expected**0.5
    assert expected < 0.05 * x.numel()


def test_visible_tokens_never_move() -> None:
    process = Absorbing(5, LogLinear())
    x = torch.tensor([[0, 4, 2, 4]]).repeat(500, 1)
    law = ProductLaw(constrain_logits(torch.zeros(500, 4, 5), x, process))
    out = reverse_move(law, process, x, T, S).sample(SampleStreams(1, torch.arange(500)))
    assert bool((out[:, [0, 2]] == x[:, [0, 2]]).all())
    assert bool((out[:, [1, 3]] != 4).any())
