"""The files of the conditioning cache: how many, how large, which one goes first. Needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushes.checkpoints.safetensors import METADATA, read_header
from rushes.errors import CheckpointError

CONDITIONING_DIR = "conditioning"
"""Below the cache directory."""

KEY_FIELD = "rushes_key"
"""Metadata field of a file with the key that it was made from, as JSON."""


@dataclass(frozen=True)
class CachedFile:
    """One file; `used` is when it was last read or written, in seconds since 1970, `size` in bytes."""

    path: Path
    size: int
    used: float

    def key(self) -> dict[str, Any]:
        """The key that the file was made from; empty if it has none."""
        try:
            return dict(json.loads(read_header(self.path)[METADATA][KEY_FIELD]))
        except (CheckpointError, ValueError, KeyError, TypeError):
            return {}


class DiskCache:
    """The files below one directory. Several processes may use and trim it at once.

    Args:
        max_bytes: total size of the files; None is unlimited.
    """

    def __init__(self, directory: Path, max_bytes: int | None = None) -> None:
        self.directory = directory
        self.max_bytes = max_bytes

    def files(self) -> list[CachedFile]:
        """All files, the one used longest ago first."""
        return sorted(self._found(), key=lambda file: file.used)

    def _found(self) -> Iterator[CachedFile]:
        for path in self.directory.glob("*/*.safetensors"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                yield CachedFile(path, facts.st_size, facts.st_mtime)

    def touch(self, path: Path) -> None:
        """Note that a file was used."""
        with suppress(OSError):  # a cache that is read-only can still be read
            os.utime(path)

    def trim(self, newest: Path) -> None:
        """Delete the least recently used files until the rest fits; `newest` stays whatever its size."""
        if self.max_bytes is None:
            return
        files = self.files()
        excess = sum(file.size for file in files) - self.max_bytes
        for file in files:
            if excess <= 0:
                return
            if file.path != newest:
                file.path.unlink(missing_ok=True)
                excess -= file.size

    def clear(self) -> tuple[int, int]:
        """Delete everything; how many files, and their bytes."""
        files = self.files()
        for file in files:
            file.path.unlink(missing_ok=True)
        return len(files), sum(file.size for file in files)
