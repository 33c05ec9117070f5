"""The chain with one transition matrix: its sums, its gradient, and the posterior it can be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from registry_laws import p_value

from fewjump.law.base import enumerate_states, ravel
from fewjump.law.chain import ChainLaw
from fewjump.law.emission import DenseEmission, SharedFactorEmission
from fewjump.law.forward_algorithm import (
    draw_paths,
    log_space_total,
    log_total,
    state_marginals,
)
from fewjump.law.transition import Transition


def normal(seed: int, *shape: int, scale: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def path_weights(potential: Tensor, transition: Tensor) -> tuple[Tensor, Tensor]:
    """All r^L paths and their log-weights (B, r^L)."""
    paths = enumerate_states(potential.shape[-1], potential.shape[1])
    local = potential[:, torch.arange(paths.shape[1]), paths].sum(-1)
    return paths, local + transition[paths[:, :-1], paths[:, 1:]].sum(-1)


def test_total_and_marginals_are_sums_over_paths() -> None:
    potential, transition = normal(0, 2, 4, 3), normal(1, 3, 3)
    potential[0, 2, 1] = transition[2, 0] = -torch.inf
    paths, weights = path_weights(potential, transition)
    torch.testing.assert_close(
        log_total(potential, transition), weights.logsumexp(-1), atol=1e-12, rtol=0
    )
    probability = weights.softmax(-1)
    for z in range(3):
        expected = (probability[:, :, None] * (paths == z)).sum(1)
        got = state_marginals(potential, transition)[..., z]
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_gradient_is_that_of_the_sum() -> None:
    potential = normal(2, 3, 5, 4).requires_grad_()
    transition = normal(3, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(log_total, (potential, transition))


def test_rows_that_underflow_are_summed_in_log_space() -> None:
    """Two states that hardly ever follow each other, forced to alternate, in float32."""
    transition = torch.tensor([[0.0, -150.0], [-150.0, 0.0]], requires_grad=True)
    potential = torch.full((2, 5, 2), -torch.inf)
    potential[0, :, 0] = 0.0
    for i in range(5):
        potential[1, i, i % 2] = 0.0
    value = log_total(potential, transition)
    torch.testing.assert_close(value, torch.tensor([0.0, -600.0]))
    value[1].backward()
    torch.testing.assert_close(transition.grad, torch.tensor([[0.0, 2.0], [2.0, 0.0]]))


@pytest.mark.parametrize("noise", ["masked", "uniform"])
def test_it_is_the_posterior_of_a_hidden_markov_chain(noise: str) -> None:
    """p(x₀|x_t) of a hidden chain under independent noise, with the chain's own matrix."""
    states, tokens, length = 3, 2, 4
    initial, matrix = normal(4, states).softmax(-1), normal(5, states, states).softmax(-1)
    emission = normal(6, states, tokens).softmax(-1)
    likelihood = torch.rand(1, length, tokens, dtype=torch.float64)
    if noise == "masked":
        likelihood = torch.ones(1, length, tokens, dtype=torch.float64)
        likelihood[0, 1, 0] = likelihood[0, 3, 1] = 0.0
    sequences = enumerate_states(tokens, length)
    paths = enumerate_states(states, length)
    prior = initial[paths[:, 0]] * matrix[paths[:, :-1], paths[:, 1:]].prod(-1)
    given = emission[paths[:, None], sequences[None]].prod(-1)
    joint = (prior[:, None] * given).sum(0) * likelihood[0, torch.arange(length), sequences].prod(
        -1
    )
    # Emissions e_i ∝ likelihood·emission; what normalises them goes into the potentials.
    each = likelihood[..., None, :].log() + emission.log()
    potential = each.logsumexp(-1)
    potential[:, 0] += initial.log()
    law = ChainLaw(potential, matrix.log(), DenseEmission(each))
    torch.testing.assert_close(law.enumerate()[0].exp(), joint / joint.sum(), atol=1e-12, rtol=0)


def test_temperature_agrees_with_the_written_out_chain() -> None:
    potential, transition = normal(7, 2, 4, 3), normal(8, 3, 3)
    base, factor = normal(9, 2, 4, 3), normal(10, 3, 3)
    law = ChainLaw(potential, transition, SharedFactorEmission(base, factor))
    torch.testing.assert_close(
        law.by_conditionals().enumerate(), law.enumerate(), atol=1e-11, rtol=0
    )
    for temperature in (0.5, 1.7):
        torch.testing.assert_close(
            law.tempered(temperature).enumerate(),
            law.by_conditionals().tempered(temperature).enumerate(),
            atol=1e-10,
            rtol=0,
        )


def test_cold_law_samples_its_mode_left_to_right() -> None:
    law = ChainLaw(normal(11, 2, 4, 3), normal(12, 3, 3), DenseEmission(normal(13, 2, 4, 3, 2)))
    cold = law.tempered(0.0)
    first, second = cold.sample(torch.Generator().manual_seed(1)), cold.sample()
    assert torch.equal(first, second)


def test_shapes_are_checked() -> None:
    emission = DenseEmission(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"potentials \(B, L, r\) = \(2, 3, 4\)"):
        ChainLaw(torch.zeros(2, 3, 3), torch.zeros(4, 4), emission)
    with pytest.raises(ValueError, match=r"\(r, r\) = \(4, 4\)"):
        ChainLaw(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4), emission)


def test_paths_of_rows_that_underflow_are_drawn_in_log_space() -> None:
    """In float32, beside a row that does not: neither changes what the other draws."""
    transition = torch.tensor([[0.0, -150.0, -1.0], [-150.0, 0.0, -2.0], [0.5, -300.0, -1.0]])
    potential = normal(4, 2, 6, 3).float()
    for i in range(6):
        # The only way to state 1 that is left is a step of weight e^-300, from state 2.
        potential[1, i] = torch.tensor([-torch.inf, 0.0, -torch.inf])
    potential[1, 0] = torch.tensor([-torch.inf, -torch.inf, 0.0])
    u = torch.rand(400, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = potential.repeat_interleave(200, 0)
    path = draw_paths(both, transition, u)
    assert bool((path[200:] == torch.tensor([2, 1, 1, 1, 1, 1])).all())
    for row, mine in enumerate((slice(0, 200), slice(200, 400))):
        alone = draw_paths(potential[row : row + 1], transition, u[mine])
        assert torch.equal(path[mine], alone)


def test_paths_are_drawn_by_their_weights_in_float32() -> None:
    """Potentials 90 nats apart, which the next step takes back, are no loss."""
    potential, transition = normal(5, 1, 3, 3), normal(6, 3, 3)
    potential[0, 1] += torch.tensor([90.0, 0.0, -90.0], dtype=torch.float64)
    transition[0] -= 90.0
    transition[2] += 90.0
    _, weights = path_weights(potential, transition)
    u = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = draw_paths(potential.float(), transition.float(), u)
    counts = torch.bincount(ravel(drawn, 3), minlength=27)
    assert p_value(counts, weights[0].softmax(-1)) > 1e-4


def test_a_row_without_a_path_is_refused() -> None:
    potential = torch.zeros(2, 3, 2)
    potential[1, 1] = -torch.inf
    with pytest.raises(ValueError, match="cannot draw"):
        draw_paths(potential, torch.zeros(2, 2), torch.full((2, 3), 0.5).double())


def in_blocks(seed: int, blocks: int, size: int) -> tuple[Transition, Tensor]:
    """A block transition, and the matrix that it is."""
    first, second = normal(seed, blocks, size, size), normal(seed + 1, size, blocks, blocks)
    states = range(blocks * size)
    pairs = [[(z // size, z % size, y // size, y % size) for y in states] for z in states]
    rows = [[first[b, a, a2] + second[a2, b, b2] for b, a, b2, a2 in row] for row in pairs]
    return Transition((first, second)), torch.stack([torch.stack(row) for row in rows])


def test_blocks_are_the_matrix_that_they_stand_for() -> None:
    """Sums, gradients, marginals, temperature and evidence, against the dense chain."""
    transition, matrix = in_blocks(14, 3, 2)
    potential = normal(16, 2, 4, 6)
    potential[0, 2, 1] = -torch.inf
    emission = SharedFactorEmission(normal(17, 2, 4, 3), normal(18, 6, 3))
    law, dense = ChainLaw(potential, transition, emission), ChainLaw(potential, matrix, emission)
    torch.testing.assert_close(law.enumerate(), dense.enumerate(), atol=1e-11, rtol=0)
    torch.testing.assert_close(law.state_marginals(), dense.state_marginals(), atol=1e-12, rtol=0)
    x0, known = torch.ones(2, 4, dtype=torch.int64), torch.tensor([[True, False, False, True]] * 2)
    given = law.given(x0, known), dense.given(x0, known)
    torch.testing.assert_close(given[0].enumerate(), given[1].enumerate(), atol=1e-11, rtol=0)
    written = law.by_conditionals()
    torch.testing.assert_close(written.enumerate(), dense.enumerate(), atol=1e-11, rtol=0)
    # A block transition draws two parts of a state, each sharpened: not the dense chain's law.
    for temperature in (0.5, 1.7):
        cold, expected = law.tempered(temperature), written.tempered(temperature)
        torch.testing.assert_close(cold.enumerate(), expected.enumerate(), atol=1e-10, rtol=0)


def test_gradient_of_blocks_is_that_of_the_sum() -> None:
    transition, matrix = in_blocks(19, 3, 2)
    tables = [table.requires_grad_() for table in transition.tables]
    potential = normal(21, 3, 4, 6).requires_grad_()

    def total(potential: Tensor, *tables: Tensor) -> Tensor:
        return log_total(potential, Transition(tables), every=2)

    torch.testing.assert_close(total(potential, *tables), log_total(potential, matrix))
    slow = log_space_total(potential, transition, every=2)
    torch.testing.assert_close(slow, log_space_total(potential, matrix))
    assert torch.autograd.gradcheck(total, (potential, *tables))


def test_blocks_whose_messages_underflow_are_summed_and_drawn_in_log_space() -> None:
    """In float32: a path through the first row's only states has a weight of e^-400."""
    first = torch.tensor([[[0.0, -200.0], [-200.0, 0.0]]] * 2, requires_grad=True)
    transition = Transition((first, torch.zeros(2, 2, 2)))
    potential = torch.zeros(2, 3, 4)
    for i, state in enumerate((0, 1, 2)):
        potential[0, i] = -torch.inf
        potential[0, i, state] = 0.0
    value = log_total(potential, transition, every=2)
    torch.testing.assert_close(value[0], torch.tensor(-400.0))
    value[0].backward()
    assert first.grad is not None
    torch.testing.assert_close(
        first.grad, torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0]] * 2])
    )
    law = ChainLaw(
        potential,
        transition.detach(),
        SharedFactorEmission(torch.zeros(2, 3, 2), torch.zeros(4, 2)),
    )
    assert torch.equal(law.sample_states()[0], torch.tensor([0, 1, 2]))


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="as many states"):
        Transition((torch.zeros(2, 3, 3), torch.zeros(2, 3, 3), torch.zeros(4, 2, 2)))
    with pytest.raises(ValueError, match="must be all"):
        Transition((torch.zeros(2, 3, 3), torch.zeros(1, 1, 3, 2, 2)))
