from __future__ import annotations

import sys

import pytest
import torch

from fewjump.data import digits, load_data


def test_digits():
    pytest.importorskip("sklearn")
    data = load_data("digits")
    assert [len(data.train), len(data.valid), len(data.test)] == [1200, 147, 450]
    assert (data.length, data.vocab_size) == (64, 17)
    rows = torch.cat([data.train, data.valid, data.test])
    assert (int(rows.min()), int(rows.max())) == (0, 16)
    assert [len(data.labels[n]) for n in ("train", "valid", "test")] == [1200, 147, 450]
    assert data.labels["train"].unique().tolist() == list(range(10))
    # Every picture is in one part and one only, and the split never changes.
    from sklearn.datasets import load_digits

    original = torch.from_numpy(load_digits().data).long()
    assert torch.equal(rows.unique(dim=0), original.unique(dim=0))
    assert torch.equal(digits().train, data.train)
    assert not torch.equal(digits(seed=1).train, data.train)


def test_labels_belong_to_their_pictures():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    truth = {tuple(row): int(c) for row, c in zip(bunch.data.astype(int).tolist(), bunch.target)}
    data = digits()
    for name in ("train", "test"):
        found = [truth[tuple(row)] for row in data.all(name).tolist()]
        assert found == data.labels[name].tolist()


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"fewjump\[eval\]"):
        digits()
