"""The autoregressive network of a given size: its size, and that it is a law of left to right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fewjump.denoiser import parameter_counts
from fewjump.denoiser.left_to_right import left_to_right
from fewjump.law.base import enumerate_states
from fewjump.objective import CrossEntropyELBO


@pytest.mark.parametrize("layers", ["transformer", "recurrent"])
@pytest.mark.parametrize("parameters", [20_000, 300_000, 4_000_000])
def test_it_has_as_many_parameters_as_asked_for(layers: Any, parameters: int) -> None:
    found = parameter_counts(left_to_right(30, 12, parameters, layers))["total"]
    # The next width is larger; a width is 16 wide.
    assert found <= parameters < {20_000: 1.5, 300_000: 1.2, 4_000_000: 1.06}[parameters] * found


@pytest.mark.parametrize("layers", ["transformer", "recurrent"])
def test_it_is_one_law_of_whole_sequences(layers: Any) -> None:
    model = left_to_right(3, 4, 20_000, layers).double()
    generator = torch.Generator().manual_seed(0)
    # Fresh, it says nothing.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    states = enumerate_states(3, 4)
    with torch.no_grad():
        law = model(torch.full((len(states), 4), 3), torch.ones(len(states), dtype=torch.float64))
        p = law.log_prob(states).exp().reshape(3, 3, 3, 3)
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    alone = [p.sum([j for j in range(4) if j != i]) for i in range(4)]
    assert (p - torch.einsum("a,b,c,d->abcd", *alone)).abs().max() > 1e-3
    drawn = law.sample(generator)
    assert drawn.shape == states.shape
    assert int(drawn.max()) < 3


def test_its_parameters_are_those_of_a_seed() -> None:
    one, same, other = (left_to_right(3, 4, 20_000, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one.parameters(), same.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


@pytest.mark.parametrize("layers", ["transformer", "recurrent"])
def test_it_learns_what_a_product_cannot(layers: Any) -> None:
    torch.manual_seed(0)
    data = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    model = left_to_right(2, 4, 20_000, layers)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    objective = CrossEntropyELBO(min_time=0.999)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        optimiser.zero_grad()
        objective(model, None, data, generator)[0].backward()
        optimiser.step()
    with torch.no_grad():
        law = model(torch.full((2, 4), 2), torch.ones(2))
    assert float(law.log_prob(data).exp().sum()) > 0.9


def test_a_size_that_no_network_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"30 tokens has at least [\d,]+ parameters, got 100"):
        left_to_right(30, 12, 100)
    with pytest.raises(ValueError, match="transformer, recurrent"):
        left_to_right(30, 12, 10**6, "lstm")  # type: ignore[arg-type]
