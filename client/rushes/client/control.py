"""Bulk operations on the queue: orders to workers, cancelling whole runs, forgetting old records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rushes.client.client import Client
from rushes.errors import QueueError
from rushes.wire import keys
from rushes.wire.connection import reachable
from rushes.wire.results import JobState

Order = Literal["pause", "resume", "drain"]

OPEN = (JobState.QUEUED.value, JobState.RUNNING.value)


def order(client: Client, names: Iterable[str], what: Order) -> list[str]:
    """Order workers to take no more samples for now, to go on, or to finish and end; they look every few seconds.

    Args:
        names: names, or their beginnings.

    Returns:
        The whole names of those that got the order.

    Raises:
        QueueError: no living worker has such a name.
        QueueUnavailable: Redis cannot be reached.
    """
    living = [worker["name"] for worker in client.workers()]
    chosen: list[str] = []
    for beginning in names:
        fitting = [name for name in living if name.startswith(beginning)]
        if not fitting:
            raise QueueError(f"no living worker's name begins with {beginning!r}; `rushes workers` lists them")
        chosen += [name for name in fitting if name not in chosen]
    with reachable(client.url):
        for name in chosen:
            if what == "resume":
                client.redis.delete(keys.order(name))
            else:
                client.redis.set(keys.order(name), what, ex=keys.ORDER_TTL_S)
    return chosen


def cancel_all(client: Client, *, run: str | None = None, submission: str | None = None) -> list[str]:
    """Cancel every open sample of a run, or of one submission, however many there are; returns their ids.

    Args:
        submission: an id, or its beginning.

    Raises:
        QueueUnavailable: Redis cannot be reached.
    """
    cancelled: list[str] = []
    for open_ in client.pieces("in_states", run, *OPEN):
        wanted = [
            record
            for record in client.records(open_)
            if submission is None or (record.job is not None and record.job.submission.startswith(submission))
        ]
        cancelled += client.cancel_records(wanted)
    return cancelled


def purge(client: Client, *, state: JobState | None = None, run: str | None = None, older_than_s: float = 0) -> int:
    """Forget the records of ended samples, however many there are; their files stay. Returns how many.

    Args:
        state: only those in this (terminal) state; None for every ended one.
        older_than_s: only those that ended at least this long ago, by the server's clock.

    Raises:
        QueueUnavailable: Redis cannot be reached.
    """
    with reachable(client.url):
        seconds, microseconds = client.redis.time()
    before = seconds + microseconds / 1e6 - older_than_s
    return sum(client.pieces("purge", run, state.value if state else "", f"{before:.6f}"))
