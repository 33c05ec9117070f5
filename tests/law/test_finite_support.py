"""A law over a list of sequences against the same law as a table of all sequences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewjump.law.base import enumerate_states, ravel
from fewjump.law.enumerated import EnumeratedLaw
from fewjump.law.finite_support import FiniteSupportLaw, Support
from fewjump.random import SampleStreams

B, L, V, N = 5, 4, 3, 25
close = torch.testing.assert_close


def positive(seed: int, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=source, dtype=torch.float64) + 0.05


def pair(vocab_size: int = V, tables: int = 1) -> tuple[FiniteSupportLaw, EnumeratedLaw]:
    """Both laws. Rows: positive factors, some zeros, one sequence left, none left, near zeros."""
    sequences = enumerate_states(V, L)[positive(3, V**L).argsort()]
    support = Support(sequences[:N], V)
    weights = positive(1, tables, N) ** 3
    table = torch.zeros(tables, V**L, dtype=torch.float64)
    table[:, ravel(support.sequences, V)] = weights
    factors = positive(2, B, L, V)
    factors[1, 0, 2] = factors[1, 2, :2] = 0
    factors[2] = torch.nn.functional.one_hot(sequences[7], V)
    factors[3] = torch.nn.functional.one_hot(sequences[N + 2], V)
    factors[4, 1] *= torch.tensor([1e-300, 1e-200, 0.0], dtype=torch.float64)
    factors[4, 3] *= torch.tensor([0.0, 1e-300, 1e-320], dtype=torch.float64)
    which = torch.tensor([0, 1, 0, 1, 1]) if tables == 2 else None

    def fallback() -> Tensor:
        return positive(5, B, L, V)

    return (
        FiniteSupportLaw(support, weights.log(), factors, vocab_size, which, fallback),
        EnumeratedLaw(table, factors, vocab_size, which, fallback),
    )


@pytest.mark.parametrize("make", [pair, lambda: pair(V + 1), lambda: pair(tables=2)])
def test_every_number_is_the_tables(make: Callable[[], tuple]) -> None:
    ours, table = make()
    assert int(ours._free.sum()) == 1
    close(ours.log_evidence, table.log_evidence, atol=1e-12, rtol=1e-12)
    close(ours.marginals(), table.marginals(), atol=1e-13, rtol=0)
    close(ours.cavity(), table.cavity(), atol=1e-13, rtol=0)
    close(ours.entropy(), table.entropy(), atol=1e-12, rtol=0)
    close(ours.enumerate().exp(), table.enumerate().exp(), atol=1e-13, rtol=0)
    rows = torch.tensor([3, 1, 4])
    close(ours.select(rows).marginals(), table.select(rows).marginals(), atol=1e-13, rtol=0)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (0.0, 1.0), (1.0, 0.7), (2.0, 0.6)])
def test_tempered(temperature: float, top_p: float) -> None:
    ours, table = pair()
    sharp, wanted = (law.tempered(temperature, top_p).enumerate().exp() for law in (ours, table))
    close(sharp, wanted, atol=1e-12, rtol=0)


def test_given_what_is_known_even_where_no_sequence_agrees() -> None:
    ours, table = pair()
    x0 = torch.tensor([[0, 1, 2, 0], [1, 1, 2, 2], [2, 2, 2, 2], [0, 1, 2, 0], [1, 0, 1, 1]])
    known = positive(9, B, L) > 0.55
    given, wanted = ours.given(x0, known), table.given(x0, known)
    close(given.enumerate().exp(), wanted.enumerate().exp(), atol=1e-13, rtol=0)
    close(given.log_evidence, wanted.log_evidence, atol=1e-12, rtol=1e-12)


def test_a_long_list_is_walked_in_parts_with_the_same_answers(monkeypatch) -> None:
    whole, _ = pair()
    monkeypatch.setattr("fewjump.law.finite_support._ELEMENTS", 2 * N)
    parts, _ = pair()
    assert len(parts._parts()) == 3
    close(parts.marginals(), whole.marginals(), atol=0, rtol=0)
    draws = [law.sample(SampleStreams(4, torch.arange(B))) for law in (whole, parts)]
    assert torch.equal(*draws)
    alone = whole.select(torch.tensor([3])).sample(SampleStreams(4, torch.tensor([3])))
    assert torch.equal(alone, draws[0][3:4])


def test_lookups_do_not_trust_hashes(monkeypatch) -> None:
    sequences = enumerate_states(V, L)[::2]
    support = Support(torch.cat([sequences, sequences[:5]]), V)
    assert torch.equal(support.sequences[support.index[:5]], sequences[:5])
    assert len(support) == len(sequences)
    at, found = support.find(enumerate_states(V, L))
    assert torch.equal(found, torch.arange(V**L) % 2 == 0)
    assert torch.equal(support.sequences[at[found]], sequences)
    # A sum of tokens is a hash under which most sequences collide.
    monkeypatch.setattr(Support, "_hash", lambda self, x: x.sum(-1))
    with pytest.raises(ValueError, match="collide"):
        Support(sequences, V)
    monkeypatch.undo()
    monkeypatch.setattr(support, "_hash", lambda x: torch.full((len(x),), support._hashes[3]))
    assert int(support.find(enumerate_states(V, L))[1].sum()) == 1


def test_shapes_that_do_not_fit_are_refused() -> None:
    support = Support(enumerate_states(V, L)[:N], V)
    with pytest.raises(ValueError, match="a weight for every sequence"):
        FiniteSupportLaw(support, torch.zeros(1, N + 1), positive(1, B, L, V))
    with pytest.raises(ValueError, match="factors must be"):
        FiniteSupportLaw(support, torch.zeros(1, N), positive(1, B, L, V + 1))
    with pytest.raises(ValueError, match="no fallback"):
        FiniteSupportLaw(support, torch.zeros(1, N), torch.zeros(B, L, V))
