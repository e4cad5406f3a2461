"""LoRA files that were read before the sample that needs them: its swap is then the products alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rushes.checkpoints.adapters import adapter_files
from rushes.errors import CheckpointError
from rushes_service.lora.reading import Lora
from rushes_service.lora.reading.files import SHA256_HEX

Stamp = tuple[object, ...]
"""Device, inode, size and time of change of a file of weights, and the text of its configuration."""


class File(Protocol):
    """A file that is to be read, and all that its reading depends on; hashable."""

    @property
    def place(self) -> Path:
        """Where it is."""

    @property
    def fingerprint(self) -> str:
        """Hash of its content, as submitted."""


Key = Any
"""A `File` and what is allowed of it."""


class FilesAhead:
    """Files of one sample at most, read and checked in another thread. Thread-safe.

    A file that has changed on disk since it was read is not handed out: whoever takes it reads it anew, and meets the
    error that he would have met. Neither is one whose content the submitter did not hash.
    """

    def __init__(self) -> None:
        self._reading = threading.Lock()
        self._found: dict[Key, tuple[Stamp, Lora]] = {}

    def read(self, wanted: Mapping[Key, File], read: Callable[[Key], Lora]) -> None:
        """Read files that are not here yet, and forget all others; raises what `read` and the system raise."""
        with self._reading:
            self._found = {key: found for key, found in self._found.items() if key in wanted}
            for key, file in wanted.items():
                if key not in self._found and SHA256_HEX.fullmatch(file.fingerprint):
                    stamp = stamp_of(file.place)
                    self._found[key] = stamp, read(key)

    def take(self, key: Key, file: File) -> Lora | None:
        """What was read of a file, which is then here no longer; None if it must be read. Waits for a reading."""
        with self._reading:
            found = self._found.pop(key, None)
        try:
            return found[1] if found is not None and found[0] == stamp_of(file.place) else None
        except (OSError, CheckpointError):
            return None

    def forget(self) -> None:
        """Give back the memory, unless a file is being read."""
        if self._reading.acquire(blocking=False):
            self._found = {}
            self._reading.release()

    def __bool__(self) -> bool:
        return bool(self._found)


def stamp_of(place: Path) -> Stamp:
    """What tells that a file, or an adapter's directory, is as it was; raises `OSError`, `CheckpointError`."""
    path, config = adapter_files(place)
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, config


def bytes_of(files: Sequence[File]) -> int:
    """Bytes that files take, on disk as in memory; raises `OSError`."""
    return sum(adapter_files(file.place)[0].stat().st_size for file in files)
