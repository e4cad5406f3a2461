"""Temporary names of files that are being written, and removal of those whose writer is dead.

    .rushes-<job id>-<host>-<process>-<token>...

A worker that is killed leaves them behind. Whoever writes into the same directory next knows by the name whether their
writer still lives; that of another machine is given a day.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rushes._platform import process_is_dead
from rushes.wire.base import digest

ABANDONED_S = 24 * 3600
"""Age from which another machine's file counts as abandoned: longer than any is written for, or clocks differ."""

NAME = re.compile(r"\.rushes-(?P<job>.+)-(?P<host>[0-9a-f]{8})-(?P<process>\d+)-(?P<token>[0-9a-f]{8})(?:-raw)?\.\w+")

_writing: set[str] = set()
"""Tokens of this process. Others with its number are older: the worker of a container is always process 1."""


def clear(directory: Path, job_id: str) -> None:
    """Remove from `directory` the files of earlier attempts at a sample, and those of dead writers."""
    remove(directory, lambda path: path.name.startswith(f".rushes-{job_id}-") or abandoned(path))


@contextlib.contextmanager
def private_prefix(directory: Path, job_id: str) -> Iterator[str]:
    """A prefix for the names of a sample's temporary files; files that still have it at the end are removed."""
    token = secrets.token_hex(4)
    prefix = f".rushes-{job_id}-{this_host()}-{os.getpid()}-{token}"
    _writing.add(token)
    try:
        yield prefix
    finally:
        # Only our own files: if the sample was taken over meanwhile, its new owner may be writing here.
        with contextlib.suppress(OSError):
            remove(directory, lambda path: path.name.startswith(prefix))
        _writing.discard(token)


def abandoned(path: Path) -> bool:
    """True for a temporary file whose writer is dead."""
    name = NAME.fullmatch(path.name)
    if name is None:
        return False
    if name["host"] != this_host():
        return time.time() - path.stat().st_mtime > ABANDONED_S
    if int(name["process"]) == os.getpid():
        return name["token"] not in _writing
    return process_is_dead(int(name["process"]))


def this_host() -> str:
    """This machine, or container, in eight hex digits."""
    return digest(socket.gethostname(), digits=8)


def remove(directory: Path, unwanted: Callable[[Path], bool]) -> None:
    """Delete the private files of `directory` that are not wanted, where they let themselves be deleted."""
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            if path.name.startswith(".rushes-") and unwanted(path):
                path.unlink()
