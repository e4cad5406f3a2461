"""Spools of the watched directories, handed over to Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from rushes._paths import SPOOL_DIR
from rushes.checkpoints.snapshots import release
from rushes.checkpoints.staging import uploaded
from rushes.client.client import Client
from rushes.errors import QueueUnavailable, RushesError, StagingError, WireError
from rushes.submission.spool import Spool


class Delivery:
    """Hands over what lies in spools, also what a trainer or watcher that ended has left there.

    Args:
        client: where samples are queued.
        output_dirs: whose spools are handed over from the beginning.
        report: receives what happens, a line at a time.
    """

    def __init__(self, client: Client, output_dirs: Iterable[str], report: Callable[[str], None]) -> None:
        self.client = client
        self.report = report
        self._spools: dict[str, Spool] = {}
        for output_dir in output_dirs:
            self.spool(output_dir)
        self._uploaded: set[str] = set()
        """Snapshots that lie in the store now; another submission in the spool may have the same."""
        self._away: type[RushesError] | None = None
        """Why nothing can be handed over, as far as it was reported."""

    def spool(self, output_dir: str) -> Spool:
        """The spool of an output directory."""
        return self._spools.setdefault(output_dir, Spool(Path(output_dir) / SPOOL_DIR))

    @property
    def unsent(self) -> int:
        """Submissions that Redis has not accepted yet; they lie in the spools."""
        return sum(len(spool.waiting()) for spool in self._spools.values())

    def hand_over(self) -> None:
        """Hand over what lies in the spools. Where Redis or the store is away, it stays there."""
        try:
            for spool in self._spools.values():
                for path in spool.waiting():
                    self._deliver(spool, path)
        except (QueueUnavailable, StagingError) as error:
            if self._away is not type(error):
                self.report(f"{error}. Samples wait in the spool until then")
            self._away = type(error)
            return
        while self._uploaded:
            with contextlib.suppress(OSError):
                release(self._uploaded.pop())
        if self._away:
            self.report("everything in the spool is handed over now")
        self._away = None

    def _deliver(self, spool: Spool, path: Path) -> None:
        try:
            submission = spool.read(path)
        except WireError as error:
            self.report(f"{spool.set_aside(path)} is set aside: {error}")
            return
        if submission is not None:
            self.client.hand_over(submission)
            spool.remove(path)
            self._uploaded |= uploaded(submission.jobs)
