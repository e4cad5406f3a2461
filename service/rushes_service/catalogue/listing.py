"""Pages of samples by time, filtered by state: only states are read until a page is full."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rushes import keys
from rushes.client import Client
from rushes.connection import reachable

CHUNK = 2000
"""Samples whose state is read per round trip."""

MAX_SCAN = 200_000
"""Samples looked at for one page; what is older is found by its own cursor."""


def page_of(
    client: Client, run: str | None, states: Collection[str], oldest_first: bool, limit: int, cursor: str | None
) -> tuple[list[str], str | None]:
    """Up to `limit` ids behind `cursor` and the next cursor, None when there are no more.

    A cursor is a submission time: no two samples have the same.
    """
    index = keys.INDEX if run is None else keys.run(run)
    size = CHUNK if states else limit + 1
    found: list[tuple[str, float]] = []
    place = cursor
    for _ in range(0, MAX_SCAN, size):
        chunk = read_chunk(client, index, place, oldest_first, size)
        wanted = matching(client, [job_id for job_id, _ in chunk], states)
        found += [(job_id, time) for job_id, time in chunk if job_id in wanted]
        if len(found) > limit:
            return [job_id for job_id, _ in found[:limit]], f"{found[limit - 1][1]:.6f}"
        if len(chunk) < size:
            return [job_id for job_id, _ in found], None
        place = f"{chunk[-1][1]:.6f}"
    return [job_id for job_id, _ in found], place


def read_chunk(
    client: Client, index: str, after: str | None, oldest_first: bool, count: int
) -> list[tuple[str, float]]:
    """Ids and times behind the time `after`, in order."""
    with reachable(client.url):
        found: Any = (
            client.redis.zrangebyscore(index, f"({after}" if after else "-inf", "+inf", 0, count, withscores=True)
            if oldest_first
            else client.redis.zrevrangebyscore(
                index, f"({after}" if after else "+inf", "-inf", 0, count, withscores=True
            )
        )
    return [(job_id, float(time)) for job_id, time in found]


def matching(client: Client, ids: list[str], states: Collection[str]) -> Collection[str]:
    """Those of `ids` that are in one of `states`; all of them if none is named."""
    if not states or not ids:
        return set(ids)
    with reachable(client.url):
        pipeline = client.redis.pipeline(transaction=False)
        for job_id in ids:
            pipeline.hget(keys.job(job_id), "state")
        found: list[Any] = pipeline.execute()
    return {job_id for job_id, state in zip(ids, found, strict=True) if state in states}
