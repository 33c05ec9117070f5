"""PNG files decode to the pixels that went in."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from fewjump.report import as_pixels, contact_sheet, encode_png


def decode(data: bytes) -> np.ndarray:
    """An independent reader of unfiltered 8-bit PNG files; checks every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, body, header = 8, b"", b""
    while position < len(data):
        (size,) = struct.unpack(">I", data[position : position + 4])
        kind = data[position + 4 : position + 8]
        content = data[position + 8 : position + 8 + size]
        (check,) = struct.unpack(">I", data[position + 8 + size : position + 12 + size])
        assert check == zlib.crc32(kind + content)
        header = content if kind == b"IHDR" else header
        body += content if kind == b"IDAT" else b""
        position += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    assert depth == 8
    channels = {0: 1, 4: 2, 2: 3, 6: 4}[colour]
    lines = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, -1)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:].reshape(height, width, channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_round_trip(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    image = pixels[..., 0] if channels == 1 else pixels
    np.testing.assert_array_equal(decode(encode_png(image)), pixels)


def test_pillow_agrees() -> None:
    image = pytest.importorskip("PIL.Image")
    import io

    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    read = np.asarray(image.open(io.BytesIO(encode_png(pixels))))
    np.testing.assert_array_equal(read, pixels)


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
    with pytest.raises(ValueError, match="uint8"):
        encode_png(np.zeros((2, 2)))  # type: ignore[arg-type]
