"""Packing loses nothing but what it says, and never mixes what it should not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewjump.data.corpus import Shape, pack

PAD, SEP, OPEN, CLOSE = 0, 1, 2, 3


def documents(sizes: list[int]) -> list[np.ndarray]:
    """Documents of these sizes, all of whose tokens are different and above the special ones."""
    ends = np.cumsum([0, *sizes]) + 10
    return [np.arange(a, b) for a, b in pairwise(ends)]


def rows(sizes: list[int], shape: Shape, packing) -> np.ndarray:
    pieces = list(pack(documents(sizes), shape, packing))
    return np.concatenate(pieces) if pieces else np.empty((0, shape.length), dtype=np.int64)


SIZES = st.lists(st.integers(1, 12), max_size=40)
FRAMED = Shape(7, (OPEN,), (CLOSE,), SEP, PAD)
BARE = Shape(5, padding=PAD)
SHAPE = st.sampled_from([FRAMED, BARE])


def content(table: np.ndarray, shape: Shape) -> list[np.ndarray]:
    """Rows without frame and padding, checked to have them where they belong."""
    out = []
    for row in table:
        real = row[row != PAD]
        assert (row[len(real) :] == PAD).all()
        inside = len(real) - len(shape.closing)
        assert tuple(real[: len(shape.opening)]) == shape.opening
        assert tuple(real[inside:]) == shape.closing
        out.append(real[len(shape.opening) : inside])
    return out


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(SIZES, SHAPE)
def test_a_stream_is_cut_and_nothing_is_padded(sizes: list[int], shape: Shape) -> None:
    found = rows(sizes, shape, "stream")
    assert PAD not in found
    ends = [] if shape.separator is None else [SEP]
    whole = [token for document in documents(sizes) for token in [*document.tolist(), *ends]]
    kept = len(whole) // shape.room * shape.room
    assert [t for row in content(found, shape) for t in row] == whole[:kept]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(SIZES, SHAPE)
def test_each_document_has_its_own_rows(sizes: list[int], shape: Shape) -> None:
    found = content(rows(sizes, shape, "documents"), shape)
    expected = [
        document[start : start + shape.room].tolist()
        for document in documents(sizes)
        for start in range(0, len(document), shape.room)
    ]
    assert [row.tolist() for row in found] == expected


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(SIZES, SHAPE)
def test_what_fits_is_not_cut(sizes: list[int], shape: Shape) -> None:
    found = content(rows(sizes, shape, "fit"), shape)
    tokens = sorted(t for row in found for t in row.tolist() if t != SEP)
    assert tokens == [t for document in documents(sizes) for t in document.tolist()]
    place = {token: number for number, row in enumerate(found) for token in row.tolist()}
    for document in documents(sizes):
        if len(document) <= shape.room:
            assert len({place[t] for t in document.tolist()}) == 1
    assert len(found) <= len(rows(sizes, shape, "documents"))
    if shape.separator is not None:
        # A separator stands between documents and nowhere else.
        number = {t: i for i, d in enumerate(documents(sizes)) for t in d.tolist()}
        for row in found:
            own = [number.get(t, -1) for t in row.tolist()]
            runs = [a for a, b in zip(own, [None, *own]) if a != b]
            assert runs[1::2] == [-1] * (len(runs) // 2)
            assert -1 not in runs[::2]


def test_small_documents_share_rows() -> None:
    assert len(rows([2, 3, 2, 3], BARE, "fit")) == 2
    assert len(rows([2, 3, 2, 3], BARE, "documents")) == 4


def test_nonsense_is_explained() -> None:
    with pytest.raises(ValueError, match="no room beside the 2"):
        pack([], Shape(2, (OPEN,), (CLOSE,)), "stream")
    with pytest.raises(ValueError, match="use packing='stream'"):
        pack([], Shape(4), "fit")
    with pytest.raises(ValueError, match="unknown packing"):
        pack([], Shape(4), "tight")  # type: ignore[arg-type]
