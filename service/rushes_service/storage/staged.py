"""Files out of a store (`s3://...`), kept in a directory of this machine: bounded, and verified by their names.

<cache dir>/staged/files/<hash>/<name>     checkpoints and inputs, named by content; media, by their version
<cache dir>/staged/work/<sample>-<hex>/    what a worker writes before it is uploaded
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from rushes._paths import SNAPSHOT_DIR
from rushes.checkpoints.staging import INPUT_DIR, content_of
from rushes.checkpoints.store import Store, store_of
from rushes.errors import CheckpointError, StagingError
from rushes.wire.base import digest

STAGED_DIR = "staged"

IN_USE_S = 600.0
"""A file that was used more recently stays whatever the limit: a worker may be about to read it."""

ABANDONED_S = 24 * 3600.0
"""Age after which the files of a killed worker are removed, in seconds."""

CONTENT = re.compile(rf"/(?:{SNAPSHOT_DIR}/([0-9a-f]{{64}})\.safetensors|{INPUT_DIR}/([0-9a-f]{{64}})/[^/]+/?)$")
"""URLs that contain the hash of their content."""


class StagedFiles:
    """The files of stores that this machine has used last. Several processes may share the directory.

    Args:
        cache_dir: below which it keeps them.
        max_bytes: total size of these files.
    """

    def __init__(self, cache_dir: Path, max_bytes: int) -> None:
        self._files = cache_dir / STAGED_DIR / "files"
        self._work = cache_dir / STAGED_DIR / "work"
        self._max_bytes = max_bytes

    def fetch(self, root: str, url: str, version: str = "") -> Path:
        """The local copy of a file or, with a slash at its end, of a directory.

        Args:
            root: the staging URL below which it must lie.
            version: distinguishes contents under the same URL.

        Raises:
            StagingError: the file is missing, does not match the hash in its name, or the store cannot be reached.
        """
        if not url.startswith(f"{root}/") or ".." in unquote(url).split("/"):
            raise StagingError(f"{url} lies outside {root}, where the files of this sample are")
        place = self._files / digest([url, version]) / unquote(url.rstrip("/").rpartition("/")[2])
        if not place.exists():
            self._download(store_of(root), url, place)
        with contextlib.suppress(OSError):
            os.utime(place.parent)
        return place

    def _download(self, store: Store, url: str, place: Path) -> None:
        """Bring a file here, whole or not at all."""
        with self.work_directory("fetch") as directory:
            fetched = directory / place.name
            try:
                if url.endswith("/"):
                    download_all(store, url, fetched)
                else:
                    store.get(url, fetched)
            except FileNotFoundError:
                raise StagingError(f"{url} is not there (any more); was it removed from the store?") from None
            verify(url, fetched)
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another process was quicker, and a directory is not replaced
                fetched.replace(place)
        self._trim()

    @contextlib.contextmanager
    def work_directory(self, name: str) -> Iterator[Path]:
        """A new directory that goes with its content."""
        directory = self._work / f"{name}-{secrets.token_hex(4)}"
        directory.mkdir(parents=True)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _trim(self) -> None:
        """Remove the least recently used files until the rest fits, and abandoned work directories."""
        now = time.time()
        for directory, used, _ in entries(self._work):
            if now - used > ABANDONED_S:
                shutil.rmtree(directory, ignore_errors=True)
        found = sorted(entries(self._files), key=lambda entry: entry[1])
        excess = sum(size for _, _, size in found) - self._max_bytes
        for directory, used, size in found:
            if excess <= 0 or now - used < IN_USE_S:
                return
            shutil.rmtree(directory, ignore_errors=True)
            excess -= size


def entries(directory: Path) -> Iterator[tuple[Path, float, int]]:
    """The directories in one, each with the time of its last use and its bytes."""
    with contextlib.suppress(FileNotFoundError):
        for entry in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                size = sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
                yield entry, entry.stat().st_mtime, size


def download_all(store: Store, url: str, target: Path) -> None:
    """The files of a directory and of those in it."""
    names = store.names_below(url.rstrip("/"))
    if not names:
        raise FileNotFoundError(url)
    for name in names:
        file = target / unquote(name)
        if not file.resolve().is_relative_to(target.resolve()):
            raise StagingError(f"{url}{name} leads outside its directory")
        file.parent.mkdir(parents=True, exist_ok=True)
        store.get(url + name, file)


def verify(url: str, fetched: Path) -> None:
    """Raise `StagingError` unless a download matches the hash in its URL, if there is one."""
    found = CONTENT.search(url)
    expected = found and (found[1] or found[2])
    if not expected:
        return
    try:
        content = content_of(fetched)
    except CheckpointError as error:
        raise StagingError(f"{url} is damaged: {error}") from error
    if content != expected:
        raise StagingError(f"{url} holds other content than its name says ({content}): was the upload cut short?")
