"""The ffmpeg that imageio-ffmpeg ships: frames in, H.264 out, metadata both ways."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np

from rushes.errors import OutputError

QUALITY = ("-preset", "veryfast", "-crf", "14")
"""Near lossless to the eye: any artefact in a sample must be the model's own."""

COLOURS = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")
TO_YUV = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"

RECEIPT_TAG = "comment"
"""The one free text field that every mp4 reader knows."""

SPECIAL = re.compile(r"([=;#\\\n])")
ERROR_LINES = 5


class Encoder:
    """A running ffmpeg that takes raw RGB frames and writes an mp4.

    As a context manager it ends ffmpeg on the way out: by closing its input, or by killing it after an exception.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int) -> None:
        self.path = path
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
        coded = ["-an", "-c:v", "libx264", *QUALITY, "-vf", TO_YUV, *COLOURS, "-f", "mp4", str(path)]
        try:
            self._process = subprocess.Popen(
                [*command(), *raw, *coded], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log
            )
        except BaseException:
            self._log.close()
            raise

    def write(self, frame: np.ndarray) -> None:
        """Encode one frame, uint8 [H, W, 3].

        Raises:
            OutputError: ffmpeg has ended, most likely because the file cannot be written.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self._process.wait()
            raise self._error() from None

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._process.stdin is not None
        try:
            if kind is not None:
                self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            if self._process.wait() != 0 and kind is None:
                raise self._error()
        finally:
            self._log.close()

    def _error(self) -> OutputError:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        return ffmpeg_error(self.path, self._process.returncode, text)


def command() -> list[str]:
    """How to call ffmpeg.

    Raises:
        OutputError: there is none, or none that can be run.
    """
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise OutputError(f"no ffmpeg: reinstall imageio-ffmpeg ({error})") from error
    if shutil.which(program) is None:
        raise OutputError(f"no ffmpeg: {program} cannot be run; unset IMAGEIO_FFMPEG_EXE, or name one that can")
    return [program, "-y", "-hide_banner", "-loglevel", "error"]


def finalise(source: Path, target: Path, receipt: str) -> None:
    """Copy an mp4 with `receipt` in its metadata and its index in front, so that browsers play it while it loads.

    Raises:
        OutputError: it cannot be written.
    """
    metadata = ";FFMETADATA1\n" + f"{RECEIPT_TAG}={escape(receipt)}\n"
    inputs = ["-i", str(source), "-f", "ffmetadata", "-i", "pipe:0"]
    copying = ["-map", "0", "-map_metadata", "1", "-c", "copy", "-movflags", "+faststart", "-f", "mp4", str(target)]
    result = subprocess.run([*command(), *inputs, *copying], input=metadata.encode(), capture_output=True)
    if result.returncode != 0:
        raise ffmpeg_error(target, result.returncode, result.stderr.decode(errors="replace"))


def read_comment(path: Path) -> str | None:
    """The receipt field of an mp4, or None if it has none or is no mp4."""
    reading = ["-i", str(path), "-f", "ffmetadata", "pipe:1"]
    result = subprocess.run([*command(), *reading], stdin=subprocess.DEVNULL, capture_output=True)
    return next(comments(result.stdout.decode(errors="replace")), None)


def comments(text: str) -> Iterator[str]:
    """Values of the receipt field in ffmetadata text."""
    for match in re.finditer(rf"^{RECEIPT_TAG}=((?:[^\\\n]|\\.|\\\n)*)$", text, re.MULTILINE):
        yield re.sub(r"\\([\s\S])", r"\1", match[1])


def escape(text: str) -> str:
    """`text` as a value of ffmpeg's metadata format."""
    return SPECIAL.sub(r"\\\1", text)


def ffmpeg_error(path: Path, status: int, log: str) -> OutputError:
    """The error for an ffmpeg that failed."""
    if status == -signal.SIGKILL:
        return OutputError(f"{path}: ffmpeg was killed while it wrote; did this machine run out of memory?")
    lines = [line for line in log.strip().splitlines() if line.strip()][-ERROR_LINES:]
    reason = "; ".join(lines) or f"status {status}"
    return OutputError(f"{path.parent}: the clip could not be written, is the disk full? ffmpeg says: {reason}")
