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
    """Absolute form of a path, its `~` followed."""
    return expanded(path).absolute()
