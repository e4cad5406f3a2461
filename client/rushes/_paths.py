"""Paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """A path with its `~` followed. `~nobody` stays what it is; `Path.expanduser` would raise."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def absolute(path: str | Path) -> Path:
    """The same in its absolute form."""
    return expanded(path).absolute()
