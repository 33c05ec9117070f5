"""Scikit-learn's bundled handwritten digits: 1,797 pictures of 8 × 8 with 17 grey levels."""

from __future__ import annotations

from typing import Any

import torch

from fewjump.data.dataset import Dataset
from fewjump.data.vocabulary import ImageLevels
from fewjump.random import SampleStreams, permutation_keys

VALID, TEST = 147, 450


def digits(seed: int = 0) -> Dataset:
    """The digits read row by row (L = 64), with labels: 1,200 to train on, 147 valid, 450 test.

    Source: E. Alpaydin and C. Kaynak, UCI optical recognition of handwritten digits, test part,
    as scikit-learn ships it (``load_digits``).

    Args:
        seed: of the split. The default is the split of all published numbers of this library.

    Raises:
        ImportError: without scikit-learn, naming the extra to install.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the built-in digits come with scikit-learn: pip install 'fewjump[eval]'"
        ) from error
    bunch: Any = load_digits()
    vocabulary = ImageLevels(17, 8, 8)
    rows = vocabulary.encode(torch.from_numpy(bunch.images).round().long())
    classes = torch.from_numpy(bunch.target).long()
    total = rows.shape[0]
    streams = SampleStreams(seed, torch.arange(total))
    order = permutation_keys((total,), streams, rows.device).argsort()
    train = total - VALID - TEST
    first, second, third = order[:train], order[train : train + VALID], order[train + VALID :]
    return Dataset(
        rows[first],
        rows[second],
        rows[third],
        vocabulary,
        f"handwritten digits: {total} pictures of 8 × 8, 17 grey levels",
        {"train": classes[first], "valid": classes[second], "test": classes[third]},
    )
