"""Control clips: the first frames of a video file, or of a directory of pictures."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from rushes.errors import PromptError, first_line
from rushes_service.models.inputs.bit_depth import brightest, check_range
from rushes_service.models.inputs.images import check_size, decoded, fit, picture_errors

FIELD = "control_video_path"
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".tif", ".tiff"})
"""What counts as a frame in a directory, whatever its case; everything else there is passed over, and so are hidden
files: macOS puts a `._0001.png` that is no picture beside each of its own on foreign disks."""

AS_STORED = ["-noautorotate"]
CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif,apng,nut,ivf,h264,hevc"
ONE_FILE = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]
"""What is opened: videos that hold their frames themselves. Playlists name other files, or addresses."""

DEEP_PIXELS = re.compile(r"(gray|ya|rgb|bgr|rgba|bgra|gbrp|gbrap)(16|48|64)(le|be)")
"""Names that ffmpeg has for pixels of 16 bits a channel, which may hold fewer."""

EACH_FRAME_ONCE = ["-fps_mode", "passthrough"]
"""As the reference reads videos: no frame is turned, repeated or dropped to keep a rate."""

READER_ERRORS = (OSError, RuntimeError, ValueError, IndexError, KeyError, StopIteration)
"""What imageio-ffmpeg raises over files that are no video."""


def control_frames(path: str, count: int, width: int, height: int) -> np.ndarray:
    """The first `count` frames, scaled and cut to size: uint8 [count, height, width, 3].

    Frames of a directory are its pictures in the order of their names. A single picture is a clip of one frame.

    Raises:
        PromptError: it is not there, cannot be read, is of unknown range, or has fewer frames.
    """
    place = Path(path)
    deep: list[int] = []
    """The brightest number of each frame that has more than 8 bits."""
    try:
        if not place.exists():
            raise PromptError(f"--cn {path}: there is no such file or directory", key=FIELD)
        with contextlib.closing(frames_of(place, count, deep)) as frames:
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
    with picture_errors(path, FIELD):
        check_range(deep)
    return np.stack(fitted)


def frames_of(place: Path, count: int, deep: list[int]) -> Generator[np.ndarray]:
    """The first `count` frames of a directory, a picture or a video, uint8 [H, W, 3]; `deep` is filled meanwhile."""
    if place.is_dir() or is_picture(place):
        return pictures(control_files(str(place), count), deep)
    return video(place, count, deep)


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
    return [file for file in files if is_picture(file) and not file.name.startswith(".")]


def is_picture(file: Path) -> bool:
    """True for a file whose name says that it is a picture."""
    return file.suffix.lower() in PICTURES


def pictures(files: Sequence[Path], deep: list[int]) -> Generator[np.ndarray]:
    """Pictures, uint8 [H, W, 3]."""
    for file in files:
        with picture_errors(file, FIELD):
            image, bits = decoded(file, FIELD)
        if bits > 8:
            deep.append(brightest(image))
        yield np.asarray(image)


def video(file: Path, count: int, deep: list[int]) -> Generator[np.ndarray]:
    """The first `count` frames of a video file, uint8 [H, W, 3]."""
    reader = imageio_ffmpeg.read_frames(
        file, input_params=[*AS_STORED, *ONE_FILE], output_params=[*EACH_FRAME_ONCE, "-frames:v", str(count)]
    )
    try:
        facts = next(reader)
        width, height = facts["size"]
        check_size((width, height), file, FIELD)
        for data in reader:
            frame = np.frombuffer(data, np.uint8).reshape(height, width, 3)
            if DEEP_PIXELS.match(facts["pix_fmt"]):
                deep.append(brightest(frame))
            yield frame
    except READER_ERRORS as error:
        raise PromptError(f"--cn {file} cannot be read as a video: {first_line(error)}", key=FIELD) from error
    finally:
        reader.close()
