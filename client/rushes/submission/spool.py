"""The write-ahead spool: what is to be handed over lies on disk until Redis has accepted it.

One JSON file per submission. Job ids are made from content, so handing the same file over twice, or by two
processes at once, makes one set of samples; no locks are needed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushes._files import write_whole
from rushes.errors import WireError
from rushes.submission.build import Refused
from rushes.wire.jobs import SampleJob
from rushes.wire.results import JobError

_serial = itertools.count()


@dataclass(frozen=True)
class Submission:
    """One submission on its way: jobs to queue, and prompts refused before that."""

    jobs: Sequence[SampleJob]
    refused: Sequence[Refused] = ()

    @property
    def all(self) -> list[SampleJob]:
        """Jobs that are to be queued, then those that were refused."""
        return [*self.jobs, *(refused.job for refused in self.refused)]

    def encode(self) -> str:
        """This submission as JSON text."""
        refused = [[r.job.encode(), r.error.model_dump(mode="json")] for r in self.refused]
        return json.dumps({"jobs": [job.encode() for job in self.jobs], "refused": refused})

    @classmethod
    def decode(cls, raw: str) -> Submission:
        """Read a submission back.

        Raises:
            WireError: the text is not a submission this version understands.
        """
        try:
            data: Any = json.loads(raw)
            refused = [Refused(SampleJob.decode(job), JobError(**error)) for job, error in data["refused"]]
            return cls([SampleJob.decode(job) for job in data["jobs"]], refused)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise WireError(f"not a spooled submission: {error}", raw) from error


class Spool:
    """A directory of submissions, oldest first. Made when the first submission is written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, submission: Submission) -> Path:
        """Put a submission on disk, whole or not at all."""
        path = self.directory / f"{time.time_ns():020d}-{os.getpid()}-{next(_serial)}.json"
        write_whole(path, submission.encode())
        return path

    def waiting(self) -> list[Path]:
        """Submissions on disk, oldest first."""
        return sorted(self.directory.glob("*.json"))

    def read(self, path: Path) -> Submission | None:
        """A submission, or None when another process has handed it over meanwhile, or the file cannot be read.

        Raises:
            WireError: the file is not a submission; `set_aside` keeps it out of the way.
        """
        try:
            return Submission.decode(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return None

    def remove(self, path: Path) -> None:
        """Delete a submission that Redis has accepted. One that stays is handed over again, to no effect."""
        with contextlib.suppress(OSError):
            path.unlink()

    def set_aside(self, path: Path) -> Path:
        """Keep a file that cannot be read, under a name that is not tried again."""
        with contextlib.suppress(OSError):
            return path.replace(path.with_suffix(".bad"))
        return path
