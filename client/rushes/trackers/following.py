"""Results of runs, followed through Redis into trackers. Whatever has been logged is remembered on disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rushes._platform import WINDOWS
from rushes.client.client import Client
from rushes.errors import QueueUnavailable
from rushes.trackers.base import Tracker
from rushes.wire.base import digest
from rushes.wire.results import JobState, SampleResult

Say = Callable[[str], None]

AWAY_AFTER = 2
"""Results refused in a row that mean that the tracker is away; one alone may be a clip that it cannot read."""


def memory_path(destination: str, run: str) -> Path:
    """Where it is remembered which samples of a run a tracker has: in the user's state directory."""
    state = os.environ.get("LOCALAPPDATA" if WINDOWS else "XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "rushes" / "track" / f"{digest([destination, run])}.ids"


@dataclass
class Destination:
    """One tracker for one run, and the results that it has been given.

    Args:
        name: for messages.
        memory: a file of sample ids, one a line, written behind each `Tracker.log`: a crash between the two logs one
            sample twice and loses none.
    """

    name: str
    tracker: Tracker
    memory: Path
    _logged: set[str] = field(default_factory=set[str])
    _waiting: deque[SampleResult] = field(default_factory=deque[SampleResult])
    _troubled: bool = False

    def __post_init__(self) -> None:
        self.memory.parent.mkdir(parents=True, exist_ok=True)
        if self.memory.exists():
            self._logged = set(self.memory.read_text().split())

    @property
    def waiting(self) -> int:
        """Results that the tracker has not taken yet."""
        return len(self._waiting)

    def take(self, results: Sequence[SampleResult]) -> None:
        """Keep those results that are to be shown and are not yet."""
        queued = {result.id for result in self._waiting}
        for result in results:
            if result.state is JobState.DONE and result.path and result.id not in self._logged | queued:
                self._waiting.append(result)

    def log(self, report: Say) -> int:
        """Log the waiting results; returns how many were logged. Those that the tracker refuses are tried again."""
        count = refused = 0
        troubled = False
        for _ in range(len(self._waiting)):
            result = self._waiting.popleft()
            try:
                self.tracker.log(result)
            except Exception as error:  # noqa: BLE001 - a tracker's package may raise anything: its server is away
                self._waiting.append(result)
                if not (troubled or self._troubled):
                    report(f"{self.name}: {error!r}; trying again")
                troubled = True
                refused += 1
                if refused == AWAY_AFTER:
                    break
                continue
            refused = 0
            self._remember(result, report)
            count += 1
        self._troubled = troubled
        return count

    def _remember(self, result: SampleResult, report: Say) -> None:
        self._logged.add(result.id)
        try:
            with self.memory.open("a") as file:
                file.write(f"{result.id}\n")
        except OSError as error:
            report(f"{self.memory}: {error.strerror}; {result.id} is logged again after a restart")


class Follower:
    """Brings results of one run into trackers.

    Args:
        run: its name.
        destinations: where its results go.
        report: is told what happens, a line at a time.
    """

    def __init__(self, client: Client, run: str, destinations: Sequence[Destination], report: Say) -> None:
        self.client = client
        self.run = run
        self.destinations = destinations
        self.report = report
        self._cursor = "0-0"
        self._away = False

    def turn(self) -> bool:
        """Log all that has ended since the last turn; False while Redis or a tracker is away."""
        try:
            while True:
                results, cursor = self.client.results(self.run, self._cursor)
                if cursor == self._cursor:
                    break
                self._cursor = cursor
                for destination in self.destinations:
                    destination.take(results)
        except QueueUnavailable as error:
            if not self._away:
                self.report(str(error))
            self._away = True
        else:
            self._away = False
        for destination in self.destinations:
            if count := destination.log(self.report):
                self.report(f"{self.run}: {count} {'sample' if count == 1 else 'samples'} to {destination.name}")
        return not self._away and not any(destination.waiting for destination in self.destinations)

    def close(self) -> None:
        """Close the trackers."""
        for destination in self.destinations:
            destination.tracker.close()
