"""Pictures that a prompt names: opened safely, and brought to size as the reference does.

Facts are musubi-tuner 0.3.4's (dataset/media_utils.py): Lanczos to enlarge, OpenCV's area average to shrink, then
the middle is cut out.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from rushes.checkpoints.safetensors import fingerprint
from rushes.errors import PromptError
from rushes.families.prompt_options import OPTION_OF_FIELD
from rushes_service.models.inputs.bit_depth import UnknownRange, bits_of, brightest, check_range, eight_bits

MAX_PIXELS = 100_000_000
"""Pixels a picture may have. A few kilobytes of PNG can unfold to gigabytes; 10000 x 10000 is ample."""

MAX_ASPECT = 100
"""How many times longer than wide: a line of pixels, scaled to cover a sample, would take gigabytes."""

LIKELY_CAUSES = (OSError, ValueError, SyntaxError, EOFError, MemoryError)
"""What Pillow raises over damaged files, besides its own errors."""


FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""What is opened, by Pillow's names. Its other formats run programs (EPS), lead to other files, or are nobody's."""

SUPPORTED = "PNG, JPEG, WebP, BMP, TIFF, GIF and AVIF are"


def open_image(path: str | Path, field: str, mode: str = "RGB") -> Image.Image:
    """The picture at `path`, decoded, in `mode`, its range scaled to 0..255. Of several pictures the first.

    Args:
        field: the field of `Prompt` that names it, for messages.
        mode: "RGB", or "RGBA", which keeps transparency.

    Raises:
        PromptError: it is not there, no picture, damaged, too large to be decoded safely, or of unknown range.
    """
    with picture_errors(path, field):
        image, bits = decoded(path, field, mode)
        if bits > 8:
            check_range([brightest(image)])
        return image


def decoded(path: str | Path, field: str, mode: str = "RGB") -> tuple[Image.Image, int]:
    """The picture at `path` in `mode`, and how many bits a channel has in the file. Call it in `picture_errors`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            check_size(image.size, path, field)
            bits = bits_of(image, path)
            return eight_bits(image, mode, bits), bits


@contextlib.contextmanager
def picture_errors(path: str | Path, field: str) -> Iterator[None]:
    """Raises what Pillow raises over the picture at `path` as a `PromptError` that names `field`'s option."""
    option = OPTION_OF_FIELD[field]
    try:
        yield
    except FileNotFoundError:
        raise PromptError(f"{option} {path}: there is no such file", key=field) from None
    except IsADirectoryError:
        raise PromptError(f"{option} {path} is a directory; a picture is needed", key=field) from None
    except Image.DecompressionBombError as error:
        raise PromptError(f"{option} {path}: too large to be opened safely ({error})", key=field) from None
    except UnidentifiedImageError:
        raise PromptError(f"{option} {path} is no picture that can be read; {SUPPORTED}", key=field) from None
    except UnknownRange as error:
        raise PromptError(f"{option} {path}: {error}", key=field) from None
    except LIKELY_CAUSES as error:
        raise PromptError(f"{option} {path} cannot be read as a picture: {error}", key=field) from error


def picture_fingerprint(path: str | Path) -> str:
    """Content identity of a picture, for the keys of what is computed from it.

    Pictures of more than 8 bits have another than their file: versions before 0.2 read them otherwise.
    """
    content = fingerprint(path)
    with contextlib.suppress(*LIKELY_CAUSES), Image.open(path, formats=FORMATS) as image:
        if bits_of(image, path) > 8:
            return f"{content}-{bits_of(image, path)}bit"
    return content


def check_size(size: tuple[int, int], path: str | Path, field: str) -> None:
    """Raise `PromptError` for a picture of more than `MAX_PIXELS`, or next to a line; `size` is width and height."""
    width, height = size
    if max(size) > MAX_ASPECT * min(size):
        raise PromptError(
            f"{OPTION_OF_FIELD[field]} {path} has {width} x {height} pixels: too narrow to be cut to a sample's size",
            key=field,
        )
    if width * height > MAX_PIXELS:
        raise PromptError(
            f"{OPTION_OF_FIELD[field]} {path} has {width} x {height} pixels; at most {MAX_PIXELS:,} are opened",
            key=field,
        )


def check_images(paths: Iterable[str], field: str) -> None:
    """Raise `PromptError` unless every one of `paths` can be opened."""
    for path in paths:
        open_image(path, field)


def fit(image: Image.Image | np.ndarray, width: int, height: int) -> np.ndarray:
    """`image` scaled so that it covers `width` x `height` pixels, and the middle of it: uint8 [height, width, C]."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    if image.size == (width, height):
        return np.array(image)
    scale = max(width / image.width, height / image.height)
    covering = (int(image.width * scale + 0.5), int(image.height * scale + 0.5))
    if scale > 1:
        scaled = np.array(image.resize(covering, Image.Resampling.LANCZOS))
    else:
        scaled = cv2.resize(np.array(image), covering, interpolation=cv2.INTER_AREA)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return scaled[top : top + height, left : left + width]


def to_signed(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [..., H, W, C] as float32 [C, ..., H, W] in -1..1, e.g. [H, W, 3] to [3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0))).float() / 127.5 - 1
