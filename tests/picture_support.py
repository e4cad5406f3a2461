"""Picture files as other programs write them, which Pillow reads and does not write itself."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

GREY, COLOUR, GREY_ALPHA = 0, 2, 4
"""Colour types of PNG."""


def ramp(width: int, white: int, height: int = 8) -> np.ndarray:
    """A picture that goes from 0 at the left to `white` at the right, [height, width]."""
    return np.round(np.linspace(0, white, width))[None].repeat(height, 0).astype(np.int64)


def packed(numbers: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Rows of numbers [height, width] of `bits` bits each, every row filled up to whole bytes."""
    if bits % 8 == 0:
        return numbers.astype(f"{order}u{bits // 8}").tobytes()
    ones = (numbers[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(ones.reshape(len(numbers), -1).astype(np.uint8), axis=1).tobytes()


def write_png(path: Path, numbers: np.ndarray, bits: int, colour_type: int = GREY) -> Path:
    """A PNG file of numbers [height, width] or [height, width, channels]."""
    height, width = numbers.shape[:2]
    rows = packed(numbers.reshape(height, -1), bits)
    size = len(rows) // height
    data = b"".join(b"\0" + rows[row * size : (row + 1) * size] for row in range(height))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def write_tiff(
    path: Path,
    numbers: np.ndarray,
    bits: int,
    *,
    order: str = "<",
    photometric: int = 1,
    sample_format: int | None = None,
) -> Path:
    """A TIFF file of numbers [height, width] or [height, width, channels], uncompressed."""
    height, width = numbers.shape[:2]
    channels = numbers.shape[2] if numbers.ndim == 3 else 1
    flat = numbers.reshape(height, -1)
    data = flat.astype(f"{order}f4").tobytes() if sample_format == 3 else packed(flat, bits, order)
    tags = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [1],
        262: [photometric],
        273: [8],
        277: [channels],
    }
    tags |= {278: [height], 279: [len(data)]} | ({339: [sample_format] * channels} if sample_format else {})
    start = 8 + len(data)
    extra_at = start + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, values in sorted(tags.items()):
        kind, form = (4, "I") if tag in (273, 279) else (3, "H")
        content = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(content) > 4:
            extra, content = extra + content, struct.pack(f"{order}I", extra_at + len(extra))
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    directory = struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"
    path.write_bytes(mark + struct.pack(f"{order}HI", 42, start) + data + directory + extra)
    return path
