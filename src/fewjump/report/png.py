"""PNG files from arrays with nothing but zlib: sample sheets without an imaging library."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def as_pixels(images: Any) -> Pixels:
    """Images as (N, H, W) or (N, H, W, 3) uint8; floats in [0, 1] are scaled to 0…255.

    Raises:
        ValueError: for another shape, or values out of range.
    """
    array = np.asarray(images)
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] != 3):
        raise ValueError(f"images must be (N, H, W) or (N, H, W, 3), got {array.shape}")
    if array.dtype == np.uint8:
        return array
    if array.size and (array.min() < 0 or array.max() > 1):
        raise ValueError("images that are not uint8 must lie in [0, 1]")
    return (array * 255).round().astype(np.uint8)


def contact_sheet(
    images: Any,
    columns: int | None = None,
    scale: int = 1,
    gap: int = 1,
    paper: int | None = 255,
) -> Pixels:
    """Lay images out in a grid: (H', W') or (H', W', 3) uint8, with one more channel for alpha.

    Args:
        images: see :func:`as_pixels`; at least one.
        columns: images per row; about √N when None.
        scale: each pixel becomes a square of this side.
        gap: pixels between images, before scaling.
        paper: grey level of the gaps; None makes them transparent, which adds an alpha channel:
            (H', W', 2) or (H', W', 4).
    """
    pixels = as_pixels(images)
    if len(pixels) == 0:
        raise ValueError("there are no images to show")
    if paper is None:
        colours = pixels[..., None] if pixels.ndim == 3 else pixels
        opaque = np.full((*colours.shape[:3], 1), 255, dtype=np.uint8)
        pixels = np.concatenate([colours, opaque], axis=-1)
    n, height, width = pixels.shape[:3]
    across = min(n, columns or math.ceil(math.sqrt(n)))
    down = math.ceil(n / across)
    shape = (down * (height + gap) - gap, across * (width + gap) - gap, *pixels.shape[3:])
    sheet = np.full(shape, paper or 0, dtype=np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // across * (height + gap), index % across * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet.repeat(scale, 0).repeat(scale, 1)


def encode_png(pixels: Pixels) -> bytes:
    """A PNG file (RFC 2083, filter 0) from uint8 pixels.

    Shapes: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) colour, (H, W, 4) colour and alpha.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not 1 <= channels <= 4:
        raise ValueError(f"pixels must be (H, W) or (H, W, 1…4) uint8, got {pixels.shape}")
    height, width = pixels.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = pixels.reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(raw, 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
