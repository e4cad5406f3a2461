"""Pictures of any bit depth and colour model brought to 8 bits a channel, by what their format says of black and white.

Pillow's own `convert` cuts 16-bit grey off at 255 and reads signed numbers as unsigned. Here 0..65535 becomes 0..255,
and numbers whose range no format states (floating point, 32 bits, signed ones) are refused, and so are pictures that
use a small part of their 16 bits: 12 or 14 bits in 16, or the millimetres of a depth camera.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF 6.0."""

WHITE_IS_ZERO = 0
UNSIGNED = 1

PNG_DEPTH_AT = 24
"""Where a PNG file says its bits per sample: its first chunk, IHDR, has a fixed place (PNG specification, 11.2.2)."""

DARKEST = 64
"""The brightest that 14 bits get in 16, of 255: a picture that never gets brighter was probably made with as few."""

UNKNOWN_WHITE = "save it with 8 bits, or scaled so that white is the largest number of 16 bits"

PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


class UnknownRange(ValueError):
    """Nobody says which number of a picture is white. The message says what its numbers are."""


def bits_of(image: Image.Image, path: str | Path) -> int:
    """Bits per channel that an opened, not yet decoded picture has in its file."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    if image.format == "PNG":
        with Path(path).open("rb") as file:
            return file.read(PNG_DEPTH_AT + 1)[PNG_DEPTH_AT]
    return 8


def eight_bits(image: Image.Image, mode: str, bits: int) -> Image.Image:
    """A picture in `mode` ("RGB" or "RGBA"), 8 bits a channel, its whole range scaled to 0..255.

    Args:
        image: of any of Pillow's modes.
        bits: of a channel in the file (see `bits_of`).

    Raises:
        UnknownRange: nothing says which of its numbers is white.
    """
    check_numbers(image)
    if image.mode.startswith("I;16"):
        image = grey(image, bits)
    elif image.mode == "LAB":
        image = from_lab(image)
    elif image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    return image.convert(mode)


def check_numbers(image: Image.Image) -> None:
    """Raise `UnknownRange` for floating-point, signed and 32-bit numbers."""
    signed = isinstance(image, TiffImagePlugin.TiffImageFile) and any(
        kind != UNSIGNED for kind in image.tag_v2.get(SAMPLE_FORMAT, (UNSIGNED,))
    )
    kind = "floating-point" if image.mode == "F" else "signed" if signed else "integers of 32 bits"
    if signed or image.mode in ("F", "I"):
        raise UnknownRange(f"its numbers are {kind}, and nothing says which of them is white; {UNKNOWN_WHITE}")


def grey(image: Image.Image, bits: int) -> Image.Image:
    """A grey picture of `bits` bits, of which 16 are stored, in 8."""
    white = 2**bits - 1
    numbers = np.asarray(image).astype(np.uint32)
    scaled = np.minimum((numbers * 255 + white // 2) // white, 255).astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        scaled = 255 - scaled  # Pillow turns these round in 8 bits, not in 16
    return Image.fromarray(scaled)


def from_lab(image: Image.Image) -> Image.Image:
    """CIE Lab as sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if converted is None:
        raise ValueError("Lab colours cannot be converted")
    return converted


def brightest(pixels: Image.Image | np.ndarray) -> int:
    """The largest number of a picture in 8 bits, its transparency left out."""
    colours = pixels.convert("RGB") if isinstance(pixels, Image.Image) else pixels
    return int(np.asarray(colours).max(initial=0))


def check_range(peaks: Iterable[int]) -> None:
    """Raise `UnknownRange` if pictures of more than 8 bits use too little of their range to be believed.

    Args:
        peaks: the brightest number, 0..255, of each picture that has more than 8 bits in its file.
    """
    brightest_of_all = max(peaks, default=0)
    if 0 < brightest_of_all <= DARKEST:
        raise UnknownRange(
            f"it has more than 8 bits, but uses the lowest {brightest_of_all / 255:.1%} of its range only: probably 12 "
            f"or 14 bits in 16, or distances, and nothing says which number is white; {UNKNOWN_WHITE}"
        )
