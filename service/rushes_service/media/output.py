"""The output directory of a sample, looked at before anything is computed for it."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rushes.errors import OutputError, OutputRefused
from rushes_service.media.naming import SAMPLE_DIR

REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})
"""Errors that stay until somebody mends the directory, its owner or its mount."""


def prepare_output(directory: Path, given: str) -> None:
    """Make `sample/` in an output directory that is there, and try to write into it.

    The directory itself is never made: where it is not mounted, the sample would lie on this machine, or in this
    container, and nobody would find it.

    Args:
        directory: the output directory on this machine.
        given: the same as the submitter calls it.

    Raises:
        OutputRefused: it is not there, is no directory, or may not be written.
        OutputError: it cannot be written at this moment (a full disk, say).
    """
    if not is_directory(directory):
        raise OutputRefused(missing(directory, given))
    place = directory / SAMPLE_DIR
    with output_errors(place):
        place.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass


def is_directory(path: Path) -> bool:
    """True for a directory; an error of the file system other than absence is an `OutputError`."""
    with output_errors(path):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return path.is_dir()


def missing(directory: Path, given: str) -> str:
    """What to tell about an output directory that is not there."""
    here = f"{given}, here {directory}," if given != str(directory) else str(directory)
    if directory.exists():
        return f"the output directory {here} is a file: give a directory as --output_dir"
    return (
        f"the output directory {here} is not there on this worker's machine: is it not mounted? Mount it at the same "
        f"path (in a container too), or say where it is, with `rushes worker --map {given}=HERE`; "
        "then `rushes jobs retry`"
    )


@contextlib.contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn errors of the file system into `OutputError`, or `OutputRefused` if another attempt meets them again."""
    try:
        yield
    except OSError as error:
        kind = OutputRefused if error.errno in REFUSALS else OutputError
        reason = error.strerror or str(error)
        raise kind(
            f"{target} cannot be written: {reason}. Is the disk full, and may this user write to {target.parent}? "
            f"{whoami()}"
        ) from error


def whoami() -> str:
    """As whom this worker writes."""
    return f"This worker runs as {os.geteuid()}:{os.getegid()}."
