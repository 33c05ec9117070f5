"""Options of the reference network: plain data and back, and what does not fit together."""

from __future__ import annotations

import pytest

from fewjump.denoiser import TransformerConfig

LINE = TransformerConfig(vocab_size=7, hidden=16, blocks=2, heads=2, condition_dim=8)
IMAGE = TransformerConfig(
    vocab_size=7, hidden=16, heads=2, positions="2d", grid=(4, 3), conv_kernel=3
)
BOARD = TransformerConfig(
    vocab_size=7, hidden=16, heads=2, position_groups=((0, 0, 1, 1), (0, 1, 0, 1))
)


@pytest.mark.parametrize("config", [LINE, IMAGE, BOARD])
def test_config_round_trip(config: TransformerConfig) -> None:
    assert TransformerConfig.from_config(config.config()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 10, "heads": 4}, "multiple of heads"),
        ({"hidden": 12, "heads": 4}, "multiple of 2"),
        ({"hidden": 24, "heads": 4, "positions": "2d", "grid": (2, 2)}, "multiple of 4"),
        ({"positions": "2d"}, "goes with"),
        ({"grid": (8, 8)}, "goes with"),
        ({"positions": "3d"}, "1d or 2d"),
        ({"conv_kernel": 4}, "odd"),
        ({"dropout": 1.0}, "dropout"),
        ({"blocks": 0}, "blocks"),
        ({"position_groups": [[0, 1], [0, 1, 2]]}, "same positions"),
        ({"position_groups": [[]]}, "at least one"),
        ({"position_groups": [[0, 2, 2]]}, "without a gap"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(vocab_size=5, **options)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="the transformer: there is no 'blocs'; did you mean"):
        TransformerConfig.from_config({"vocab_size": 5, "blocs": 3})
