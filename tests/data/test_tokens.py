from __future__ import annotations

import numpy as np
import pytest
import torch

from fewjump.data import ImageLevels, load_data, token_file
from fewjump.data.dataset import split_blocks


@pytest.fixture
def stream(tmp_path):
    path = tmp_path / "tokens.npy"
    np.save(path, (np.arange(1005) * 7 % 31).astype(np.uint16))
    return path


def test_a_stream_becomes_windows(stream):
    data = token_file(stream, 10)
    assert [len(data.train), len(data.valid), len(data.test)] == [85, 5, 10]
    assert data.vocab_size == 31
    assert data.batch([0, 1]).flatten().tolist() == [i * 7 % 31 for i in range(20)]
    assert data.train.dtype == torch.int64


def test_a_large_file_stays_on_disk(stream):
    small, large = token_file(stream, 10), token_file(stream, 10, memory_limit=100)
    base = large.train
    while isinstance(base, np.ndarray) and not (
        isinstance(base, np.memmap) and isinstance(base.filename, str | type(stream))
    ):
        base = base.base
    assert isinstance(base, np.memmap), "windows are views of the map, not copies"
    for name in ("train", "valid", "test"):
        assert torch.equal(small.all(name), large.all(name))
    batch = large.batch(torch.tensor([3, -1]))
    assert batch.dtype == torch.int64
    assert torch.equal(batch, small.batch([3, -1]))
    with pytest.raises(IndexError, match=r"rows 0\.\.84"):
        large.batch([85])


def test_rows_and_images(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(240).reshape(40, 6) % 5)
    assert load_data(path).length == 6
    assert isinstance(load_data(path, image_shape=(2, 3)).vocabulary, ImageLevels)
    with pytest.raises(ValueError, match="rows of 6 tokens, not of 7"):
        load_data(path, 7)
    with pytest.raises(ValueError, match="no images"):
        load_data(path, image_shape=(3, 3))
    np.save(path, np.arange(240).reshape(40, 2, 3) % 5)
    data = load_data(path)
    assert data.vocabulary == ImageLevels(5, 2, 3)
    assert data.batch([1])[0].tolist() == [1, 2, 3, 4, 0, 1]


def test_even_spread_of_a_limited_part(stream):
    data = token_file(stream, 10)
    assert torch.equal(data.all("train", 17), data.train[::5])


def test_errors(tmp_path, stream):
    with pytest.raises(ValueError, match="how long a window is"):
        token_file(stream)
    with pytest.raises(ValueError, match="vocab_size=31"):
        token_file(stream, 10, vocab_size=30)
    with pytest.raises(ValueError, match="too short for one window"):
        token_file(stream, 2000)
    path = tmp_path / "b.npy"
    with pytest.raises(FileNotFoundError, match="NumPy file"):
        token_file(path)
    path.write_bytes(b"not numpy at all")
    with pytest.raises(ValueError, match="not a plain NumPy array"):
        token_file(path, 4)
    np.save(path, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="float64, not integer"):
        token_file(path)
    np.save(path, np.zeros((0, 4), int))
    with pytest.raises(ValueError, match="not empty"):
        token_file(path)
    np.save(path, np.array([1, -2, 3]))
    with pytest.raises(ValueError, match="token -2"):
        token_file(path, 1)
    np.savez(tmp_path / "c.npz", np.arange(3))
    with pytest.raises(ValueError, match=r"holds arr_0; an \.npz is read if it holds tokens"):
        token_file(tmp_path / "c.npz", 1)


def test_a_wrong_token_far_into_the_file_is_found(tmp_path, monkeypatch):
    import fewjump.data.tokens as module

    monkeypatch.setattr(module, "_CHUNK_TOKENS", 16)
    tokens = np.zeros(100, np.int32)
    tokens[99] = 9
    np.save(tmp_path / "t.npy", tokens)
    with pytest.raises(ValueError, match="token 9"):
        token_file(tmp_path / "t.npy", 5, vocab_size=9)


def test_blocks_are_never_empty_by_rounding():
    parts = split_blocks(torch.zeros(3, 2, dtype=torch.int64), 0.01, 0.01, "x")
    assert [len(p) for p in parts] == [1, 1, 1]
    parts = split_blocks(torch.zeros(3, 2, dtype=torch.int64), 0.0, 0.0, "x")
    assert [len(p) for p in parts] == [3, 0, 0]
