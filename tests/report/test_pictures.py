"""Sheets of images, and PNG files that decode to the pixels that went in."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from fewjump.report import contact_sheet, encode_png
from fewjump.report.charts import as_pixels


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_round_trip(channels: int) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    pixels = pixels[..., 0] if channels == 1 else pixels
    np.testing.assert_array_equal(np.asarray(image.open(io.BytesIO(encode_png(pixels)))), pixels)


def test_sheet_puts_images_in_reading_order() -> None:
    images = np.stack([np.full((2, 3), k, np.uint8) for k in range(1, 6)])
    sheet = contact_sheet(images, columns=2, scale=1, gap=1, paper=9)
    assert sheet.shape == (8, 7)
    assert [int(sheet[r, c]) for r in (0, 3, 6) for c in (0, 4)] == [1, 2, 3, 4, 5, 9]
    assert (sheet[2] == 9).all()
    assert contact_sheet(images, columns=2, scale=3).shape == (24, 21)


def test_transparent_gaps() -> None:
    sheet = contact_sheet(np.ones((2, 2, 2)), columns=2, paper=None)
    assert sheet.shape == (2, 5, 2)
    assert sheet[0, :, 1].tolist() == [255, 255, 0, 255, 255]
    assert contact_sheet(np.ones((2, 2, 2, 3)), paper=None).shape[-1] == 4


def test_bad_images_are_named() -> None:
    with pytest.raises(ValueError, match="must be"):
        as_pixels(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        as_pixels(np.full((1, 2, 2), 16))
    with pytest.raises(ValueError, match="no images"):
        contact_sheet(np.zeros((0, 2, 2)))


def test_pictures_without_pillow_are_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewjump.commands.sample import open_writer
    from fewjump.data import ImageLevels
    from fewjump.demo.digits import run_demo

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    extra = r"pip install 'fewjump\[report\]'"
    for name in ("sheet.png", "folder"):
        with pytest.raises(ModuleNotFoundError, match=extra):
            open_writer(tmp_path / name, ImageLevels(4, 3, 3), 1)
    open_writer(tmp_path / "array.npy", ImageLevels(4, 3, 3), 1)
    with pytest.raises(ModuleNotFoundError, match=extra):
        run_demo(tmp_path / "demo", quick=True)
    assert list(tmp_path.iterdir()) == []
