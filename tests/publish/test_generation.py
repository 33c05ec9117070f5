"""``generate``: rows are continued, masks are filled, given tokens stay."""

from __future__ import annotations

import pytest
import torch

import fewjump
from publish.toy import model

MASK = 4


def test_rows_are_continued() -> None:
    rows = torch.tensor([[0, 1], [2, 3]])
    out = model().generate(rows, max_new_tokens=3, num_return_sequences=4, generator=0)
    assert out.shape == (8, 5)
    assert torch.equal(out[:, :2], rows.repeat_interleave(4, 0))
    assert int(out.max()) < MASK
    assert len(out[:4].unique(dim=0)) > 1
    plain = fewjump.sample(
        model(), 8, 8, generator=0, length=5, prompt=rows.repeat_interleave(4, 0)
    )
    assert torch.equal(out, plain)


def test_the_end_is_the_models_by_default() -> None:
    assert model().generate(generator=0).shape == (1, 6)
    assert model().generate(torch.tensor([[1]]), max_length=4).shape == (1, 4)


def test_masks_are_filled_and_nothing_else_changes() -> None:
    row = torch.tensor([[0, MASK, 1, MASK, 2, 3]])
    out = model().generate(row, max_new_tokens=0, generator=1)
    assert torch.equal(out[row != MASK], row[row != MASK])
    assert int(out.max()) < MASK


def test_rows_of_different_lengths_are_padded() -> None:
    rows, seen = torch.tensor([[3, 3, 1], [0, 1, 2]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    out = model().generate(rows, attention_mask=seen, max_new_tokens=2, padding=3, generator=0)
    assert out[0, 0] == 1
    assert out[0, 3:].tolist() == [3, 3]
    assert out[1, :3].tolist() == [0, 1, 2]
    same_end = model().generate(rows, attention_mask=seen, max_length=5, generator=0)
    assert same_end.shape == (2, 5)
    with pytest.raises(ValueError, match="need a padding token"):
        model().generate(rows, attention_mask=seen, max_new_tokens=2)


def test_greedy_takes_the_most_likely_token() -> None:
    row = torch.tensor([[0, MASK, 1, 2, 3, 0]])
    (best,) = model()(row, 1.0).marginals()[:, 1].argmax(-1).tolist()
    for seed in range(4):
        out = model().generate(
            row, max_new_tokens=0, do_sample=False, num_inference_steps=1, generator=seed
        )
        assert out[0, 1] == best


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_new_tokens": 1, "max_length": 4}, "not both"),
        ({"max_new_tokens": -1}, "at least 0"),
        ({"max_length": 1}, "larger max_length"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"attention_mask": torch.ones(1, 1)}, "must agree"),
    ],
)
def test_nonsense_is_explained(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model().generate(torch.tensor([[0, 1]]), **options)
    with pytest.raises(ValueError, match="no length of its own"):
        model(length=None).generate()
    with pytest.raises(ValueError, match="must be \\(B, P\\) integers"):
        model().generate(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="pass both or neither"):
        model().generate(attention_mask=torch.ones(1, 1))
