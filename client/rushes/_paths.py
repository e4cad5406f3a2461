"""Paths as people type them, and the names of the directories that Rushes makes in an output directory.

.rushes/checkpoints/<fingerprint>.safetensors    hard link (or copy), kept until its last sample has ended
.rushes/spool/<submission>.json                  submissions that Redis has not accepted yet
"""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE_DIR = ".rushes"
SNAPSHOT_DIR = f"{PRIVATE_DIR}/checkpoints"
SPOOL_DIR = f"{PRIVATE_DIR}/spool"


def expanded(path: str | Path) -> Path:
    """A path with its `~` followed. `~nobody` stays what it is; `Path.expanduser` would raise."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def absolute(path: str | Path) -> Path:
    """Absolute form of a path, its `~` followed and its `..` taken out; links are kept where no `..` follows one.

    A path is read on machines and in containers that may not have the directories that a `..` leaves again.
    """
    return without_parents(expanded(path).absolute())


def without_parents(path: Path) -> Path:
    """The same file under a path without `..`, of an absolute path.

    `a/link/../b` lies beside what the link points to, not in `a`: what stands before such a `..` is resolved.
    """
    whole = Path(path.anchor)
    for part in path.parts[1:]:
        if part != "..":
            whole /= part
        elif os.path.islink(whole):  # noqa: PTH114 - never raises
            whole = Path(os.path.realpath(whole)).parent
        else:
            whole = whole.parent
    return whole
