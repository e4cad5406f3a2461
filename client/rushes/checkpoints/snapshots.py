"""Snapshots: links or copies of checkpoints, which stay when the trainer rotates its own files away."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import time
from pathlib import Path

from rushes._paths import SNAPSHOT_DIR
from rushes.checkpoints.store import is_url, remove_snapshot

logger = logging.getLogger("rushes")

_serial = itertools.count()


def snapshot(path: str, descriptor: int, directory: Path) -> Path:
    """Keep a file that is open as `descriptor` under a new name in `directory`.

    A hard link while `path` still leads to it and the file system allows one: no data is read or written, and the
    content stays when the trainer deletes its own name. Else a copy of what the descriptor reads.

    Raises:
        OSError: the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = pending_name(directory)
    with contextlib.suppress(OSError):  # rotated away, another device, no hard links here: the copy says what is wrong
        # link(2) would link a symbolic link itself, whose target can still be deleted.
        os.link(os.path.realpath(path), kept)
        if os.path.samestat(os.fstat(descriptor), kept.stat()):
            return kept
    try:
        kept.unlink(missing_ok=True)  # the name was given to another file meanwhile
        with os.fdopen(os.dup(descriptor), "rb") as source, kept.open("xb") as target:
            shutil.copyfileobj(source, target)
    except OSError:
        with contextlib.suppress(OSError):
            kept.unlink(missing_ok=True)
        raise
    return kept


def pending_name(directory: Path) -> Path:
    """An unused name for a snapshot whose content is not known yet; trainers see a `.safetensors` file."""
    return directory / f"{os.getpid()}-{time.time_ns()}-{next(_serial)}.pending.safetensors"


def adopt(pending: Path, fingerprint: str) -> Path:
    """Give a pending snapshot its final name, by content: the same weights are kept once."""
    final = pending.with_name(f"{fingerprint}.safetensors")
    try:
        pending.replace(final)
    except PermissionError:  # Windows, while another process reads the one that is there: it has the same content
        if not final.is_file():
            raise
    pending.unlink(missing_ok=True)  # renaming a link onto another link of the same file removes neither
    return final


def release(path: str | Path) -> None:
    """Remove a snapshot whose last sample has ended, here or in a store. Any other file is left alone.

    If the removal fails (permissions, a store that is away), it is logged; the trainer's next cleanup removes the file.
    """
    if isinstance(path, str) and is_url(path):
        remove_snapshot(path)
        return
    path = Path(path)
    if path.parent.parts[-2:] == tuple(SNAPSHOT_DIR.split("/")):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("rushes: a checkpoint that no sample needs cannot be removed: %s", error)
