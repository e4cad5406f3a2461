"""Pages of samples by time, filtered by state: only states are read until a page is full."""

from __future__ import annotations

from collections.abc import Collection

from rushes.client.client import Client
from rushes.wire import keys
from rushes_service.catalogue.scripts import call

PIECE = 5000
"""Samples whose state is read per call; takes Redis a few milliseconds."""

MAX_SCAN = 500_000
"""Samples scanned for one page; older ones are reached by the next cursor."""


def page_of(
    client: Client, run: str | None, states: Collection[str], oldest_first: bool, limit: int, cursor: str | None
) -> tuple[list[str], str | None]:
    """Up to `limit` ids behind `cursor` and the next cursor, None when there are no more.

    A cursor is a submission time: no two samples have the same.
    """
    index = keys.INDEX if run is None else keys.run(run)
    size = PIECE if states else limit + 1
    found: list[tuple[str, float]] = []
    place = cursor or ""
    for _ in range(0, MAX_SCAN, size):
        oldest = "1" if oldest_first else ""
        looked_at, last, flat = call(client, "select", index, place, oldest, size, *sorted(states))
        found += [(job_id, float(time)) for job_id, time in zip(flat[::2], flat[1::2], strict=True)]
        if len(found) > limit:
            return [job_id for job_id, _ in found[:limit]], f"{found[limit - 1][1]:.6f}"
        if looked_at < size:
            return [job_id for job_id, _ in found], None
        place = f"{float(last):.6f}"
    return [job_id for job_id, _ in found], place
