"""Frames of media files, for sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from rushes.errors import OutputError

Frame = np.ndarray
"""One picture, uint8 [H, W, 3]."""


def read_frames(path: Path, width: int) -> list[Frame]:
    """Every frame of a png or mp4, at most `width` pixels wide.

    Raises:
        OutputError: the file is gone or cannot be decoded.
    """
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path, formats=("PNG",)) as image:
                return [shrunk(np.asarray(opaque(image)), width)]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is gone")
        reader = imageio_ffmpeg.read_frames(str(path))
        columns, rows = next(reader)["size"]
        return [shrunk(np.frombuffer(frame, np.uint8).reshape(rows, columns, 3), width) for frame in reader]
    except (OSError, ValueError, SyntaxError, StopIteration, Image.DecompressionBombError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error


def opaque(image: Image.Image) -> Image.Image:
    """A picture in RGB, before white if it has transparency."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def shrunk(frame: Frame, width: int) -> Frame:
    """`frame` made smaller if it is wider than `width`; a whole run of full-size clips would not fit in memory."""
    height, columns = frame.shape[:2]
    if columns <= width:
        return frame
    size = (width, max(1, round(height * width / columns)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def at_time(frames: Sequence[Frame], position: int) -> list[Frame]:
    """The frame at `position` of a clip that is repeated."""
    return [frames[position % len(frames)]] if frames else []
