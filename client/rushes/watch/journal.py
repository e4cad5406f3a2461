"""Which checkpoints of a watched directory are known, so that a watcher that starts again goes on where it stopped.

Job ids are made from content: should a journal be lost, checkpoints that were sampled are not sampled again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rushes._files import write_whole
from rushes.watch.finding import Found, Identity, RunKey

SAMPLED = "sampled"
SKIPPED = "skipped"
"""Was there before the watcher; `--backfill` samples it."""


class Journal:
    """One JSON file per watched directory: relative path -> identity and what was done.

    Args:
        path: of the file; made with its directory at the first `save`.
        root: the watched directory.

    A file that cannot be read counts as none.
    """

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.root = root
        self.exists = path.is_file()
        self.from_zero: set[RunKey] = set()
        """Runs whose first epoch is called 0; the file that says so may be gone."""
        self._known: dict[str, tuple[Identity, str]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            self.from_zero = {(root / str(below), name) for below, name in content.get("from_zero", ())}
            known = content["known"]
            self._known = {name: (Identity(*map(int, entry[:3])), str(entry[3])) for name, entry in known.items()}

    def knows(self, found: Found) -> bool:
        """True for a checkpoint that has been dealt with, under this name or the one it had before it was renamed."""
        known = self._known.get(self._name(found))
        if known is not None and known[0][1:] == found.identity[1:]:
            return True  # a directory that was copied or restored has other inodes
        return any(found.identity == identity for identity, _ in self._known.values())

    def note(self, found: Found, done: str) -> None:
        """Remember a checkpoint as `SAMPLED` or `SKIPPED`; on disk after `save`."""
        self._known[self._name(found)] = (found.identity, done)

    def forget_skipped(self) -> None:
        """Forget those that were there before."""
        self._known = {name: entry for name, entry in self._known.items() if entry[1] != SKIPPED}

    def prune(self, there: Sequence[Found]) -> None:
        """Forget those that are gone, given all that are there; on disk after `save`.

        Not where nothing is there at all: a file system that is not mounted looks the same.
        """
        if there:
            identities = {found.identity for found in there}
            self._known = {
                name: entry
                for name, entry in self._known.items()
                if entry[0] in identities or (self.root / name).exists() or not (self.root / name).parent.exists()
            }

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: the directory cannot be written.
        """
        known = {name: [*identity, done] for name, (identity, done) in self._known.items()}
        from_zero = sorted(([below.relative_to(self.root).as_posix(), name] for below, name in self.from_zero), key=str)
        write_whole(self.path, json.dumps({"version": 1, "known": known, "from_zero": from_zero}, indent=0))
        self.exists = True

    def _name(self, found: Found) -> str:
        return found.path.relative_to(self.root).as_posix()
