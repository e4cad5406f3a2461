"""Waiting until something may have changed: woken by the kernel where it can, by the clock where it cannot.

A notification only hastens the next look; every directory is looked at every few seconds anyway. So network file
systems, whose kernels hear nothing of what other machines write, need no recognizing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NOTICE_MS = 500
"""How often a wait for notifications looks at the clock."""

FEW_CHANGES_MS = 200
"""Changes this close together are one."""

WATCHED_ENDINGS = (".safetensors", "adapter_config.json")


class FileNotifier:
    """Wakes when a checkpoint in one of `roots` may have changed. Uses watchfiles if it is installed."""

    def __init__(self, roots: Sequence[Path], *, notifications: bool = True) -> None:
        self.roots = roots
        self.notified = notifications and find_spec("watchfiles") is not None
        self._changes: Iterator[Any] | None = None
        self._watched: list[Path] = []

    def wait(self, seconds: float) -> None:
        """Return when something has changed, or `seconds` are over."""
        deadline = time.monotonic() + seconds
        changes = self._notifications() if self.notified else None
        while (left := deadline - time.monotonic()) > 0:
            if changes is None:
                time.sleep(left)
            elif (batch := next(changes, None)) is None:
                self._changes = changes = None  # the watched directory is gone
            elif batch:
                return

    def _notifications(self) -> Iterator[Any] | None:
        """Changes in those of the directories that exist by now."""
        there = [root for root in self.roots if root.is_dir()]
        if there and (self._changes is None or there != self._watched):
            self._watched = there
            self._changes = self._watch(there)
        return self._changes if there else None

    def _watch(self, there: Sequence[Path]) -> Iterator[Any]:
        from watchfiles import watch

        try:
            yield from watch(
                *there,
                watch_filter=lambda _, path: is_checkpoint(path, there),
                debounce=FEW_CHANGES_MS,
                rust_timeout=NOTICE_MS,
                yield_on_timeout=True,
                ignore_permission_denied=True,
            )
        except OSError:  # too many watches, or gone meanwhile
            self.notified = False


def is_checkpoint(path: str, roots: Sequence[Path]) -> bool:
    """True for files that a checkpoint consists of, not for what Rushes itself writes in hidden directories."""
    if not path.lower().endswith(WATCHED_ENDINGS):
        return False
    below = next((Path(path).relative_to(root) for root in roots if Path(path).is_relative_to(root)), Path(path))
    return not any(part.startswith(".") for part in below.parts)
