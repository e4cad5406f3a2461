"""Write a sample and its receipt under temporary names, renamed when both are complete and the lease is still held."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rushes.errors import OutputError
from rushes_service.media.ffmpeg import Encoder, finalise
from rushes_service.media.health import Health
from rushes_service.media.naming import MEDIA_TYPES, MediaType
from rushes_service.media.output import output_errors
from rushes_service.media.receipts import png_info, receipt_path, to_text
from rushes_service.media.temporary import clear, private_prefix

Frames = Iterator[np.ndarray]
Receipt = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Written:
    """A finished sample on disk. Sizes in pixels, `size` in bytes."""

    path: Path
    receipt_path: Path
    media_type: MediaType
    width: int
    height: int
    frame_count: int
    size: int
    health: tuple[str, ...] = ()


def write_media(
    frames: Frames,
    target: Path,
    *,
    job_id: str,
    frame_count: int,
    fps: int,
    receipt: Receipt,
    guard: Callable[[], None],
    more_flags: Callable[[], tuple[str, ...]] = tuple,
) -> Written:
    """Write `frames` (uint8 [H, W, 3]) to `target`, a `.png` for one frame or an `.mp4`, with a receipt beside it.

    A single frame may have transparency, [H, W, 4].

    Frames are taken one at a time and encoded as they come. On any exception nothing of this attempt is left; what
    an earlier attempt at the same job left behind (killed, say) is removed first.

    Args:
        receipt: called when the last frame has been taken; JSON-able.
        more_flags: health flags of the caller's own, asked for when the last frame has been taken.
        guard: called right before the files are renamed; raises if this worker no longer owns the sample.

    Raises:
        OutputError: the files cannot be written, or the frames are not `frame_count` of one size.
        Exception: whatever `frames`, `receipt` or `guard` raise.
    """
    with output_errors(target):
        target.parent.mkdir(exist_ok=True)  # never its parents: see `prepare_output`
        clear(target.parent, job_id)
    health = Health()
    # Cached: the same beside the file as inside it.
    described = functools.cache(lambda: with_health(receipt(), (*health.flags(), *more_flags())))
    write = write_png if target.suffix == ".png" else write_mp4
    with private_prefix(target.parent, job_id) as prefix:
        media, note = (target.parent / (prefix + suffix) for suffix in (target.suffix, ".json"))
        with output_errors(target), contextlib.closing(checked_frames(frames, frame_count, target)) as counting:
            height, width = write(health.watch(counting), media, fps, described)
            note.write_text(to_text(described(), indent=2), encoding="utf-8")
            size = media.stat().st_size
        guard()
        with output_errors(target):
            # The media file last: a reader that sees it finds its receipt.
            note.replace(receipt_path(target))
            media.replace(target)
    kind = MEDIA_TYPES[target.suffix]
    return Written(
        target, receipt_path(target), kind, width, height, frame_count, size, (*health.flags(), *more_flags())
    )


def with_health(receipt: Mapping[str, Any], flags: tuple[str, ...]) -> Mapping[str, Any]:
    """The receipt with its health flags, if there are any."""
    return {**receipt, "health": list(flags)} if flags else receipt


def write_png(frames: Frames, path: Path, _fps: int, receipt: Receipt) -> tuple[int, int]:
    """Write the one frame of `frames`; its height and width."""
    (picture,) = frames
    Image.fromarray(picture).save(path, format="PNG", pnginfo=png_info(to_text(receipt())))
    return picture.shape[0], picture.shape[1]


def write_mp4(frames: Frames, path: Path, fps: int, receipt: Receipt) -> tuple[int, int]:
    """Write a clip as H.264, frame by frame; its height and width."""
    first = next(frames)
    height, width = first.shape[:2]
    raw = path.with_name(f"{path.stem}-raw.mp4")
    with Encoder(raw, width, height, fps) as encoder:
        for frame in itertools.chain([first], frames):
            encoder.write(frame)
    # The receipt is complete only now (it tells how long the sample took), hence the second file.
    finalise(raw, path, to_text(receipt()))
    return height, width


def checked_frames(frames: Frames, expected: int, target: Path) -> Generator[np.ndarray, None, None]:
    """Pass `frames` on; raise `OutputError` unless they are `expected` frames of one size."""
    count = 0
    shape: tuple[int, ...] = ()
    for count, frame in enumerate(frames, start=1):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise OutputError(f"{target.name}: frame {count} is {frame.shape}, the first was {shape}")
        if count > expected:
            raise OutputError(f"{target.name}: {expected} frames were to be made, but more came")
        yield frame
    if count < expected:
        raise OutputError(f"{target.name}: {expected} frames were to be made, but {count} came")
