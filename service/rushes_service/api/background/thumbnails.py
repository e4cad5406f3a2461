"""Small stills of samples: of a picture the picture, of a clip its middle frame. Made once, kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import secrets
import subprocess
import tempfile
import threading
import time
from functools import cached_property
from pathlib import Path

from rushes.errors import OutputError
from rushes_service.api.background.events_consumer import QueueEvent

log = logging.getLogger(__name__)

WIDTHS = (160, 320, 640)
"""Pixels; few, so that one sample makes few files."""

EAGER_WIDTH = 320
"""Width made for every sample when it ends; other widths are made on request."""

FRESH_S = 60
"""Seconds after which the end of a sample makes no thumbnail any more; it is made on request."""

QUALITY = 82
MAKERS = 2
"""Stills made at once: a page that opens asks for dozens, and the machine has other work."""

MAX_PIXELS = 64_000_000
"""Larger pictures are not opened: an 8K frame has half as many."""

TIMEOUT_S = 30
KEPT_S = 60 * 24 * 3600
"""Seconds without a request after which a thumbnail is removed."""


class Thumbnails:
    """Stills below one directory, named after the version of the file that they show."""

    def __init__(self, directory: Path) -> None:
        self._wanted = directory
        self._makers = threading.BoundedSemaphore(MAKERS)

    @cached_property
    def directory(self) -> Path:
        """The directory; a temporary one if that cannot be written (a container without a home, a full disk)."""
        try:
            self._wanted.mkdir(parents=True, exist_ok=True)
            if os.access(self._wanted, os.W_OK):
                return self._wanted
        except OSError as error:
            log.warning("%s cannot be used for stills: %s", self._wanted, error)
        return Path(tempfile.mkdtemp(prefix="rushes-stills-"))

    def receive(self, event: QueueEvent) -> None:
        """Make the thumbnail of a sample that has just ended, before it is requested."""
        path = event.data.get("path")
        if event.kind != "done" or not path or time.time() - event.at > FRESH_S or not Path(path).is_file():
            return
        seconds = (event.data.get("frame_count") or 1) / (event.data.get("fps") or 1) / 2
        try:
            self.of(Path(path).resolve(), EAGER_WIDTH, seconds)
        except OutputError as error:
            log.info("%s", error)

    def of(self, media: Path, width: int, seconds: float) -> Path:
        """The still of a file, at most `width` pixels wide; of a clip the frame at `seconds`.

        Raises:
            OutputError: the file cannot be decoded, or the thumbnail cannot be written.
        """
        found = media.stat()
        version = f"{media}\0{found.st_ino}\0{found.st_size}\0{found.st_mtime_ns}\0{width}"
        still = self.directory / f"{hashlib.sha256(version.encode()).hexdigest()[:40]}.webp"
        if still.exists():
            with contextlib.suppress(OSError):
                os.utime(still)
            return still
        with self._makers:
            if not still.exists():
                self._make(media, width, seconds, still)
        return still

    def _make(self, media: Path, width: int, seconds: float, still: Path) -> None:
        private = still.with_name(f".{still.stem}-{secrets.token_hex(4)}")
        try:
            picture = frame_at(media, seconds) if media.suffix.lower() == ".mp4" else media
            shrink(picture, width, private)
            private.replace(still)
        except OSError as error:
            raise OutputError(f"no thumbnail of {media.name}: {error}") from error
        finally:
            private.unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove thumbnails that have not been requested for `KEPT_S`."""
        oldest = time.time() - KEPT_S
        for still in self._wanted.glob("*.webp"):
            with contextlib.suppress(OSError):
                if still.stat().st_mtime < oldest:
                    still.unlink()


def shrink(picture: Path | io.BytesIO, width: int, target: Path) -> None:
    """Write a picture as WebP, made smaller if it is wider than `width`.

    Raises:
        OutputError: the picture is damaged, or has more than `MAX_PIXELS`.
        OSError: it cannot be read, or the other not written.
    """
    from PIL import Image

    try:
        with Image.open(picture, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise OutputError(f"a picture of {image.width}x{image.height} is too large for a thumbnail")
            image.thumbnail((width, 4 * width))
            image.convert("RGBA" if image.has_transparency_data else "RGB").save(
                target, format="WEBP", quality=QUALITY, method=4
            )
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OutputError(f"no thumbnail of a picture that is damaged: {error}") from error


def frame_at(clip: Path, seconds: float) -> io.BytesIO:
    """One frame of a clip as a PNG; the first one where there is none at `seconds`."""
    import imageio_ffmpeg

    for place in (seconds, 0.0):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-threads", "1", "-ss", f"{place:.3f}"]
        command += ["-protocol_whitelist", "file", "-f", "mp4", "-i", f"file:{clip}"]
        command += ["-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise OutputError(f"no frame of {clip.name} within {TIMEOUT_S} s") from None
        if done.returncode == 0 and done.stdout:
            return io.BytesIO(done.stdout)
    raise OutputError(
        f"{clip.name} has no frame that can be read: {done.stderr.decode(errors='replace').strip()[-300:]}"
    )
