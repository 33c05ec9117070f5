"""The chain law: two forms of one recursion, gradients, underflow, certain positions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewjump.law.chain import ChainLaw
from fewjump.law.forward_algorithm import (
    backward_messages,
    log_space_total,
    log_total,
    scan_log_total,
    scan_state_marginals,
    scan_states,
    state_marginals,
)
from fewjump.random import SampleStreams


def likelihood_by(total: Callable[[Tensor, Tensor, bool], Tensor]) -> Form:
    """log Σ_z p(z₁)e₁(z₁) Πᵢ p(zᵢ₊₁|zᵢ)eᵢ₊₁(zᵢ₊₁), from logits and log-likelihoods."""

    def form(initial: Tensor, transition: Tensor, log_emission: Tensor) -> Tensor:
        first = initial.log_softmax(-1) + log_emission[:, 0]
        return total(torch.cat([first[:, None], log_emission[:, 1:]], 1), transition, True)

    return form


Form = Callable[[Tensor, Tensor, Tensor], Tensor]
chain_log_likelihood, log_space_log_likelihood = map(likelihood_by, (log_total, log_space_total))
FORMS = [chain_log_likelihood, likelihood_by(lambda *given: scan_log_total(*given[:2]))]


def factors(length: int, states: int = 4, batch: int = 3, scale: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        value = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        return value.requires_grad_()

    shape = (batch, length - 1, states, states)
    return [draw(batch, states), draw(*shape), draw(batch, length, states)]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 33, 64])
def test_scan_equals_sequential(length: int) -> None:
    initial, transition, emission = factors(length)
    expected = log_space_log_likelihood(initial, transition, emission)
    for form in FORMS:
        value = form(initial, transition, emission)
        torch.testing.assert_close(value, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(
        scan_state_marginals(initial, transition),
        state_marginals(initial, transition),
        atol=1e-9,
        rtol=0,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2, 9])
def test_gradients_are_those_of_the_log_space_form(form, length: int) -> None:
    inputs = factors(length)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def gradients(function) -> tuple[Tensor, ...]:
        return torch.autograd.grad((function(*inputs) * weights).sum(), inputs, allow_unused=True)

    for mine, reference in zip(gradients(form), gradients(log_space_log_likelihood)):
        if reference is not None and reference.numel():
            torch.testing.assert_close(mine, reference, atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_impossible_observations(form) -> None:
    initial, transition, emission = factors(6)
    with torch.no_grad():
        emission[0, 2, 1:] = -torch.inf
        emission[1, 3] = -torch.inf
        transition[2, 1, :, 0] = -torch.inf
    value = form(initial, transition, emission)
    expected = log_space_log_likelihood(initial, transition, emission)
    assert float(value[1].detach()) == -torch.inf
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)
    for gradient in torch.autograd.grad(value[[0, 2]].sum(), [initial, transition, emission]):
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("form", FORMS)
def test_nothing_under_or_overflows_in_a_long_float32_chain(form) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, length, states = 2, 700, 5
    transition = 4 * torch.randn(batch, length - 1, states, states, generator=generator)
    emission = 40 * torch.randn(batch, length, states, generator=generator) - 200
    initial = torch.zeros(batch, states)
    value = form(initial, transition, emission)
    expected = log_space_log_likelihood(initial.double(), transition.double(), emission.double())
    torch.testing.assert_close(value.double(), expected, atol=0, rtol=1e-6)


def test_messages_that_underflow_are_computed_again() -> None:
    """State 0 is likelier by e^300 at the first position and excluded at the second."""
    initial = torch.zeros(1, 2)
    transition = torch.tensor([[[[0.0, -400.0], [-400.0, 0.0]]]])
    emission = torch.tensor([[[0.0, -300.0], [-torch.inf, 0.0]]]).requires_grad_()
    value = chain_log_likelihood(initial, transition, emission)
    expected = torch.tensor([-300.0]) + torch.tensor(0.5).log()
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=0)
    (gradient,) = torch.autograd.grad(value.sum(), emission)
    torch.testing.assert_close(gradient, torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))


def test_backward_messages_weigh_what_follows_each_state() -> None:
    _, transition, emission = factors(7)
    ahead = backward_messages(emission, transition.log_softmax(-1))
    for position in (0, 4):
        totals = []
        for z in range(4):
            only = emission.clone()
            only[:, position] = -torch.inf
            only[:, position, z] = 0.0
            totals.append(log_space_total(only[:, position:], transition[:, position:], True))
        # Messages are up to a constant for each row and position.
        share = torch.stack(totals, -1).softmax(-1)
        torch.testing.assert_close(ahead[:, position].softmax(-1), share)


def test_both_methods_draw_the_same_path() -> None:
    initial, transition, _ = factors(9)
    emission = torch.randn(3, 9, 4, 5, dtype=torch.float64)
    draws = [
        ChainLaw(initial, transition, emission, method).sample(SampleStreams(1, torch.arange(3)))
        for method in ("sequential", "scan")
    ]
    assert torch.equal(draws[0], draws[1])


def test_scan_states_follows_the_maps() -> None:
    first, following = torch.tensor([2, 0]), torch.randint(3, (2, 10, 3))
    path = scan_states(first, following)
    state = first
    for i in range(10):
        state = following[torch.arange(2), i, state]
        assert torch.equal(path[:, i + 1], state)


def test_a_certain_token_leaves_the_transitions_through_it() -> None:
    """A visible position emits for certain in every state, so the neighbours stay dependent."""
    keep = torch.tensor([[9.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    emission = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    emission[:, :, 0, 0] = emission[:, :, 1, 1] = 9
    emission[:, 1] = torch.tensor([0.0, -torch.inf])
    law = ChainLaw(torch.zeros(1, 2), keep.expand(1, 2, 2, 2), emission)
    joint = law.enumerate().exp().reshape(2, 2, 2)
    assert float(joint[:, 1].sum()) == 0
    assert float(joint[0, 0, 0] + joint[1, 0, 1]) > 0.99


def test_product_law_is_a_chain_whose_states_agree() -> None:
    initial, transition, _ = factors(5)
    logits = torch.randn(3, 5, 1, 6, dtype=torch.float64)
    law = ChainLaw(initial, transition, logits.expand(-1, -1, 4, -1))
    x0 = torch.randint(6, (3, 5))
    expected = logits[:, :, 0].log_softmax(-1).gather(-1, x0[..., None])[..., 0].sum(-1)
    torch.testing.assert_close(law.log_prob(x0), expected)


def test_conditioning_on_the_impossible_gives_no_nan() -> None:
    initial, transition, _ = factors(3)
    emission = torch.randn(3, 3, 4, 2, dtype=torch.float64)
    emission[:, 1, :, 1] = -torch.inf
    known = torch.tensor([[False, True, False]]).expand(3, -1)
    law = ChainLaw(initial, transition, emission)
    law = law.given(torch.ones(3, 3, dtype=torch.int64), known)
    assert bool(law.marginals().isfinite().all())
    assert bool((law.sample()[:, 1] == 1).all())


def test_wrong_shapes_are_refused() -> None:
    emission = torch.zeros(2, 4, 3, 5)
    with pytest.raises(ValueError, match="initial"):
        ChainLaw(torch.zeros(2, 4), torch.zeros(2, 3, 3, 3), emission)
    with pytest.raises(ValueError, match="transition"):
        ChainLaw(torch.zeros(2, 3), torch.zeros(2, 4, 3, 3), emission)
    with pytest.raises(ValueError, match="method"):
        ChainLaw(
            torch.zeros(2, 3),
            torch.zeros(2, 3, 3, 3),
            emission,
            "tree",  # type: ignore[arg-type]
        )
    with pytest.raises(ValueError, match=r"\(B, L, r, V\)"):
        ChainLaw(torch.zeros(2, 3), torch.zeros(2, 3, 3, 3), torch.zeros(2, 4, 5))


def test_what_follows_an_unlikely_state_may_be_beyond_float32():
    """Two states that never change. The first token is all but that of state 0, the others prefer
    state 1, whose weight relative to the messages grows beyond the numbers of float32."""
    potential = torch.tensor([[[0.0, -100.0], *[[-30.0, 0.0]] * 5]])
    transition = torch.tensor([[0.0, -160.0], [-160.0, 0.0]])

    def value_and_gradients(dtype):
        parts = [part.to(dtype).requires_grad_() for part in (potential, transition)]
        value = log_total(*parts)
        return value, *torch.autograd.grad(value.sum(), parts)

    for found, exact in zip(value_and_gradients(torch.float32), value_and_gradients(torch.float64)):
        torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=0)
