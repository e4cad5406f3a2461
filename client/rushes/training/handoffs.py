"""Notes of hand-offs whose checkpoint is still being hashed, so that a process that is killed meanwhile loses none.

One small file beside the spool's submissions, written as soon as the weights are linked and removed when the submission
is on disk. The next process of the same run finds those of a dead one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rushes._files import write_whole
from rushes._platform import process_is_dead
from rushes.checkpoints.weights import OpenWeights

ABANDONED_S = 600.0
"""Age at which a note from another machine, whose processes cannot be asked for, is taken for a dead one's."""

_serial = itertools.count()

_written: set[str] = set()
"""Names of this process's notes. Others with its number are older: the trainer of a container is always process 1."""


@dataclass(frozen=True)
class Note:
    """A hand-off: `pending` is the file that has the weights, `source` the trainer's own."""

    run: str
    step: int
    epoch: int | None
    pending: str
    source: str | None
    host: str
    pid: int
    label: str | None = None
    """Label of the samples, so that averaged weights are resumed as averaged ones."""

    @property
    def weights(self) -> OpenWeights:
        """The weights, to be handed over."""
        return OpenWeights(self.pending, source=self.source)


@dataclass(frozen=True)
class HandoffJournal:
    """The notes of one run in a directory, those with one label or with none."""

    directory: Path
    run: str
    label: str | None = None

    def write(self, step: int, epoch: int | None, pending: Path, source: str | None) -> Path | None:
        """Note a hand-off; None where the disk refuses, which only makes a crash cost more."""
        note = Note(self.run, step, epoch, str(pending), source, socket.gethostname(), os.getpid(), self.label)
        path = self.directory / f"{os.getpid()}-{time.time_ns()}-{next(_serial)}.note"
        _written.add(path.name)
        try:
            write_whole(path, json.dumps(asdict(note)))
        except (OSError, ValueError):
            return None
        return path

    def abandoned(self) -> Iterator[tuple[Path, Note]]:
        """Notes of this run whose process is dead and whose weights are there. What is of no use is removed.

        Each comes under a name of this process: whoever looks at the same time does not get it.
        """
        for path in sorted(self.directory.glob("*.note")):
            with contextlib.suppress(OSError):
                try:
                    found: Any = json.loads(path.read_text(encoding="utf-8"))
                    note = Note(**found)
                except (ValueError, TypeError):
                    path.unlink()
                    continue
                if (note.run, note.label) != (self.run, self.label) or not dead(note, path):
                    continue
                if not Path(note.pending).is_file():
                    path.unlink()
                elif mine := self._claimed(path, note):
                    yield mine, note

    def _claimed(self, path: Path, note: Note) -> Path | None:
        """An abandoned note under a new name; None if another process took it first."""
        mine = self.write(note.step, note.epoch, Path(note.pending), note.source)
        if mine is None:  # the disk is full; better handed over twice than never
            return path
        try:
            path.unlink()
        except FileNotFoundError:
            mine.unlink(missing_ok=True)
            return None
        return mine


def dead(note: Note, path: Path) -> bool:
    """True if the process that wrote a note is dead."""
    if note.host != socket.gethostname():
        return time.time() - path.stat().st_mtime > ABANDONED_S
    if note.pid == os.getpid():
        return path.name not in _written
    return process_is_dead(note.pid)
