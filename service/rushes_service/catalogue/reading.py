"""A whole run out of Redis at once, without building the full record of every sample.

A run of 200 checkpoints x 20 prompts is 4,000 records; decoding each as a validated job takes longer than reading it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rushes.client.client import Client
from rushes.errors import JobNotFound
from rushes.wire import keys
from rushes.wire.connection import reachable
from rushes_service.catalogue.about import favourites
from rushes_service.catalogue.entries import FIELDS, Entry, as_entry
from rushes_service.catalogue.grid import Grid, arrange
from rushes_service.catalogue.scripts import call

MAX_CELLS = 20_000
"""Newest samples of a run that a grid shows; five times the largest run it is drawn for."""

CHUNK = 500
"""Records per call; about half a megabyte."""


def grid_of(client: Client, run: str, limit: int = MAX_CELLS) -> Grid:
    """The grid of a run, its newest `limit` samples.

    The position in the event stream is read first, so that a reader who follows events from there misses none.

    Raises:
        JobNotFound: no samples of such a run are kept.
    """
    position = newest_event(client)
    entries = list(read_entries(client, run, limit + 1))
    if not entries:
        raise JobNotFound(
            f"no samples of a run {run!r} are kept; `rushes jobs list` and GET /v1/runs show what there is"
        )
    kept = entries[:limit]
    return arrange(run, kept, favourites(client, run), position=position, truncated=len(entries) > limit)


def newest_event(client: Client) -> str:
    """Id of the newest event."""
    with reachable(client.url):
        newest: Any = client.redis.xrevrange(keys.EVENTS, count=1)
    return newest[0][0] if newest else "0-0"


def read_entries(client: Client, run: str, limit: int = MAX_CELLS) -> Iterator[Entry]:
    """Samples of a run, newest first."""
    for start in range(0, limit, CHUNK):
        with reachable(client.url):
            ids: Any = client.redis.zrevrange(keys.run(run), start, min(start + CHUNK, limit) - 1)
        yield from entries_of(client, ids)
        if len(ids) < CHUNK:
            return


def entries_of(client: Client, ids: Sequence[str]) -> Iterator[Entry]:
    """The samples with these ids, in their order, those that have a record."""
    found: list[Any] = call(client, "read", *ids) if ids else []
    for job_id, values in zip(ids, found, strict=True):
        if values[1] is not None:
            yield as_entry(job_id, dict(zip(FIELDS, values, strict=True)))
