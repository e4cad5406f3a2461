"""Control clips: the first frames of a video file, or of a directory of pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from rushes.errors import PromptError
from rushes_service.models.inputs.images import check_size, fit, open_image

FIELD = "control_video_path"
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"})
"""What counts as a frame in a directory, whatever its case; everything else there is passed over, and so are hidden
files: macOS puts a `._0001.png` that is no picture beside each of its own on foreign disks."""

AS_STORED = ["-noautorotate"]
EACH_FRAME_ONCE = ["-fps_mode", "passthrough"]
"""As the reference reads videos: no frame is turned, repeated or dropped to keep a rate."""

READER_ERRORS = (OSError, RuntimeError, ValueError, IndexError, KeyError, StopIteration)
"""What imageio-ffmpeg raises over files that are no video."""


def control_frames(path: str, count: int, width: int, height: int) -> np.ndarray:
    """The first `count` frames, scaled and cut to size: uint8 [count, height, width, 3].

    Frames of a directory are its pictures in the order of their names.

    Raises:
        PromptError: it is not there, cannot be read, or has fewer frames.
    """
    place = Path(path)
    try:
        if not place.exists():
            raise PromptError(f"--cn {path}: there is no such file or directory", key=FIELD)
        with contextlib.closing(pictures(place, count) if place.is_dir() else video(place, count)) as frames:
            fitted = [fit(frame, width, height) for frame in frames]
    except OSError as error:  # a directory that may not be entered, a name too long
        raise PromptError(f"--cn {path} cannot be read: {error.strerror or error}", key=FIELD) from error
    if len(fitted) < count:
        what = "pictures" if place.is_dir() else "frames"
        raise PromptError(
            f"--cn {path} has {len(fitted)} {what}, but {count} are to be made: use --f {usable(len(fitted))} or a "
            "longer control video",
            key=FIELD,
        )
    return np.stack(fitted)


def usable(frames: int) -> int:
    """The longest clip that `frames` frames can control."""
    return (max(frames, 1) - 1) // 4 * 4 + 1


def control_files(path: str, count: int) -> list[Path]:
    """The files that the first `count` frames come from."""
    place = Path(path)
    return listed(place)[:count] if place.is_dir() else [place]


def listed(directory: Path) -> list[Path]:
    """The pictures of a directory in the order of their names."""
    files = sorted(directory.iterdir())
    return [file for file in files if file.suffix.lower() in PICTURES and not file.name.startswith(".")]


def pictures(directory: Path, count: int) -> Iterator[np.ndarray]:
    """The first `count` pictures of a directory, uint8 [H, W, 3]."""
    for file in listed(directory)[:count]:
        yield np.asarray(open_image(file, FIELD))


def video(file: Path, count: int) -> Iterator[np.ndarray]:
    """The first `count` frames of a video file, uint8 [H, W, 3]."""
    reader = imageio_ffmpeg.read_frames(
        file, input_params=AS_STORED, output_params=[*EACH_FRAME_ONCE, "-frames:v", str(count)]
    )
    try:
        width, height = next(reader)["size"]
        check_size((width, height), file, FIELD)
        for frame in reader:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    except READER_ERRORS as error:
        raise PromptError(f"--cn {file} cannot be read as a video: {first_line(error)}", key=FIELD) from error
    finally:
        reader.close()


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
