"""TensorBoard, through event files of its own.

The files hold the very bytes of a picture, and a clip as an animated GIF, which TensorBoard plays. Steps in a file
always rise: TensorBoard's fast reader takes a step that falls for a restart of the training, and drops what was there
from that step on. So when a result comes behind a later one, the file is written anew in order.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from rushes._platform import lock
from rushes.errors import ConfigError
from rushes.trackers.base import VIDEO, caption_of, key_of, media_of, needed, numbers_of
from rushes.wire.results import SampleResult

SUFFIX = ".rushes"
INSTALL = "'rushes[trackers]'"

LENGTH_BYTES, CRC_BYTES = 8, 4
"""A record is its length, a checksum of the length, the data, and a checksum of the data."""

FILE_VERSION = "brain.Event:2"

GIF_SIDE = 480
"""Pixels of the longer side of an animation; a GIF of a whole video is larger than the video itself."""

_serial = itertools.count()


class Entry(NamedTuple):
    """One record of an event file: its step, the sample it shows, and where it lies (bytes)."""

    step: int
    sample: str
    start: int
    end: int


class TensorBoardTracker:
    """Writes results into a directory of event files.

    Args:
        logdir: a directory of its own, below the trainer's for example (`<its log directory>/samples`): TensorBoard
            reads one growing file per directory. What is in it from before is kept, and not logged twice.

    Raises:
        ConfigError: tensorboard is not installed, or another process writes there.
    """

    def __init__(self, logdir: str | Path) -> None:
        self._proto: Any = needed("tensorboard.compat.proto.event_pb2", INSTALL)
        self._records: Any = needed("tensorboard.summary.writer.record_writer", INSTALL)
        self._images: Any = needed("tensorboard.plugins.image.metadata", INSTALL)
        self._types: Any = needed("tensorboard.compat.proto.types_pb2", INSTALL)
        self.logdir = Path(logdir)
        self.logdir.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.logdir / f".lock{SUFFIX}")
        files = sorted(self.logdir.glob(f"*tfevents*{SUFFIX}"))
        self._path = files[-1] if files else self._new_path()
        self._entries = self._read(self._path) if files else []
        # Cut short by a crash, or one of two files that a crash between writing anew and deleting has left.
        if not files or len(files) > 1 or self._path.stat().st_size != self._end():
            self._write_anew()
            for file in files[:-1]:
                file.unlink()

    def log(self, result: SampleResult) -> None:
        """Show a result at its step; one that is there already is left as it is."""
        path = media_of(result)
        if path is None or any(entry.sample == result.id for entry in self._entries):
            return
        record = io.BytesIO()
        self._records.RecordWriter(record).write(self._event(result, path))
        entry = Entry(result.step, result.id, *appended(self._path, record.getvalue()))
        in_order = not self._entries or self._entries[-1].step <= entry.step
        self._entries.append(entry)
        if not in_order:
            self._write_anew()

    def close(self) -> None:
        """Let other processes write here. Everything is on disk already."""
        self._lock.close()

    def _event(self, result: SampleResult, path: Path) -> bytes:
        """A record's data: one image with its description."""
        encoded = animation(path) if result.media_type == VIDEO else path.read_bytes()
        event = self._proto.Event(wall_time=time.time(), step=result.step)
        key = key_of(result)
        value = event.summary.value.add(tag=key)
        value.metadata.CopyFrom(
            self._images.create_summary_metadata(
                display_name=key, description=f"{caption_of(result)}\n\n{result.id}", converted_to_tensor=False
            )
        )
        size = [str(side or 0).encode() for side in (result.width, result.height)]
        value.tensor.dtype = self._types.DT_STRING
        value.tensor.tensor_shape.dim.add(size=len(size) + 1)
        value.tensor.string_val.extend([*size, encoded])
        for name, number in numbers_of(result).items():
            event.summary.value.add(tag=name, simple_value=number)
        return event.SerializeToString()

    def _read(self, path: Path) -> list[Entry]:
        """The whole records of a file that this class has written."""
        entries: list[Entry] = []
        with path.open("rb") as file:
            for start, data in records(file):
                event = self._proto.Event.FromString(data)
                for value in event.summary.value[:1]:  # the picture; numbers of the same sample follow it
                    sample = value.metadata.summary_description.rpartition("\n")[2]
                    entries.append(Entry(event.step, sample, start, start + framed(len(data))))
        return entries

    def _write_anew(self) -> None:
        """Write all entries, in the order of their steps, into a new file. Readers notice names, not contents."""
        old, new = self._path, self._new_path()
        entries: list[Entry] = []
        temporary = new.with_name(f".{new.name}.part")
        with temporary.open("wb") as target:
            version = self._proto.Event(wall_time=time.time(), file_version=FILE_VERSION)
            self._records.RecordWriter(target).write(version.SerializeToString())
            if self._entries:
                with old.open("rb") as source:
                    for entry in sorted(self._entries, key=lambda entry: entry.step):
                        source.seek(entry.start)
                        start = target.tell()
                        target.write(source.read(entry.end - entry.start))
                        entries.append(entry._replace(start=start, end=target.tell()))
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(new)
        if old != new:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
        self._path, self._entries = new, entries

    def _new_path(self) -> Path:
        """A name that sorts behind those before it, as TensorBoard expects of newer files."""
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}.{next(_serial)}{SUFFIX}"
        return self.logdir / name

    def _end(self) -> int:
        """Where the last whole record ends; -1 for a file without any."""
        return self._entries[-1].end if self._entries else -1


def appended(path: Path, record: bytes) -> tuple[int, int]:
    """Where a record begins and ends that is put at the end of a file, whole or not at all.

    Raises:
        OSError: the disk is full, for one.
    """
    start = path.stat().st_size
    try:
        with path.open("ab") as file:
            file.write(record)
    except OSError:
        os.truncate(path, start)  # readers would stop at the torn record, and see none of those behind it
        raise
    return start, start + len(record)


def framed(length: int) -> int:
    """Bytes that a record of `length` bytes takes in a file."""
    return LENGTH_BYTES + CRC_BYTES + length + CRC_BYTES


def records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Place and data of every whole record of an event file."""
    start = 0
    while len(head := file.read(LENGTH_BYTES + CRC_BYTES)) == LENGTH_BYTES + CRC_BYTES:
        length = int.from_bytes(head[:LENGTH_BYTES], "little")
        data = file.read(length)
        if len(data) < length or len(file.read(CRC_BYTES)) < CRC_BYTES:
            return
        yield start, data
        start += framed(length)


def locked(path: Path) -> IO[bytes]:
    """An open file that keeps other processes from writing event files beside it.

    Raises:
        ConfigError: another one does.
    """
    file = path.open("ab")
    try:
        lock(file)
    except OSError:
        file.close()
        raise ConfigError(f"{path.parent}: another process logs samples there; give each a directory") from None
    return file


def animation(clip: Path) -> bytes:
    """A clip as an animated GIF of its own rate, shrunk to `GIF_SIDE`.

    Raises:
        ConfigError: imageio-ffmpeg is not installed, or ffmpeg cannot read the clip.
    """
    ffmpeg: str = needed("imageio_ffmpeg", INSTALL).get_ffmpeg_exe()
    shrink = f"scale=w='min({GIF_SIDE},iw)':h='min({GIF_SIDE},ih)':force_original_aspect_ratio=decrease"
    colours = "split[a][b];[a]palettegen[p];[b][p]paletteuse"
    command = [ffmpeg, "-v", "error", "-i", str(clip), "-filter_complex", f"{shrink},{colours}", "-f", "gif", "-"]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise ConfigError(f"{clip}: ffmpeg cannot read it: {reason}") from None
