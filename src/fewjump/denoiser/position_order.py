"""The order in which a law draws positions: from left to right, coarse to fine, or as given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fewjump.config import check_counts, one_of

OrderName = Literal["ascending", "coarse-to-fine"]
Order: TypeAlias = OrderName | tuple[int, ...]
_NAMES = get_args(OrderName)


@dataclass(frozen=True)
class PositionOrder:
    """An order of positions, for any number of them or for one.

    ``ascending`` is from left to right, and of an image row by row. ``coarse-to-fine`` begins with
    positions far apart, and each following one lies between earlier ones: by the reversed binary
    digits of a position (van der Corput's sequence), of an image by those of its row and column in
    turn (as interlaced pictures are sent).

    Attributes:
        order: a name, or all positions in the order in which they are drawn.
        columns: W, for positions on an image of W columns; None for a sequence.

    Raises:
        ValueError: for another name, and numbers that are not 0, 1, …, each once.
    """

    order: Order = "ascending"
    columns: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.order, str):
            one_of("order", self.order, _NAMES)
        elif sorted(self.order) != list(range(len(self.order))):
            raise ValueError(
                f"order must be {' or '.join(_NAMES)}, or name each of the positions 0, 1, … once; "
                f"got {list(self.order)}"
            )
        if self.columns is not None:
            check_counts(columns=self.columns)

    @property
    def ascending(self) -> bool:
        """Whether positions are drawn from left to right."""
        return self.order == "ascending"

    def ranks(self, length: int, device: torch.device | str = "cpu") -> Tensor:
        """The place of each position in the order: (L,) int64.

        Raises:
            ValueError: for another length than that of an order that was given.
        """
        if not isinstance(self.order, str) and len(self.order) != length:
            raise ValueError(
                f"the head's order names {len(self.order)} positions, and sequences have {length} "
                f"here: name each of them, or take {' or '.join(_NAMES)}"
            )
        return _ranks(self, length).to(device)


LEFT_TO_RIGHT = PositionOrder()


@lru_cache(maxsize=64)
def _ranks(order: PositionOrder, length: int) -> Tensor:
    if not isinstance(order.order, str):
        return torch.tensor(order.order).argsort()
    place = torch.arange(length)
    if order.ascending:
        return place
    columns = length if order.columns is None else order.columns
    bits = max(max(columns, -(-length // columns)) - 1, 1).bit_length()
    key = torch.zeros_like(place)
    for bit in range(bits):
        row, column = (part >> bit & 1 for part in (place // columns, place % columns))
        key = 4 * key + 2 * row + column
    return key.argsort(stable=True).argsort()
