"""Pictures that a prompt names: opened safely, and brought to size as the reference does.

Facts are musubi-tuner 0.3.4's (dataset/media_utils.py): Lanczos to enlarge, OpenCV's area average to shrink, then
the middle is cut out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from rushes.errors import PromptError
from rushes.families.prompt_options import OPTION_OF_FIELD

MAX_PIXELS = 100_000_000
"""Pixels a picture may have. A few kilobytes of PNG can unfold to gigabytes; 10000 x 10000 is ample."""

MAX_ASPECT = 100
"""How many times longer than wide: a line of pixels, scaled to cover a sample, would take gigabytes."""

LIKELY_CAUSES = (OSError, ValueError, SyntaxError, EOFError, MemoryError)
"""What Pillow raises over damaged files, besides its own errors."""


def open_image(path: str | Path, field: str, mode: str = "RGB") -> Image.Image:
    """The picture at `path`, decoded, in `mode`.

    Args:
        field: the field of `Prompt` that names it, for messages.
        mode: a mode of Pillow; "RGBA" keeps transparency.

    Raises:
        PromptError: it is not there, no picture, damaged, or too large to be decoded safely.
    """
    option = OPTION_OF_FIELD[field]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                check_size(image.size, path, field)
                return image.convert(mode)
    except FileNotFoundError:
        raise PromptError(f"{option} {path}: there is no such file", key=field) from None
    except IsADirectoryError:
        raise PromptError(f"{option} {path} is a directory; a picture is needed", key=field) from None
    except Image.DecompressionBombError as error:
        raise PromptError(f"{option} {path}: too large to be opened safely ({error})", key=field) from None
    except UnidentifiedImageError:
        raise PromptError(f"{option} {path} is no picture that can be read (PNG, JPEG, WebP ...)", key=field) from None
    except LIKELY_CAUSES as error:
        raise PromptError(f"{option} {path} cannot be read as a picture: {error}", key=field) from error


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
