"""Checkpoints that are waited for until they are complete and their writer has done with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushes.checkpoints.adapters import adapter_files
from rushes.checkpoints.safetensors import METADATA, read_header
from rushes.errors import CheckpointError, CheckpointFormat, CheckpointIncomplete, CheckpointMissing
from rushes.watch.finding import Found, Identity
from rushes.wire.base import unicode_text

STUCK_S = 120.0
"""How long an incomplete file may stay as it is before somebody should hear of it."""


@dataclass
class Seen:
    """A checkpoint that is waited for, since when (by the monotonic clock), and what is known of it."""

    identity: Identity
    since: float
    whole: bool = False
    told: bool = False


class Waiting:
    """Tells which checkpoints are ready.

    Args:
        settle_s: how long, in seconds, a complete checkpoint must have stayed as it is. No clock but our own is asked:
            times of a network file system are those of another machine.
        report: receives a line about each file that never gets ready.
    """

    def __init__(self, settle_s: float, report: Callable[[str], None]) -> None:
        self.settle_s = settle_s
        self.report = report
        self._seen: dict[Path, Seen] = {}

    @property
    def settling(self) -> bool:
        """True while a complete checkpoint is only waited for to stay as it is."""
        return any(seen.whole for seen in self._seen.values())

    @property
    def incomplete(self) -> list[Path]:
        """Checkpoints that are being written, or were cut short."""
        return sorted(path for path, seen in self._seen.items() if not (seen.whole or seen.told))

    def ready(self, found: Found) -> Mapping[str, Any] | None:
        """Metadata of a checkpoint that is complete and has settled; else None, and it is waited for."""
        now = time.monotonic()
        seen = self._seen.get(found.path)
        if seen is None or seen.identity != found.identity:
            seen = self._seen[found.path] = Seen(found.identity, now)
        try:
            metadata = metadata_of(found)
        except CheckpointMissing:
            return None
        except CheckpointIncomplete as error:
            if now - seen.since > STUCK_S:
                self._report_once(seen, str(error))
            return None
        except CheckpointError as error:
            self._report_once(seen, f"left alone: {error}")
            return None
        seen.whole = True
        return metadata if now - seen.since >= self.settle_s else None

    def awaits(self, found: Found) -> bool:
        """True for a checkpoint that is not complete or settled yet, and may still become so."""
        seen = self._seen.get(found.path)
        return seen is not None and not seen.told

    def done(self, path: Path) -> None:
        """Wait no longer for a checkpoint."""
        self._seen.pop(path, None)

    def keep(self, there: set[Path]) -> None:
        """Forget those that are not there any more: renamed or deleted."""
        for path in self._seen.keys() - there:
            del self._seen[path]

    def _report_once(self, seen: Seen, text: str) -> None:
        """Say something about a file, once for each of its contents."""
        if not seen.told:
            self.report(text)
        seen.told = True


def metadata_of(found: Found) -> Mapping[str, Any]:
    """Metadata of a complete checkpoint.

    Raises:
        CheckpointIncomplete: tensors, or an adapter's configuration, are still missing.
        CheckpointError: it is gone, no safetensors file, or has a name that no other machine could write.
    """
    name = unicode_text(str(found.path))
    if name != str(found.path):
        raise CheckpointFormat(f"{name}: its name is not Unicode; rename it")
    if found.path != found.weights:
        try:
            adapter_files(found.path)
        except CheckpointMissing as error:
            raise CheckpointIncomplete(f"{error}; is it still being written?") from None
    metadata: Mapping[str, Any] | None = read_header(found.weights).get(METADATA)
    return metadata or {}
