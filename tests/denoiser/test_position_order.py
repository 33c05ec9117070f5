"""Orders of positions: each a permutation, coarse ones spread out at every prefix."""

from __future__ import annotations

import pytest
import torch

from fewjump.denoiser.position_order import LEFT_TO_RIGHT, PositionOrder


@pytest.mark.parametrize("columns", [None, 1, 3, 4, 50])
@pytest.mark.parametrize("name", ["ascending", "coarse-to-fine"])
def test_every_order_names_each_position_once(name: str, columns: int | None) -> None:
    order = PositionOrder(name, columns)  # type: ignore[arg-type]
    for length in (1, 2, 3, 7, 12, 16, 33):
        ranks = order.ranks(length)
        assert sorted(ranks.tolist()) == list(range(length))
        assert ranks[0] == 0
        assert order.ascending == (name == "ascending")
        if order.ascending:
            assert torch.equal(ranks, torch.arange(length))


def test_every_prefix_of_a_coarse_order_is_spread_over_the_sequence() -> None:
    drawn = PositionOrder("coarse-to-fine").ranks(16).argsort()
    assert drawn[:4].tolist() == [0, 8, 4, 12]
    for number in (1, 2, 4, 8, 16):
        assert sorted(drawn[:number].tolist()) == list(range(0, 16, 16 // number))


def test_a_coarse_order_of_an_image_fills_finer_and_finer_grids() -> None:
    drawn = PositionOrder("coarse-to-fine", 8).ranks(64).argsort()
    for step in (8, 4, 2, 1):
        first = drawn[: (8 // step) ** 2].tolist()
        assert {(i // 8 % step, i % 8 % step) for i in first} == {(0, 0)}
    # An image whose sides are no powers of two begins with the grid of every other pixel.
    drawn = PositionOrder("coarse-to-fine", 5).ranks(15).argsort()
    assert sorted(drawn[:6].tolist()) == [0, 2, 4, 10, 12, 14]


def test_an_order_may_be_given() -> None:
    order = PositionOrder((2, 0, 1))
    assert order.ranks(3).tolist() == [1, 2, 0]
    assert not order.ascending
    with pytest.raises(ValueError, match="names 3 positions, and sequences have 4 here"):
        order.ranks(4)
    assert LEFT_TO_RIGHT.ranks(4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("order", "columns", "message"),
    [
        ("descending", None, "unknown order 'descending'; known: ascending, coarse-to-fine"),
        ((0, 2), None, "name each of the positions 0, 1, … once"),
        ((0, 0, 1), None, r"once; got \[0, 0, 1\]"),
        ("ascending", 0, "columns"),
    ],
)
def test_what_is_no_order_is_refused(order: object, columns: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PositionOrder(order, columns)  # type: ignore[arg-type]
