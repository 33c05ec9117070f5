"""Data that come with other packages: scikit-learn's handwritten digits, Python's own manual."""

from __future__ import annotations

from typing import Any

import torch

from fewjump.data.dataset import Dataset
from fewjump.data.text import text_stream
from fewjump.data.vocabulary import ImageLevels
from fewjump.random import SampleStreams, permutation_keys

VALID, TEST = 147, 450


def digits(seed: int = 0) -> Dataset:
    """The digits read row by row (L = 64), with labels: 1,200 to train on, 147 valid, 450 test.

    There are 1,797 pictures of 8 × 8 with 17 grey levels.

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


def builtin_text(
    length: int,
    *,
    normalise: bool = True,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
) -> Dataset:
    """The English text of Python's own bundled documentation (``pydoc_data.topics``).

    Args:
        length: tokens in a window, L.
        normalise: reduce it to a–z and space (27 symbols).
        valid_fraction, test_fraction: of the windows.

    Raises:
        RuntimeError: if this Python comes without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise RuntimeError(
            "this Python has no bundled documentation (module pydoc_data); give a text file instead"
        ) from error
    text = "\n".join(topics[name] for name in sorted(topics))
    return text_stream(
        text,
        length,
        name="Python documentation",
        normalise=normalise,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
    )
