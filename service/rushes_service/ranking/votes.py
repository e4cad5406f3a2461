"""Votes on pairs of samples: kept in Redis, and as JSON lines beside the samples.

    <output_dir>/sample/rushes-votes.jsonl

Each line is a vote, or the withdrawal of one (`{"withdrawn": <id>}`). Lines are appended under a lock, so that several
processes may vote on one run; a line that cannot be read is skipped. Whatever Redis has lost is read back from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from rushes.client.client import Client
from rushes.errors import OutputError
from rushes.wire import keys
from rushes.wire.base import FrozenModel
from rushes.wire.connection import reachable

log = logging.getLogger(__name__)

FILE_NAME = "rushes-votes.jsonl"

Choice = Literal["left", "right", "equal", "bad", "skip"]
"""`bad`: both are; it ranks neither before the other, as `equal` does. `skip` says nothing."""

SHARES: dict[str, float] = {"left": 1.0, "right": 0.0, "equal": 0.5, "bad": 0.5}
"""What the left one gets of a vote."""


class Side(FrozenModel):
    """One of the two samples of a vote, with what is needed to read the vote without its record."""

    sample: str
    contender: str = Field(description="Key of its checkpoint at its strength.")
    title: str = ""
    run: str = ""


class Vote(FrozenModel):
    """One vote. `at` is in seconds since 1970."""

    id: str
    at: float
    voter: str
    row: str = Field(default="", description="Key of the prompt and seed that both samples share.")
    left: Side
    right: Side
    choice: Choice

    @property
    def share(self) -> float | None:
        """What the left one gets; None for a skipped pair."""
        return SHARES.get(self.choice)


def new_id() -> str:
    """Id of a vote."""
    return secrets.token_hex(12)


class VoteStore:
    """The votes on some runs, in Redis and in the directories of their samples.

    Args:
        runs: names of the runs.
        directories: where votes are written to and read from.
        read_also: directories whose votes are only read.

    Methods raise `QueueUnavailable` when Redis cannot be reached.
    """

    def __init__(
        self, client: Client, runs: Sequence[str], directories: Sequence[Path], read_also: Sequence[Path] = ()
    ) -> None:
        self._client = client
        self._runs = tuple(runs)
        self._directories = tuple(directories)
        self._read = tuple(dict.fromkeys((*directories, *read_also)))

    def votes(self) -> list[Vote]:
        """All votes by time; those that are only on disk are put back into Redis."""
        with reachable(self._client.url):
            pipeline = self._client.redis.pipeline(transaction=False)
            for run in self._runs:
                pipeline.hgetall(keys.votes(run))
            texts: dict[str, str] = {name: text for found in pipeline.execute() for name, text in found.items()}
        known = dict(parsed(texts.values()))
        on_disk = read_files(self._read)
        lost = [vote for vote in on_disk.values() if vote.id not in known]
        if lost:
            self._remember(lost)
        return sorted({**known, **{vote.id: vote for vote in lost}}.values(), key=lambda vote: (vote.at, vote.id))

    def add(self, vote: Vote) -> bool:
        """Keep a vote; False if it could be kept in Redis only.

        Raises:
            OutputError: a file of votes exists and cannot be written; nothing is kept.
        """
        kept = self._append(vote.model_dump_json(exclude_defaults=True))
        self._remember([vote])
        return kept

    def withdraw(self, vote: Vote) -> None:
        """Take a vote back."""
        self._append(json.dumps({"withdrawn": vote.id}))
        with reachable(self._client.url):
            for run in runs_of(vote, self._runs):
                self._client.redis.hdel(keys.votes(run), vote.id)

    def _remember(self, votes: Iterable[Vote]) -> None:
        with reachable(self._client.url):
            pipeline = self._client.redis.pipeline(transaction=True)
            for vote in votes:
                for run in runs_of(vote, self._runs):
                    pipeline.hset(keys.votes(run), vote.id, vote.model_dump_json(exclude_defaults=True))
            for run in self._runs:
                pipeline.expire(keys.votes(run), keys.ABOUT_TTL_S)
            pipeline.execute()

    def _append(self, line: str) -> bool:
        kept = False
        for directory in self._directories:
            try:
                append(directory / FILE_NAME, line)
                kept = True
            except OSError as error:
                if (directory / FILE_NAME).exists():  # a later reading would bring back what is withdrawn
                    raise OutputError(f"{directory / FILE_NAME} cannot be written: {error.strerror}") from error
                log.warning("votes are not kept in %s: %s", directory, error.strerror)
        return kept


def runs_of(vote: Vote, runs: Sequence[str]) -> set[str]:
    """The runs that a vote is filed under."""
    return {vote.left.run, vote.right.run} & set(runs) or set(runs)


def append(path: Path, line: str) -> None:
    """Append one line; a line that was cut short before it is ended first."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        whole = not size or os.pread(descriptor, 1, size - 1) == b"\n"
        os.write(descriptor, f"{'' if whole else chr(10)}{line}\n".encode())
    finally:
        os.close(descriptor)


def read_files(directories: Iterable[Path]) -> dict[str, Vote]:
    """The votes in some directories that were not withdrawn, by id."""
    found: dict[str, Vote] = {}
    for directory in directories:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = (directory / FILE_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
        found.update(parsed(lines))
    for directory in directories:
        for vote_id in withdrawn(directory / FILE_NAME):
            found.pop(vote_id, None)
    return found


def withdrawn(path: Path) -> Iterator[str]:
    """Ids of votes that were taken back."""
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                fields: Any = json.loads(line)
                if isinstance(fields, dict) and "withdrawn" in fields:
                    yield str(fields["withdrawn"])


def parsed(texts: Iterable[str]) -> Iterator[tuple[str, Vote]]:
    """Votes by id; texts that are none are skipped."""
    for text in texts:
        with contextlib.suppress(ValidationError):
            vote = Vote.model_validate_json(text)
            yield vote.id, vote
