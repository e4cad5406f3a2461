"""Whether the files of a base model are still those that it was loaded from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rushes._paths import expanded
from rushes.errors import ModelError
from rushes.families.table import architecture
from rushes.wire.models import ModelSpec
from rushes_service.models.loading.files.headers import shards

Stamps = tuple[tuple[object, ...], ...]
"""Path, device, inode, size and time of change of each file."""


def stamps_of(model: ModelSpec) -> Stamps:
    """What tells that the files on this machine that `model` names are as they were.

    Those of a repository of the hub never change under their commit, and are not looked at.
    """
    named = (model.model, *(getattr(model, file.flag) for file in architecture(model.architecture).files))
    files = {file for name in named if name is not None for file in files_at(expanded(name))}
    return tuple(stamp for file in sorted(files) if (stamp := stamp_of(file)))


def files_at(path: Path) -> Iterator[Path]:
    """All files below a directory, or a file with its other shards; none if nothing is there."""
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
        return
    with suppress(ModelError):  # one of several shards is gone, and with it the stamp of each
        yield from shards(path)


def stamp_of(file: Path) -> tuple[object, ...]:
    """That of one file; empty if it is not there."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
